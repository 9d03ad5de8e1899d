// SPDX-License-Identifier: GPL-3.0-or-later

package proof_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	contract "github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/utils/proof"
)

// record is a task's record, from which the server makes its bundle.
func record(keep bool, tokens ...string) task.Record {
	r := task.Record{
		State: task.Completed, ReplicaID: "default-0", Fingerprint: "fp-1", FinishedAt: time.UnixMilli(5000), StartedAt: time.UnixMilli(2000),
		Task: task.Task{
			ID: "t", PoolID: "default", Engine: "llamacpp", Seed: 7, Determinism: task.Strict, AcceptedAt: time.UnixMilli(1000), RequestDigest: "d",
			Sampling: task.Sampling{Profile: "v1", Temperature: 0.8, TopP: 0.95, TopK: 40, RepeatPenalty: 1},
			Request:  task.Request{ModelRef: "haiku", Workload: task.Completion, Priority: task.Batch, Prompt: "a <wish>", MaxTokens: 9},
		},
		Proof: task.Proof{KeepsPrompt: keep, KeepsTranscript: keep},
	}
	for _, token := range tokens {
		r.Transcript.Text += token
		r.Transcript.Ends = append(r.Transcript.Ends, len(r.Transcript.Text))
	}
	r.End = &task.End{TokensIn: 3, TokensOut: len(tokens), FinishReason: task.FinishStop, Receipt: task.Receipt{
		Seed: 7, Determinism: task.Strict, Fingerprint: "fp-1", RequestDigest: "d", TranscriptSHA256: r.Transcript.Digest(), ReplicaID: "default-0", ModelDigest: "m",
	}}
	return r
}

func encoded(t *testing.T, r task.Record) []byte {
	t.Helper()
	text, err := bundle.Of(r).Encode()
	require.NoError(t, err)
	return text
}

func whats(checks []proof.Check) (all []string) {
	for _, c := range checks {
		all = append(all, c.What)
	}
	return all
}

// What holds, what cannot be checked and why, and what does not hold: each by its name.
//
// LO-921, LO-940
func TestABundleIsVerifiedOffline(t *testing.T) {
	t.Parallel()
	kept := encoded(t, record(true, "Soft ", "rain"))
	v := proof.Verify(kept, "sha256-"+contract.Digest(kept))
	require.True(t, v.OK(), v.Broken)
	require.Equal(t, "t", v.TaskID)
	require.Equal(t, []string{
		"form", "bytes", "artifact", "prompt", "transcript", "tokens", "receipt.transcript_sha256", "receipt.transcript_form", "receipt.seed", "receipt.fingerprint",
		"receipt.request_digest", "receipt.replica_id", "receipt.determinism", "times",
	}, v.Holds)
	require.Equal(t, []string{"body", "request digest", "fingerprint", "model"}, whats(v.Unchecked))
	require.True(t, proof.Verify(append(kept, '\n'), "").OK(), "as a program prints it")

	v = proof.Verify(encoded(t, record(false, "Soft ", "rain")), "")
	require.True(t, v.OK(), v.Broken)
	require.Equal(t, []string{"artifact", "prompt", "body", "transcript", "request digest", "fingerprint", "model"}, whats(v.Unchecked))
	require.Contains(t, v.Unchecked[1].Why, "digest alone")

	canceled := record(true, "Soft ")
	canceled.State, canceled.End = task.StateCanceled, nil
	require.True(t, proof.Verify(encoded(t, canceled), "").OK())

	vectors := record(true)
	vectors.Task.Request.Workload, vectors.Task.Request.Prompt, vectors.Task.Request.Inputs = task.Embedding, "", []string{"a", "b"}
	vectors.End.Result = json.RawMessage(`[[1, 2]]`)
	v = proof.Verify(encoded(t, vectors), "")
	require.True(t, v.OK(), v.Broken)
	require.Contains(t, v.Holds, "result")
	require.Contains(t, v.Holds, "inputs")

	chat := record(true, "yes")
	chat.Task.Request.Prompt, chat.Task.Request.Messages = "", []task.Message{{Role: "user", Content: "hi"}}
	chat.Task.Request.Chat = &task.Chat{Tools: []task.Tool{{Name: "look"}}}
	v = proof.Verify(encoded(t, chat), "")
	require.True(t, v.OK(), v.Broken)
	require.Contains(t, v.Holds, "messages")
	require.Contains(t, v.Holds, "chat")
}

// A bundle in which anything was changed does not hold, and the verdict says what.
//
// LO-921, LO-940
func TestAChangedBundleDoesNotHold(t *testing.T) {
	t.Parallel()
	kept := string(encoded(t, record(true, "Soft ", "rain")))
	for name, test := range map[string]struct{ old, with, broken, why string }{
		"the prompt":      {`"prompt":"a <wish>"`, `"prompt":"a <word>"`, "prompt", "its digest is"},
		"no prompt":       {`"prompt":"a <wish>",`, ``, "prompt", "has a digest without them"},
		"the answer":      {`"text":"Soft rain"`, `"text":"Soft snow"`, "form", "was changed"},
		"the transcript":  {`"transcript_sha256":"`, `"transcript_sha256":"0`, "receipt.transcript_sha256", "the receipt says 0"},
		"the seed":        {`"seed":7,"determinism"`, `"seed":8,"determinism"`, "receipt.seed", "8"},
		"the fingerprint": {`"fingerprint":"fp-1"`, `"fingerprint":"fp-2"`, "receipt.fingerprint", "fp-2"},
		"the promise":     {`"determinism":"strict","sampling"`, `"determinism":"best_effort","sampling"`, "receipt.determinism", "best_effort"},
		"the count":       {`"tokens_out":2`, `"tokens_out":3`, "tokens", "the metrics count 3"},
		"the times":       {`"waited_ms":1000`, `"waited_ms":1`, "times", "waited 1 ms"},
		"the form":        {`{`, `{ `, "bytes", "formatted"},
		"another field":   {`{`, `{"more":1,`, "bytes", "changed"},
		"the format":      {"proof.v1", "proof.v9", "form", "proof.v9"},
		"no JSON":         {`}`, ``, "form", "no proof bundle"},
	} {
		require.Contains(t, kept, test.old, name)
		v := proof.Verify([]byte(strings.Replace(kept, test.old, test.with, 1)), "")
		require.False(t, v.OK(), name)
		found := false
		for _, c := range v.Broken {
			if c.What == test.broken {
				found = true
				require.Contains(t, c.Why, test.why, name)
			}
		}
		require.True(t, found, "%s: %v", name, v.Broken)
	}
	v := proof.Verify([]byte(kept), "sha256-"+strings.Repeat("0", 64))
	require.Equal(t, []string{"artifact"}, whats(v.Broken))
	none := record(true, "Soft")
	none.End = nil
	require.Equal(t, []string{"receipt"}, whats(proof.Verify(encoded(t, none), "").Broken))
	none.State = task.Failed
	require.Equal(t, []string{"error"}, whats(proof.Verify(encoded(t, none), "").Broken))
}

// LO-921
func TestTwoBundlesAreCompared(t *testing.T) {
	t.Parallel()
	of := func(r task.Record) *contract.Bundle { b := bundle.Of(r); return &b }
	c, err := proof.Diff(of(record(true, "Soft ", "rain")), of(record(true, "Soft ", "rain")))
	require.NoError(t, err)
	require.Equal(t, &proof.Comparison{SameRequest: true, SameMachine: true, SameAnswer: true, Token: -1, Fields: []proof.Field{}}, c)

	other := record(true, "Soft ", "snow")
	other.Task.ID, other.Fingerprint, other.End.Receipt.Fingerprint = "u", "fp-2", "fp-2"
	other.FinishedAt = time.UnixMilli(9000)
	c, err = proof.Diff(of(record(true, "Soft ", "rain")), of(other))
	require.NoError(t, err)
	require.True(t, c.SameRequest)
	require.False(t, c.SameMachine)
	require.False(t, c.SameAnswer)
	require.Equal(t, 1, c.Token)
	require.Equal(t, "rain", c.Want)
	require.Equal(t, "snow", c.Got)
	var paths []string
	for _, f := range c.Fields {
		paths = append(paths, f.Path)
	}
	require.Equal(t, []string{"placement.fingerprint", "receipt.fingerprint", "receipt.transcript_sha256", "transcript.sha256"}, paths)
	require.Equal(t, proof.Field{Path: "placement.fingerprint", Left: `"fp-1"`, Right: `"fp-2"`}, c.Fields[0])

	asked := record(false, "Soft ", "rain")
	asked.Task.Request.Prompt = "another"
	c, err = proof.Diff(of(record(false, "Soft ", "rain")), of(asked))
	require.NoError(t, err)
	require.False(t, c.SameRequest)
	require.True(t, c.SameAnswer)
	require.Equal(t, -1, c.Token)
}

// shelf has the bundles of tasks.
type shelf map[string][]byte

func (s shelf) Proof(_ context.Context, id string) (*contract.Bundle, []byte, error) {
	if text, ok := s[id]; ok {
		b, err := contract.Decode(text)
		return b, text, err
	}
	return nil, nil, errNone
}

var errNone = errors.New("it runs")

// LO-921
func TestBundlesAreCollected(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "proofs")
	text := encoded(t, record(true, "a"))
	got, err := proof.Collect(t.Context(), shelf{"t": text, "../out": text}, folder, "t", "runs", "../out")
	require.ErrorIs(t, err, errNone)
	require.ErrorContains(t, err, "task runs")
	require.ErrorContains(t, err, "task ../out", "a server's word is no way out of the folder")
	require.Equal(t, []proof.Collected{{TaskID: "t", Path: filepath.Join(folder, "t.proof.json"), ID: "sha256-" + contract.Digest(text)}}, got)
	kept, err := os.ReadFile(got[0].Path)
	require.NoError(t, err)
	require.Equal(t, text, kept)
	require.True(t, proof.Verify(kept, got[0].ID).OK())
}
