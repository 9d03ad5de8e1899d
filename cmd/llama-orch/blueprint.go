// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/applet"
	"github.com/llama-orch/llama-orch/utils/blueprint"
)

// maxBlueprint bounds a blueprint's file, and each input that is read from one.
const maxBlueprint = 4 << 20

// blueprintCmd holds the commands for graphs of applets.
type blueprintCmd struct {
	Run   blueprintRunCmd   `cmd:"" help:"Run a blueprint; a run that was broken off goes on where it was."`
	Plan  blueprintPlanCmd  `cmd:"" help:"Say which steps would run, in which order; nothing runs."`
	Check blueprintCheckCmd `cmd:"" help:"Look for what is wrong with a blueprint, and say where."`
	Show  blueprintShowCmd  `cmd:"" help:"Show what the last run in a folder did."`
}

type blueprintFile struct {
	File string `arg:"" type:"path" help:"The blueprint, a YAML or JSON file."`
}

func (c blueprintFile) parse() (*blueprint.Blueprint, error) {
	text, err := readFile(nil, c.File, maxBlueprint)
	if err != nil {
		return nil, err
	}
	b, err := blueprint.Parse(c.File, text, applet.All())
	if err != nil {
		return nil, usageError{err}
	}
	return b, nil
}

type blueprintRunCmd struct {
	blueprintFile
	Dir      string            `placeholder:"DIR" type:"path" help:"Where results and the record of the run are kept (default: .blueprint/NAME beside the file)."`
	Input    map[string]string `short:"i" placeholder:"NAME=VALUE" mapsep:"none" help:"An input: JSON, or else a text; @FILE reads a text from a file. Again for more."`
	Parallel int               `default:"4" placeholder:"N" help:"How many applets run at once (default: 4)."`
	appletEnv
}

// Run runs a blueprint and prints its result: a text as it is, everything else as JSON.
func (c *blueprintRunCmd) Run(a *app) error {
	b, err := c.parse()
	if err != nil {
		return err
	}
	inputs := map[string]any{}
	for name, value := range c.Input {
		if inputs[name], err = inputValue(value); err != nil {
			return err
		}
	}
	env, closes, err := c.open(a)
	if err != nil {
		return err
	}
	dir := c.Dir
	if dir == "" {
		dir = filepath.Join(filepath.Dir(c.File), ".blueprint", b.Name)
	}
	r := &blueprint.Runner{Catalog: applet.All(), Env: *env, Dir: dir, Parallel: c.Parallel, Step: a.stepEnded, Proof: a.proofOf}
	result, err := r.Run(a.ctx, b, inputs)
	err = errors.Join(err, closes())
	if wrong, ok := errors.AsType[*blueprint.InputError](err); ok {
		return usageError{wrong}
	}
	if err != nil {
		a.note("what was done is kept: the same command goes on from there")
		return err
	}
	var text string
	if !a.json && json.Unmarshal(result, &text) == nil {
		_, err = io.WriteString(a.out, strings.TrimSuffix(text, "\n")+"\n")
		return err
	}
	return a.printJSON(result)
}

// proofOf fetches a task's proof bundle as the server keeps it. A task of a server that keeps none has none.
func (a *app) proofOf(ctx context.Context, taskID string) ([]byte, error) {
	_, text, err := a.client.Proof(ctx, taskID)
	if e, ok := errors.AsType[*sdk.Error](err); ok && e.Status == http.StatusNotFound {
		return nil, nil
	}
	return text, err
}

// inputValue reads an input as it was typed.
func inputValue(typed string) (any, error) {
	if name, ok := strings.CutPrefix(typed, "@"); ok {
		text, err := readFile(nil, name, maxBlueprint)
		return string(text), err
	}
	var value any
	if json.Unmarshal([]byte(typed), &value) == nil {
		return value, nil
	}
	return typed, nil
}

// stepEnded says on stderr how a step ended, if somebody looks or asks for it.
func (a *app) stepEnded(e blueprint.Entry) {
	if !a.verbose && !terminal(a.err) {
		return
	}
	took := ""
	if e.Micros > 0 {
		took = "  " + duration(max(e.Micros/1000, 1))
	}
	a.note("%-7s  %s  %s%s", e.State, e.Path, e.Use, took)
}

type blueprintPlanCmd struct{ blueprintFile }

// Run shows the steps in an order in which they may run.
func (c *blueprintPlanCmd) Run(a *app) error {
	b, err := c.parse()
	if err != nil {
		return err
	}
	plan := b.Plan()
	if a.json {
		return a.printJSON(plan)
	}
	rows := [][]string{{"STEP", "APPLET", "AFTER", "NOTES"}}
	for _, s := range plan {
		rows = append(rows, []string{s.Path, s.Use, strings.Join(s.After, ", "), strings.Join(s.Notes, "; ")})
	}
	return a.table(rows)
}

type blueprintCheckCmd struct{ blueprintFile }

// Run checks a blueprint.
func (c *blueprintCheckCmd) Run(a *app) error {
	b, err := c.parse()
	if usage, ok := errors.AsType[usageError](err); ok && a.json {
		if wrong, ok := errors.AsType[*blueprint.CheckError](usage.error); ok {
			if err := a.printJSON(map[string]any{"problems": wrong.Problems}); err != nil {
				return err
			}
		}
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"problems": []blueprint.Problem{}})
	}
	_, err = fmt.Fprintf(a.out, "%s is in order: %d steps\n", oneLine(b.Name), len(b.Plan()))
	return err
}

type blueprintShowCmd struct {
	Dir string `arg:"" type:"path" help:"The folder of the run."`
}

// Run shows what a run did, as a tree.
func (c *blueprintShowCmd) Run(a *app) error {
	if info, err := os.Stat(c.Dir); err != nil || !info.IsDir() {
		return usagef("there is no folder %s: name the one that `blueprint run` was given by --dir", c.Dir)
	}
	r, err := blueprint.Show(c.Dir)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	state := string(r.State)
	if r.State == blueprint.Began {
		state = "not ended: it runs, or was broken off"
	}
	fmt.Fprintf(a.out, "%s: %s\n", oneLine(r.Name), state)
	rows := [][]string{{"STEP", "STATE", "APPLET", "TRIES", "TOOK", "TASKS", "ERROR"}}
	for _, s := range r.Steps {
		took := ""
		if s.Micros > 0 {
			took = duration(max(time.Duration(s.Micros*1000).Milliseconds(), 1))
		}
		rows = append(rows, []string{s.Path, string(s.State), s.Use, positive(s.Tries), took, strings.Join(s.Tasks, " "), s.Error})
	}
	if err := a.tables(rows); err != nil {
		return err
	}
	for _, name := range r.Proofs {
		fmt.Fprintf(a.out, "proof: %s\n", filepath.Join(c.Dir, name))
	}
	return nil
}
