// SPDX-License-Identifier: GPL-3.0-or-later

// Package determinism runs a task again and compares the answers by the token, and keeps transcripts that replay without a server, byte for byte.
package determinism

import (
	"context"
	"fmt"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/llm"
)

// Report is what runs of one request have shown.
type Report struct {
	Same bool  `json:"same"` // every run answered as the first one did
	Runs []Run `json:"runs"`
	// Different is the first difference of the first run that has one.
	Different *Difference `json:"different,omitempty"`
}

// Run is one run.
type Run struct {
	TaskID           string          `json:"task_id"`
	Determinism      sdk.Determinism `json:"determinism"`
	Fingerprint      string          `json:"fingerprint"`
	RequestDigest    string          `json:"request_digest"`
	TranscriptSHA256 string          `json:"transcript_sha256"`
	Tokens           int             `json:"tokens"`
}

// Difference is where a run differs from the first one.
type Difference struct {
	Run    int    `json:"run"`    // from 1 on; 0 is the first
	Token  int    `json:"token"`  // the first that differs
	Before string `json:"before"` // the answer's last words before it
	Want   string `json:"want"`   // the first run's token; empty: it had ended
	Got    string `json:"got"`
	// Fingerprints says that the runs have different ones: nothing promises that they answer the same.
	Fingerprints bool `json:"fingerprints"`
}

func (d *Difference) String() string {
	text := fmt.Sprintf("run %d differs at token %d, behind %q: %q instead of %q", d.Run, d.Token, d.Before, d.Got, d.Want)
	if d.Fingerprints {
		text += "; it ran on another fingerprint"
	}
	return text
}

// before is how many pieces a Difference shows before it.
const before = 8

// Repeat runs a request n times, one after another, and compares the answers with the first. A request without a seed takes the one that the first run was given. It must
// not name its task: the same id would be the same task.
func Repeat(ctx context.Context, caller llm.Caller, n int, request *sdk.TaskRequest) (*Report, error) {
	switch {
	case n < 2:
		return nil, fmt.Errorf("%d runs compare nothing: ask for at least 2", n)
	case request.TaskID != "":
		return nil, fmt.Errorf("the request names the task %s, which runs once: leave out its task_id", request.TaskID)
	}
	own := *request
	report := &Report{Same: true}
	var first []proof.Piece
	var firstRun Run
	for i := range n {
		var pieces []proof.Piece
		var kept sdk.Determinism
		a, err := llm.Stream(ctx, caller, &own, func(e sdk.Event) error {
			if s, ok := e.(sdk.Started); ok {
				kept = s.Determinism
			}
			if p, ok := sdk.Piece(e); ok {
				pieces = append(pieces, p)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("run %d: %w", i, err)
		}
		run := Run{
			TaskID: a.TaskID, Determinism: kept, Fingerprint: a.Receipt.Fingerprint, RequestDigest: a.Receipt.RequestDigest,
			TranscriptSHA256: a.Receipt.TranscriptSHA256, Tokens: len(pieces),
		}
		report.Runs = append(report.Runs, run)
		if i == 0 {
			first, firstRun, own.Seed = pieces, run, &a.Seed
			continue
		}
		if d := differ(first, pieces); d != nil {
			report.Same = false
			if report.Different == nil {
				d.Run, d.Fingerprints = i, run.Fingerprint != firstRun.Fingerprint
				report.Different = d
			}
		}
	}
	return report, nil
}

// differ is the first difference of two answers, or nil.
func differ(want, got []proof.Piece) *Difference {
	for i := range max(len(want), len(got)) {
		if i < len(want) && i < len(got) && want[i] == got[i] {
			continue
		}
		d := &Difference{Token: i}
		for _, p := range want[max(0, i-before):i] {
			d.Before += p.String()
		}
		if i < len(want) {
			d.Want = want[i].String()
		}
		if i < len(got) {
			d.Got = got[i].String()
		}
		return d
	}
	return nil
}
