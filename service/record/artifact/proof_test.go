// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

func transcript(tokens ...string) (t task.Transcript) {
	for _, token := range tokens {
		t.Text += token
		t.Ends = append(t.Ends, len(t.Text))
	}
	return t
}

// ended is the record of a task that ran to its end.
func ended(tokens ...string) task.Record {
	text := transcript(tokens...)
	temperature := 0.5
	t := task.Task{
		ID: "t-1", Seq: 3, PoolID: "default", Engine: "llamacpp", EngineVersion: "v1", ModelID: "haiku", Prompt: "<s>a secret wish", PromptTokens: 4,
		Seed: 7, Sampling: task.Sampling{Profile: "default", Temperature: 0.5, TopK: 40, Stop: []string{"\n\n"}}, Determinism: task.Strict,
		RequestDigest: "d1", AcceptedAt: epoch.Add(300 * time.Microsecond), QueuePosition: 2, PredictedStart: 1500 * time.Millisecond,
		Request: task.Request{
			ID: "t-1", ModelRef: "haiku", Workload: task.Completion, Priority: task.Interactive, Prompt: "a secret <wish>", MaxTokens: 9,
			Params: task.Params{Temperature: &temperature}, Placement: task.Placement{Mode: task.Auto}, CorrelationID: "c", Actor: "localhost",
		},
	}
	return task.Record{
		Task: t, State: task.Completed, ReplicaID: "default-0", Fingerprint: "f1", StartedAt: epoch.Add(2 * time.Second), FinishedAt: epoch.Add(5 * time.Second),
		Transcript: text, LastEventID: "4-aabbccdd",
		End: &task.End{
			TokensIn: 4, TokensOut: len(tokens), DecodeTimeMS: 1500, FinishReason: task.FinishStop,
			Receipt: task.Receipt{Seed: 7, Determinism: task.Strict, Fingerprint: "f1", RequestDigest: "d1", TranscriptSHA256: digest([]byte(text.Text)), ReplicaID: "default-0", EngineVersion: "v1", ModelDigest: "m1"},
		},
	}
}

func encoded(t testing.TB, p Proof) string {
	t.Helper()
	text, err := p.Encode()
	require.NoError(t, err)
	return string(text)
}

// OC-CTRL-2067
func TestABundleHoldsTheRunAndNotTheWords(t *testing.T) {
	r := ended("a hidden ", "answer")
	p := Bundle(r, ProofOptions{Reasons: []string{"default-0 was the only one ready"}})
	text := encoded(t, p)
	for _, word := range []string{"secret", "wish", "hidden", "answer"} {
		require.NotContains(t, text, word)
	}
	prompt := sha256.Sum256([]byte("a secret <wish>"))
	require.Equal(t, hex.EncodeToString(prompt[:]), p.Request.PromptSHA256)
	require.Equal(t, r.End.Receipt.TranscriptSHA256, p.Transcript.SHA256)
	require.Equal(t, 2, p.Transcript.Tokens)
	require.Equal(t, 15, p.Transcript.Bytes)
	require.Equal(t, &r.End.Receipt, p.Receipt)
	require.EqualValues(t, 7, p.Seed)
	require.Equal(t, ProofPlacement{
		PoolID: "default", ModelID: "haiku", Engine: "llamacpp", EngineVersion: "v1", ReplicaID: "default-0", Fingerprint: "f1",
		Reasons: []string{"pool default was chosen among those that serve haiku", "default-0 was the only one ready"},
	}, p.Placement)
	started := epoch.Add(2 * time.Second)
	require.Equal(t, ProofTiming{
		AcceptedAt: epoch, StartedAt: &started, FinishedAt: epoch.Add(5 * time.Second), PredictedStartMS: 1500, WaitedMS: 2000, RanMS: 3000, DecodeTimeMS: 1500,
	}, p.Timing)
	require.Equal(t, ProofMetrics{QueuePosition: 2, TokensIn: 4, TokensOut: 2, TokensPerSec: 1.33}, p.Metrics)
	require.True(t, strings.HasPrefix(text, `{"format":"llama-orch.proof.v1","task_id":"t-1","outcome":"completed",`))

	kept := encoded(t, Bundle(r, ProofOptions{KeepPrompts: true, KeepTranscripts: true}))
	require.Contains(t, kept, `"prompt":"a secret <wish>"`)
	require.Contains(t, kept, `"text":"a hidden answer","ends":[9,15]`)
	require.NotContains(t, kept, `<s>`, "what the template made of it follows from it")
}

// OC-CTRL-2067
func TestEveryKindOfEndHasABundle(t *testing.T) {
	queued := ended()
	queued.State, queued.End, queued.ReplicaID, queued.Fingerprint, queued.StartedAt = task.StateCanceled, nil, "", "", time.Time{}
	queued.Err = task.Errorf(task.Canceled, "the task was canceled").Because(errors.New("the cause stays out"))
	p := Bundle(queued, ProofOptions{})
	require.Equal(t, task.StateCanceled, p.Outcome)
	require.Equal(t, task.Canceled, p.Error.Code)
	require.NotContains(t, encoded(t, p), "the cause")
	require.Nil(t, p.Timing.StartedAt)
	require.EqualValues(t, 5000, p.Timing.WaitedMS)
	require.Zero(t, p.Timing.RanMS)
	require.Contains(t, p.Placement.Reasons, "no replica was chosen: the task ended in the queue")
	require.Equal(t, digest(nil), p.Transcript.SHA256)
	require.Nil(t, p.Receipt)

	failed := ended("half")
	failed.State, failed.End, failed.Err = task.Failed, nil, task.Errorf(task.DecodeTimeout, "it was stuck")
	failed.Task.Fallback, failed.Task.Request.Placement = true, task.Placement{Mode: task.Prefer, PoolID: "fast"}
	p = Bundle(failed, ProofOptions{})
	require.Equal(t, task.DecodeTimeout, p.Error.Code)
	require.Equal(t, 1, p.Metrics.TokensOut)
	require.Equal(t, "f1", p.Placement.Fingerprint)
	require.Equal(t, []string{"the request preferred pool fast, which could not take it; pool default could"}, p.Placement.Reasons)

	vectors := ended()
	vectors.Task.Request.Prompt, vectors.Task.Request.Inputs = "", []string{"a <b>", "c"}
	vectors.Task.Request.Messages = []task.Message{{Role: "user", Content: "<hi>"}}
	vectors.End.Result = json.RawMessage(`{ "vectors": [ [1, 2] ] }`)
	p = Bundle(vectors, ProofOptions{})
	require.Equal(t, &ProofResult{SHA256: digest([]byte(`{"vectors":[[1,2]]}`))}, p.Result)
	require.Equal(t, digest([]byte(`["a <b>","c"]`)), p.Request.InputsSHA256)
	require.Equal(t, digest([]byte(`[{"role":"user","content":"<hi>"}]`)), p.Request.MessagesSHA256)
	require.Empty(t, p.Request.PromptSHA256)
	require.JSONEq(t, `{"vectors":[[1,2]]}`, string(Bundle(vectors, ProofOptions{KeepTranscripts: true}).Result.Value))

	vectors.End.Result = json.RawMessage(`{ broken`)
	p = Bundle(vectors, ProofOptions{KeepTranscripts: true})
	require.Nil(t, p.Result.Value)
	encoded(t, p)
}

// A bundle is a function of the record: the same bytes, however often and whenever it is made.
//
// OC-CTRL-2067
func TestABundleIsAFunctionOfTheRecord(t *testing.T) {
	r := ended("a", "b")
	want := encoded(t, Bundle(r, ProofOptions{KeepPrompts: true, KeepTranscripts: true}))
	// As the ledger gives it back: in whole milliseconds, in another zone.
	for _, at := range []*time.Time{&r.Task.AcceptedAt, &r.StartedAt, &r.FinishedAt} {
		*at = at.Truncate(time.Millisecond).In(time.FixedZone("x", 3600))
	}
	require.Equal(t, want, encoded(t, Bundle(r, ProofOptions{KeepPrompts: true, KeepTranscripts: true})))
	p, err := DecodeProof([]byte(want))
	require.NoError(t, err)
	require.Equal(t, want, encoded(t, p))
}

// LO-301
func TestCompare(t *testing.T) {
	completed := ended("ab", "cd", "e")
	canceled := ended("ab", "cd")
	canceled.State, canceled.End = task.StateCanceled, nil
	queued := ended()
	queued.State, queued.End = task.StateCanceled, nil
	for name, c := range map[string]struct {
		recorded task.Record
		keep     bool
		now      task.Transcript
		want     Verdict
		says     string
	}{
		"the same":               {completed, true, transcript("ab", "cd", "e"), Verdict{Match: true, Token: -1}, "match"},
		"the same, by digest":    {completed, false, transcript("ab", "cd", "e"), Verdict{Match: true, Token: -1}, "match"},
		"cut otherwise":          {completed, true, transcript("abc", "de"), Verdict{Match: true, Token: -1}, "match"},
		"another token":          {completed, true, transcript("ab", "cX", "e"), Verdict{Token: 1, Want: "cd", Got: "cX"}, `the runs differ at token 1: recorded "cd", now "cX"`},
		"another, by digest":     {completed, false, transcript("ab", "cX", "e"), Verdict{Token: -1}, "the runs differ; the bundle keeps no transcript that says where"},
		"shorter":                {completed, true, transcript("ab", "cd"), Verdict{Token: 2, Want: "e"}, `the runs differ at token 2: recorded "e", now nothing`},
		"longer":                 {completed, true, transcript("ab", "cd", "e", "f"), Verdict{Token: 3, Got: "f"}, `the runs differ at token 3: recorded nothing, now "f"`},
		"nothing":                {completed, true, transcript(), Verdict{Token: 0, Want: "ab"}, `the runs differ at token 0: recorded "ab", now nothing`},
		"canceled, goes on":      {canceled, false, transcript("ab", "cd", "e"), Verdict{Match: true, Partial: true, Token: -1}, "match, as far as the recorded run got"},
		"canceled, same":         {canceled, false, transcript("ab", "cd"), Verdict{Match: true, Partial: true, Token: -1}, "match, as far as the recorded run got"},
		"canceled, differs":      {canceled, true, transcript("ab", "xx", "e"), Verdict{Token: 1, Want: "cd", Got: "xx"}, `the runs differ at token 1: recorded "cd", now "xx"`},
		"canceled before it ran": {queued, false, transcript("ab"), Verdict{Match: true, Partial: true, Token: -1}, "match, as far as the recorded run got"},
	} {
		got := Compare(Bundle(c.recorded, ProofOptions{KeepTranscripts: c.keep}), c.now)
		require.Equal(t, c.want, got, name)
		require.Equal(t, c.says, got.String(), name)
	}
}

// LO-301
func TestCompareFindsTheFirstDifference(t *testing.T) {
	token := rapid.StringMatching(`[a-cé]{1,3}`)
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(token, 1, 20).Draw(t, "tokens")
		p := Bundle(ended(tokens...), ProofOptions{KeepTranscripts: true})
		require.True(t, Compare(p, transcript(tokens...)).Match)
		i := rapid.IntRange(0, len(tokens)-1).Draw(t, "at")
		other := append([]string{}, tokens...)
		other[i] += "z"
		require.Equal(t, Verdict{Token: i, Want: tokens[i], Got: other[i]}, Compare(p, transcript(other...)))
	})
}

// LO-301
func TestABundleThatWasTamperedWithIsRefused(t *testing.T) {
	whole := encoded(t, Bundle(ended("ab", "cd"), ProofOptions{KeepTranscripts: true}))
	for name, change := range map[string][2]string{
		"no JSON":      {whole, "{"},
		"another form": {ProofFormat, "proof.v9"},
		"text":         {`"text":"abcd"`, `"text":"abce"`},
		"ends":         {`"ends":[2,4]`, `"ends":[4,2]`},
		"negative":     {`"ends":[2,4]`, `"ends":[-2,4]`},
		"beyond":       {`"ends":[2,4]`, `"ends":[2,5]`},
		"too few":      {`"ends":[2,4]`, `"ends":[4]`},
		"bytes":        {`"bytes":4`, `"bytes":5`},
	} {
		_, err := DecodeProof([]byte(strings.Replace(whole, change[0], change[1], 1)))
		require.Error(t, err, name)
	}
	_, err := DecodeProof([]byte(whole))
	require.NoError(t, err)
}

// LO-301
func FuzzDecodeProof(f *testing.F) {
	for _, keep := range []bool{true, false} {
		text, err := Bundle(ended("ab", "é"), ProofOptions{KeepPrompts: keep, KeepTranscripts: keep}).Encode()
		require.NoError(f, err)
		f.Add(text)
	}
	f.Add([]byte(`{"format":"llama-orch.proof.v1","transcript":{"kept":true,"ends":[9]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := DecodeProof(text)
		if err != nil {
			return
		}
		_ = Compare(p, transcript("ab", "x")).String()
		again, err := p.Encode()
		require.NoError(t, err)
		_, err = DecodeProof(again)
		require.NoError(t, err)
	})
}
