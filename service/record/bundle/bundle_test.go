// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/service/task"
)

var epoch = time.Date(2026, 11, 22, 20, 15, 0, 0, time.UTC)

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
			Receipt: task.Receipt{Seed: 7, Determinism: task.Strict, Fingerprint: "f1", RequestDigest: "d1", TranscriptSHA256: proof.Digest([]byte(text.Text)), ReplicaID: "default-0", EngineVersion: "v1", ModelDigest: "m1"},
		},
	}
}

// keeping is the record with a bundle that has everything in full.
func keeping(r task.Record) task.Record {
	r.Proof = task.Proof{KeepsPrompt: true, KeepsTranscript: true}
	return r
}

func encoded(t testing.TB, p proof.Bundle) string {
	t.Helper()
	text, err := p.Encode()
	require.NoError(t, err)
	return string(text)
}

// OC-CTRL-2067
func TestABundleHoldsTheRunAndNotTheWords(t *testing.T) {
	r := ended("a hidden ", "answer")
	p := Of(r)
	text := encoded(t, p)
	for _, word := range []string{"secret", "wish", "hidden", "answer"} {
		require.NotContains(t, text, word)
	}
	prompt := sha256.Sum256([]byte("a secret <wish>"))
	require.Equal(t, hex.EncodeToString(prompt[:]), p.Request.PromptSHA256)
	require.Equal(t, r.End.Receipt.TranscriptSHA256, p.Transcript.SHA256)
	require.Equal(t, 2, p.Transcript.Tokens)
	require.Equal(t, 15, p.Transcript.Bytes)
	require.Equal(t, receipt(r.End.Receipt), p.Receipt)
	require.EqualValues(t, 7, p.Seed)
	require.Equal(t, proof.Placement{
		PoolID: "default", ModelID: "haiku", Engine: "llamacpp", EngineVersion: "v1", ReplicaID: "default-0", Fingerprint: "f1",
		Reasons: []string{"pool default was chosen among those that serve haiku"},
	}, p.Placement)
	started := epoch.Add(2 * time.Second)
	require.Equal(t, proof.Timing{
		AcceptedAt: epoch, StartedAt: &started, FinishedAt: epoch.Add(5 * time.Second), PredictedStartMS: 1500, WaitedMS: 2000, RanMS: 3000, DecodeTimeMS: 1500,
	}, p.Timing)
	require.Equal(t, proof.Metrics{QueuePosition: 2, TokensIn: 4, TokensOut: 2, TokensPerSec: 1.33}, p.Metrics)
	require.True(t, strings.HasPrefix(text, `{"format":"llama-orch.proof.v1","task_id":"t-1","outcome":"completed",`))

	kept := encoded(t, Of(keeping(r)))
	require.Contains(t, kept, `"prompt":"a secret <wish>"`)
	require.Contains(t, kept, `"text":"a hidden answer","ends":[9,15]`)
	require.NotContains(t, kept, `<s>`, "what the template made of it follows from it")
}

// LO-504, OC-CTRL-2067: a bundle has what the cards took, and none where that is not known; its digest covers it.
func TestABundleHasTheEnergy(t *testing.T) {
	r := ended("a")
	require.NotContains(t, encoded(t, Of(r)), "energy")
	without, err := Prove(r, Keep{})
	require.NoError(t, err)
	r.End.EnergyJ, r.End.EnergyCost = (&task.Energy{Joules: 12.3456, Cost: 0.000001234, Priced: true}).Shown()
	require.Contains(t, encoded(t, Of(r)), `"energy_j":12.346,"energy_cost":0.000001234}`)
	r.Proof = without
	_, err = Text(r)
	require.ErrorIs(t, err, ErrChanged)
	r.Proof, err = Prove(r, Keep{})
	require.NoError(t, err)
	_, err = Text(r)
	require.NoError(t, err)
	failed := ended("a")
	failed.State, failed.End, failed.Err, failed.EnergyJ = task.Failed, nil, task.Errorf(task.DecodeTimeout, "it was stuck"), r.End.EnergyJ
	require.Contains(t, encoded(t, Of(failed)), `"energy_j":12.346`, "however it ended")
	none, cost := (*task.Energy)(nil).Shown()
	require.Nil(t, none)
	require.Nil(t, cost)
	_, cost = (&task.Energy{Joules: 1}).Shown()
	require.Nil(t, cost, "there is no price")
}

// OC-CTRL-2067
func TestEveryKindOfEndHasABundle(t *testing.T) {
	queued := ended()
	queued.State, queued.End, queued.ReplicaID, queued.Fingerprint, queued.StartedAt = task.StateCanceled, nil, "", "", time.Time{}
	queued.Err = task.Errorf(task.Canceled, "the task was canceled").Because(errors.New("the cause stays out"))
	p := Of(queued)
	require.EqualValues(t, task.StateCanceled, p.Outcome)
	require.EqualValues(t, task.Canceled, p.Error.Code)
	require.NotContains(t, encoded(t, p), "the cause")
	require.Nil(t, p.Timing.StartedAt)
	require.EqualValues(t, 5000, p.Timing.WaitedMS)
	require.Zero(t, p.Timing.RanMS)
	require.Contains(t, p.Placement.Reasons, "no replica was chosen: the task ended in the queue")
	require.Equal(t, proof.Digest(nil), p.Transcript.SHA256)
	require.Nil(t, p.Receipt)

	failed := ended("half")
	failed.State, failed.End, failed.Err = task.Failed, nil, task.Errorf(task.DecodeTimeout, "it was stuck")
	failed.Task.Fallback, failed.Task.Request.Placement = true, task.Placement{Mode: task.Prefer, PoolID: "fast"}
	p = Of(failed)
	require.EqualValues(t, task.DecodeTimeout, p.Error.Code)
	require.Equal(t, 1, p.Metrics.TokensOut)
	require.Equal(t, "f1", p.Placement.Fingerprint)
	require.Equal(t, []string{"the request preferred pool fast, which could not take it; pool default could"}, p.Placement.Reasons)

	vectors := ended()
	vectors.Task.Request.Prompt, vectors.Task.Request.Inputs = "", []string{"a <b>", "c"}
	vectors.Task.Request.Messages = []task.Message{{Role: "user", Content: "<hi>"}}
	vectors.End.Result = json.RawMessage(`{ "vectors": [ [1, 2] ] }`)
	p = Of(vectors)
	require.Equal(t, &proof.Result{SHA256: proof.Digest([]byte(`{"vectors":[[1,2]]}`))}, p.Result)
	require.Equal(t, proof.Digest([]byte(`["a <b>","c"]`)), p.Request.InputsSHA256)
	require.Equal(t, proof.Digest([]byte(`[{"role":"user","content":"<hi>"}]`)), p.Request.MessagesSHA256)
	require.Empty(t, p.Request.PromptSHA256)
	require.JSONEq(t, `{"vectors":[[1,2]]}`, string(Of(keeping(vectors)).Result.Value))

	vectors.End.Result = json.RawMessage(`{ broken`)
	p = Of(keeping(vectors))
	require.Nil(t, p.Result.Value)
	encoded(t, p)
}

// A bundle is a function of the record: the same bytes, however often and whenever it is made.
//
// OC-CTRL-2067
func TestABundleIsAFunctionOfTheRecord(t *testing.T) {
	r := ended("a", "b")
	want := encoded(t, Of(keeping(r)))
	// As the ledger gives it back: in whole milliseconds, in another zone.
	for _, at := range []*time.Time{&r.Task.AcceptedAt, &r.StartedAt, &r.FinishedAt} {
		*at = at.Truncate(time.Millisecond).In(time.FixedZone("x", 3600))
	}
	require.Equal(t, want, encoded(t, Of(keeping(r))))
	p, err := proof.Decode([]byte(want))
	require.NoError(t, err)
	require.Equal(t, want, encoded(t, *p))
}

// The digest in the record decides what a task's bundle is: with the same record it is made again, and with another it is not
// passed off as the same.
//
// OC-CTRL-2067
func TestTheRecordedDigestIsTheTruth(t *testing.T) {
	for _, keep := range []Keep{{}, {Prompts: true}, {Transcripts: true}, {Prompts: true, Transcripts: true}} {
		r := ended("a", "b")
		_, err := Text(r)
		require.ErrorIs(t, err, ErrNone)
		r.Proof, err = Prove(r, keep)
		require.NoError(t, err)
		text, err := Text(r)
		require.NoError(t, err)
		require.Len(t, text, r.Proof.Size)
		require.Equal(t, r.Proof.SHA256, sha256.Sum256(text))
		b, err := proof.Decode(text)
		require.NoError(t, err)
		require.Equal(t, keep.Prompts, b.Request.Kept)
		require.Equal(t, keep.Transcripts, b.Transcript.Kept)
		gone := r
		gone.Transcript = task.Transcript{}
		_, err = Text(gone)
		require.ErrorIs(t, err, ErrChanged)
	}
	r := ended()
	r.End.DecodeTimeMS = 0
	r.Task.Sampling.Temperature = math.NaN()
	_, err := Prove(r, Keep{})
	require.Error(t, err)
}

// BenchmarkProve is what a task's end pays for its bundle.
func BenchmarkProve(b *testing.B) {
	for _, n := range []int{64, 1000} {
		tokens := make([]string, n)
		for i := range tokens {
			tokens[i] = "four"
		}
		r := ended(tokens...)
		for _, keep := range []Keep{{}, {Prompts: true, Transcripts: true}} {
			b.Run(fmt.Sprintf("tokens=%d/keep=%v", n, keep.Prompts), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Prove(r, keep); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
