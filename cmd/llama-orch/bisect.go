// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	bundle "github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/proof"
)

type bisectCmd struct {
	A          string `arg:"" help:"A file with a proof bundle, or the id of a task that has one."`
	B          string `arg:"" help:"Another one, of the same request on another fingerprint, with another answer."`
	PromptFile string `placeholder:"FILE" help:"What was asked, if neither a bundle nor the server has it any more, as replay takes it."`
	NoRun      bool   `help:"Only compare; run nothing."`
}

// bisected is what --json prints.
type bisected struct {
	Same     bool         `json:"same"`     // the answers are equal
	Differ   []proof.Fact `json:"differ"`   // the parts that the fingerprints have otherwise
	Runs     []proof.Ran  `json:"runs"`     // the two, and what was run again
	Suspects []string     `json:"suspects"` // the parts that may have changed the answer
}

// Run finds what changed an answer (LO-942).
func (c *bisectCmd) Run(a *app) error {
	first, _, err := findProof(a, c.A)
	if err != nil {
		return err
	}
	second, _, err := findProof(a, c.B)
	if err != nil {
		return err
	}
	for _, d := range proof.Compare(first, second) {
		if d.Kind == proof.Asked {
			return usagef("tasks %s and %s were not asked the same, so their answers may differ: %s is %s and %s", first.TaskID, second.TaskID, d.Field, dash(d.A), dash(d.B))
		}
	}
	out := bisected{Same: first.Transcript.SHA256 == second.Transcript.SHA256 && sameResult(first, second)}
	one, other := first.Placement.Fingerprint, second.Placement.Fingerprint
	if one == other && !out.Same {
		return fmt.Errorf("tasks %s and %s ran on the same fingerprint, %s, and gave different answers: for a strict task that breaks its promise", first.TaskID, second.TaskID, one)
	}
	out.Runs = []proof.Ran{{Fingerprint: one, Like: proof.LikeA, Where: first.TaskID}, {Fingerprint: other, Like: proof.LikeB, Where: second.TaskID}}
	if !out.Same && !c.NoRun {
		again, err := c.elsewhere(a, first, second)
		if err != nil {
			return err
		}
		out.Runs = append(out.Runs, again...)
	}
	if err := findFacts(a, out.Runs); err != nil {
		return err
	}
	if f, g := out.Runs[0].Facts, out.Runs[1].Facts; f != nil && g != nil {
		out.Differ = proof.FactsThatDiffer(*f, *g)
	}
	if !out.Same {
		out.Suspects = proof.Suspects(out.Runs)
	}
	if a.json {
		return a.printJSON(out)
	}
	return c.show(a, out)
}

func sameResult(a, b *bundle.Bundle) bool {
	return a.Result == nil && b.Result == nil || a.Result != nil && b.Result != nil && a.Result.SHA256 == b.Result.SHA256
}

// elsewhere runs the request once on each pool that serves its model.
func (c *bisectCmd) elsewhere(a *app, first, second *bundle.Bundle) (runs []proof.Ran, err error) {
	if err := fill(a, first, c.PromptFile); err != nil {
		return nil, err
	}
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		return nil, err
	}
	models := []string{first.Request.ModelRef, first.Placement.ModelID, second.Placement.ModelID}
	for _, pool := range pools {
		if !pool.Ready || !slices.Contains(models, pool.Model.ID) && !slices.Contains(models, pool.Model.Ref) {
			continue
		}
		a.note("running it again on pool %s", pool.ID)
		id, got, err := rerun(a, first, pinned(pool.ID))
		if refused, ok := errors.AsType[*sdk.Error](err); ok {
			a.note("pool %s did not answer: %s", pool.ID, oneLine(refused.Message))
			continue
		}
		if err != nil {
			return nil, err
		}
		if got.end == nil {
			return nil, fmt.Errorf("task %s ended early, and its answer is no whole one: bisect needs tasks that completed", first.TaskID)
		}
		ran := proof.Ran{Fingerprint: got.end.Receipt.Fingerprint, Like: proof.Neither, Where: id}
		switch {
		case matches(first, got):
			ran.Like = proof.LikeA
		case matches(second, got):
			ran.Like = proof.LikeB
		}
		runs = append(runs, ran)
	}
	return runs, nil
}

func matches(p *bundle.Bundle, got replay) bool {
	if p.Result != nil {
		return p.CompareResult(got.end.Result).Match
	}
	return p.Compare(got.tokens, nil).Match
}

// findFacts asks the server what the fingerprints stand for.
func findFacts(a *app, runs []proof.Ran) error {
	known := map[string]*sdk.Facts{}
	for i, r := range runs {
		if _, asked := known[r.Fingerprint]; !asked {
			found, err := a.client.Fingerprint(a.ctx, r.Fingerprint)
			if e, ok := errors.AsType[*sdk.Error](err); ok && e.Code == sdk.ErrorCodeNotFound {
				a.note("this server does not know what fingerprint %s stands for", r.Fingerprint)
			} else if err != nil {
				return err
			}
			known[r.Fingerprint] = nil
			if found != nil {
				known[r.Fingerprint] = &found.Facts
			}
		}
		runs[i].Facts = known[r.Fingerprint]
	}
	return nil
}

func (c *bisectCmd) show(a *app, out bisected) error {
	ran := [][]string{{"FINGERPRINT", "ANSWER", "TASK"}}
	for _, r := range out.Runs {
		ran = append(ran, []string{r.Fingerprint, map[proof.Like]string{proof.LikeA: "as A", proof.LikeB: "as B", proof.Neither: "another"}[r.Like], r.Where})
	}
	differ := [][]string{{"PART", "A", "B"}}
	for _, f := range out.Differ {
		differ = append(differ, []string{f.Name, oneLine(f.A), oneLine(f.B)})
	}
	if err := a.tables(ran, differ); err != nil {
		return err
	}
	said := "The answers are the same, although the fingerprints differ."
	switch {
	case out.Same && len(out.Differ) == 0:
		said = "The answers are the same."
	case out.Same:
	case len(out.Suspects) > 0:
		said = "What may have changed the answer: " + strings.Join(out.Suspects, ", ") + "."
	default:
		said = "No part of the fingerprints that is known tells the answers apart."
	}
	fmt.Fprintln(a.out, "\n"+said)
	return nil
}
