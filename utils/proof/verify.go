// SPDX-License-Identifier: GPL-3.0-or-later

// Package proof works with the proof bundles that tasks leave behind: it collects them, verifies them without a server, compares two, and finds what
// made two answers differ. A bundle's form is in contracts/proof.
package proof

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/llama-orch/llama-orch/contracts/proof"
)

// State is what became of a check.
type State string

// The states of a check.
const (
	Holds  State = "holds"
	Fails  State = "fails"
	Unseen State = "unseen" // it cannot be checked with the bundle alone
)

// Check is one thing that was looked at.
type Check struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Why   string `json:"why,omitempty"` // where it does not hold, or cannot be checked
}

// Report is what a look at a bundle found.
type Report struct {
	TaskID string  `json:"task_id"`
	SHA256 string  `json:"sha256"` // of the bundle's bytes; the server's artifact of the bundle is called sha256-<this>
	OK     bool    `json:"ok"`     // nothing fails
	Checks []Check `json:"checks"`
}

func (r *Report) add(name string, ok bool, why string, args ...any) {
	if ok {
		r.Checks = append(r.Checks, Check{Name: name, State: Holds})
		return
	}
	r.OK = false
	r.Checks = append(r.Checks, Check{name, Fails, fmt.Sprintf(why, args...)})
}

func (r *Report) unseen(name, why string) {
	r.Checks = append(r.Checks, Check{name, Unseen, why})
}

// Verify checks a bundle by itself: that it is in its one form, that digests are those of the texts that it keeps, and that its parts say the same. It asks
// nobody. A text that is no bundle is a Report with that one failure.
func Verify(text []byte) Report {
	text = bytes.TrimRight(text, "\n")
	r := Report{SHA256: proof.Digest(text), OK: true}
	b, err := proof.Decode(text)
	if err != nil {
		r.add("form", false, "%v", err)
		return r
	}
	r.TaskID = b.TaskID
	again, err := b.Encode()
	r.add("form", err == nil && bytes.Equal(again, text), "it is a bundle, but not written as a server writes it: fields were added, moved or spaced")
	r.words(b)
	r.transcript(b)
	r.receipt(b)
	r.outcome(b)
	r.times(b)
	r.unseen("event ids", "the ids of the events cover the predictions that the stream showed, which a bundle does not keep: "+
		"`llama-orch stream` checks them while the server has the task")
	return r
}

// words compares what was asked with its digests.
func (r *Report) words(b *proof.Bundle) {
	const name = "what was asked"
	in := b.Request
	if !in.Kept {
		r.unseen(name, "the bundle has only its digests: set artifacts.keep_prompts to keep the words of later tasks")
		return
	}
	w := proof.Words{Prompt: in.Prompt, Messages: in.Messages, Inputs: in.Inputs}
	if in.Chat != nil {
		w.Chat = *in.Chat
	}
	kept := *b // Keep writes into what it is asked of
	r.add(name, kept.Keep(w), "the words are not those that the digests are of")
}

// transcript compares the answer with its digest.
func (r *Report) transcript(b *proof.Bundle) {
	const name = "what was answered"
	switch {
	case b.Result != nil && b.Result.Value != nil:
		r.add(name, b.CompareResult(b.Result.Value).Match, "the result is not the one that its digest is of")
	case b.Result != nil, !b.Transcript.Kept:
		r.unseen(name, "the bundle has only its digest: set artifacts.keep_transcripts to keep the answers of later tasks")
	default:
		r.add(name, true, "") // Decode has compared it
	}
	r.add("the number of tokens", b.Metrics.TokensOut == b.Transcript.Tokens || b.Result != nil, "the figures say %d tokens, the transcript %d", b.Metrics.TokensOut, b.Transcript.Tokens)
}

// receipt compares the receipt with the rest.
func (r *Report) receipt(b *proof.Bundle) {
	const name = "the receipt"
	of := b.Receipt
	if of == nil {
		r.add(name, b.Outcome != "completed", "the task completed, and there is no receipt")
		return
	}
	form := b.Transcript.Form
	if form == "" {
		form = proof.FormText
	}
	var other []string
	for _, pair := range []struct {
		what string
		same bool
	}{
		{"the seed", of.Seed == b.Seed},
		{"the promise", of.Determinism == b.Determinism},
		{"the fingerprint", of.Fingerprint == b.Placement.Fingerprint},
		{"the replica", of.ReplicaID == b.Placement.ReplicaID},
		{"the engine's version", of.EngineVersion == b.Placement.EngineVersion},
		{"the request's digest", of.RequestDigest == b.RequestDigest},
		{"the transcript's digest", b.Result != nil || of.TranscriptSHA256 == b.Transcript.SHA256},
		{"the transcript's form", b.Result != nil || of.TranscriptForm == "" || of.TranscriptForm == form},
	} {
		if !pair.same {
			other = append(other, pair.what)
		}
	}
	r.add(name, len(other) == 0, "it has another value than the rest of the bundle for %s", strings.Join(other, ", "))
}

// outcome compares how the task ended with what it left.
func (r *Report) outcome(b *proof.Bundle) {
	failed := b.Outcome == "failed" || b.Outcome == "canceled"
	r.add("the outcome", failed && b.Error != nil || b.Outcome == "completed" && b.Error == nil, "it is %q, and the error is there where it should not be, or the other way round", b.Outcome)
}

// times compares the times of day.
func (r *Report) times(b *proof.Bundle) {
	t := b.Timing
	ok := !t.AcceptedAt.IsZero() && !t.FinishedAt.Before(t.AcceptedAt)
	if t.StartedAt != nil {
		ok = ok && !t.StartedAt.Before(t.AcceptedAt) && !t.FinishedAt.Before(*t.StartedAt)
	}
	r.add("the times", ok, "they are in no order: accepted %s, finished %s", t.AcceptedAt, t.FinishedAt)
}
