// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"bytes"
	"cmp"
	"fmt"

	"github.com/llama-orch/llama-orch/contracts/proof"
)

// Verdict is what can be said of a bundle without a server.
type Verdict struct {
	TaskID    string   `json:"task_id"`
	Holds     []string `json:"holds"`     // what was checked, and is so
	Unchecked []Check  `json:"unchecked"` // what cannot be checked here, and why
	Broken    []Check  `json:"broken"`    // what is not so
}

// Check is something that a bundle says.
type Check struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// OK reports whether everything that can be checked holds.
func (v *Verdict) OK() bool { return len(v.Broken) == 0 }

func (v *Verdict) holds(what string) { v.Holds = append(v.Holds, what) }

func (v *Verdict) unchecked(what, format string, args ...any) {
	v.Unchecked = append(v.Unchecked, Check{what, fmt.Sprintf(format, args...)})
}

// is notes a check.
func (v *Verdict) is(ok bool, what, format string, args ...any) {
	if ok {
		v.holds(what)
		return
	}
	v.Broken = append(v.Broken, Check{what, fmt.Sprintf(format, args...)})
}

// Verify checks a bundle: its form, its digests, and its receipt against the rest of it. The artifact's id, if it is given, is held against the bytes.
func Verify(text []byte, artifact string) *Verdict {
	v := &Verdict{Holds: []string{}, Unchecked: []Check{}, Broken: []Check{}}
	text = bytes.TrimSuffix(text, []byte("\n")) // as a program prints it
	b, err := proof.Decode(text)
	if v.is(err == nil, "form", "%v", err); err != nil {
		return v
	}
	v.TaskID = b.TaskID
	again, err := b.Encode()
	v.is(err == nil && bytes.Equal(again, text), "bytes", "it is not written as a server writes it: it was changed, or formatted")
	if artifact == "" {
		v.unchecked("artifact", "compare the id of the server's artifact yourself: the bytes are %s", artifactID(text))
	} else {
		v.is(artifactID(text) == artifact, "artifact", "the bytes are those of %s, and not of %s", artifactID(text), artifact)
	}
	v.request(b)
	v.transcript(b)
	v.receipt(b)
	v.times(b)
	return v
}

// request holds what was asked against its digests.
func (v *Verdict) request(b *proof.Bundle) {
	r := b.Request
	chat := ""
	if r.Chat != nil {
		chat = proof.DigestChat(*r.Chat)
	}
	for _, word := range []struct {
		what, sum string
		kept      bool
		of        func() string
	}{
		{"prompt", r.PromptSHA256, r.Prompt != "", func() string { return proof.Digest([]byte(r.Prompt)) }},
		{"messages", r.MessagesSHA256, len(r.Messages) > 0, func() string { return proof.DigestMessages(r.Messages) }},
		{"inputs", r.InputsSHA256, len(r.Inputs) > 0, func() string { return proof.DigestInputs(r.Inputs) }},
		{"chat", r.ChatSHA256, r.Chat != nil, func() string { return chat }},
	} {
		switch {
		case word.sum == "" && !word.kept:
		case !word.kept && !r.Kept:
			v.unchecked(word.what, "the bundle has its digest alone: give the words to compare (`llama-orch replay --prompt-file`)")
		case !word.kept:
			v.is(false, word.what, "the bundle says that it keeps the words, and has a digest without them")
		default:
			v.is(word.of() == word.sum, word.what, "its digest is %s, and the bundle says %s", word.of(), cmp.Or(word.sum, "none"))
		}
	}
	v.unchecked("body", "the request's JSON is not kept")
}

func (v *Verdict) transcript(b *proof.Bundle) {
	t := b.Transcript
	switch {
	case t.Kept: // Decode has compared it
		v.holds("transcript")
	case t.Tokens > 0:
		v.unchecked("transcript", "the bundle has its digest alone: the answer's bytes, or another run, can be compared with it")
	}
	if b.Outcome == "completed" && b.Result == nil {
		v.is(b.Metrics.TokensOut == t.Tokens, "tokens", "the metrics count %d, and the transcript %d", b.Metrics.TokensOut, t.Tokens)
	}
	if r := b.Result; r != nil {
		if r.Value == nil {
			v.unchecked("result", "the bundle has its digest alone")
		} else {
			v.is(b.CompareResult(r.Value).Match, "result", "its digest is not %s", r.SHA256)
		}
	}
}

// receipt holds the receipt against what the bundle says elsewhere.
func (v *Verdict) receipt(b *proof.Bundle) {
	r := b.Receipt
	if r == nil {
		v.is(b.Outcome != "completed", "receipt", "a completed task has one, and it is missing")
		if b.Outcome != "completed" {
			v.is(b.Error != nil || b.Outcome == "canceled", "error", "a failed task has one, and it is missing")
		}
		return
	}
	form := func(f string) string { return cmp.Or(f, proof.FormText) }
	for _, pair := range [][3]string{
		{"receipt.transcript_sha256", r.TranscriptSHA256, b.Transcript.SHA256},
		{"receipt.transcript_form", form(r.TranscriptForm), form(b.Transcript.Form)},
		{"receipt.seed", fmt.Sprint(r.Seed), fmt.Sprint(b.Seed)},
		{"receipt.fingerprint", r.Fingerprint, b.Placement.Fingerprint},
		{"receipt.request_digest", r.RequestDigest, b.RequestDigest},
		{"receipt.replica_id", r.ReplicaID, b.Placement.ReplicaID},
	} {
		v.is(pair[1] == pair[2], pair[0], "the receipt says %s, and the bundle %s", cmp.Or(pair[1], "nothing"), cmp.Or(pair[2], "nothing"))
	}
	// A task that went on elsewhere after a loss promises no more than it could keep.
	v.is(r.Determinism == b.Determinism || len(r.ContinuedAt) > 0, "receipt.determinism", "the receipt says %s, and the bundle %s", r.Determinism, b.Determinism)
	v.unchecked("request digest", "it is over the prompt behind the model's template, which the engine makes: replay the task")
	v.unchecked("fingerprint", "what it stands for is known to the server alone")
	v.unchecked("model", "the digest of the model's file is compared where the file is")
}

func (v *Verdict) times(b *proof.Bundle) {
	t := b.Timing
	began := t.FinishedAt
	if t.StartedAt != nil {
		began = *t.StartedAt
	}
	v.is(t.WaitedMS == max(began.Sub(t.AcceptedAt).Milliseconds(), 0) && t.RanMS == max(t.FinishedAt.Sub(began).Milliseconds(), 0), "times",
		"the task waited %d ms and ran %d ms, and its points in time say otherwise", t.WaitedMS, t.RanMS)
}
