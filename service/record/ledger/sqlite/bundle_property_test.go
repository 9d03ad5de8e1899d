// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

// words are texts of requests, of which the front takes UTF-8 only; anything is what engines and files bring.
func words() *rapid.Generator[string] {
	return rapid.OneOf(rapid.StringN(0, 6, -1), rapid.SampledFrom([]string{"", "<a> & \u2028\x00\"\\", "\ud7ff\ufffd\U0010ffff"}))
}

func anything() *rapid.Generator[string] {
	return rapid.OneOf(words(), rapid.SampledFrom([]string{"\xff\xfe half \xc3", strings.Repeat("\xe2\x82\xff", 2000)}),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 6), func(b []byte) string { return string(b) }))
}

func moments(t *rapid.T, name string) time.Time {
	ns := rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, name)
	at := epoch.Add(time.Duration(ns))
	if rapid.Bool().Draw(t, name+" elsewhere") {
		at = at.In(time.FixedZone("x", 3600))
	}
	return at
}

func maybe[T any](t *rapid.T, g *rapid.Generator[T], name string) *T {
	if !rapid.Bool().Draw(t, name+"?") {
		return nil
	}
	v := g.Draw(t, name)
	return &v
}

func drawTask(t *rapid.T, seq uint64) task.Task {
	text := words()
	q := task.Request{
		ModelRef: text.Draw(t, "model_ref"), Workload: rapid.SampledFrom([]task.Workload{task.Completion, task.Embedding, task.Rerank}).Draw(t, "workload"),
		Priority: rapid.SampledFrom([]task.Priority{task.Interactive, task.Batch}).Draw(t, "priority"), Prompt: text.Draw(t, "prompt"),
		Inputs: rapid.SliceOfN(text, 0, 3).Draw(t, "inputs"), Seed: maybe(t, rapid.Uint32(), "seed"), SessionID: text.Draw(t, "session"),
		Determinism: rapid.SampledFrom([]task.Determinism{"", task.Strict, task.BestEffort}).Draw(t, "asked"),
		Params: task.Params{
			Temperature: maybe(t, rapid.Float64Range(0, 2), "temperature"), TopK: maybe(t, rapid.IntRange(0, 99), "top_k"),
			Stop: rapid.SliceOfN(text, 0, 2).Draw(t, "stop"),
		},
		Deadline: time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "deadline")), MaxTokens: rapid.IntRange(0, 9).Draw(t, "max"),
		Placement: task.Placement{Mode: task.Prefer, PoolID: text.Draw(t, "wish"), Avoid: rapid.SliceOfN(text, 0, 2).Draw(t, "avoid")},
		Actor:     text.Draw(t, "actor"), CorrelationID: text.Draw(t, "correlation"), BodySHA256: [32]byte{byte(seq)},
	}
	for range rapid.IntRange(0, 2).Draw(t, "messages") {
		q.Messages = append(q.Messages, drawMessage(t))
	}
	if rapid.Bool().Draw(t, "chat") {
		q.Chat = drawChat(t)
	}
	return task.Task{
		ID: id(seq), Seq: seq, Request: q, PoolID: text.Draw(t, "pool"), Engine: text.Draw(t, "engine"), EngineVersion: text.Draw(t, "version"),
		ModelID: text.Draw(t, "model"), Prompt: text.Draw(t, "templated"), PromptTokens: rapid.IntRange(0, 9).Draw(t, "prompt tokens"),
		Seed: rapid.Uint32().Draw(t, "used"), RequestDigest: text.Draw(t, "digest"), Determinism: task.Strict,
		Sampling: task.Sampling{
			Profile: text.Draw(t, "profile"), Temperature: rapid.Float64Range(0, 2).Draw(t, "resolved"),
			Stop: rapid.SampledFrom([][]string{nil, {}, {"a", "<>"}}).Draw(t, "stops"),
		},
		AcceptedAt: moments(t, "accepted"), QueuePosition: rapid.IntRange(0, 9).Draw(t, "position"),
		PredictedStart: time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "predicted")),
		PinnedPool:     rapid.Bool().Draw(t, "pinned"), Fallback: rapid.Bool().Draw(t, "fallback"),
	}
}

func drawMessage(t *rapid.T) task.Message {
	text := words()
	m := task.Message{Role: text.Draw(t, "role"), Content: text.Draw(t, "content"), Reasoning: text.Draw(t, "reasoning"), ToolCallID: text.Draw(t, "answers")}
	for range rapid.IntRange(0, 2).Draw(t, "parts") {
		p := task.Part{Text: text.Draw(t, "part")}
		if rapid.Bool().Draw(t, "image?") {
			p = task.Part{Image: &task.Image{MIME: text.Draw(t, "mime"), Data: rapid.SliceOfN(rapid.Byte(), 1, 9).Draw(t, "image")}}
		}
		m.Parts = append(m.Parts, p)
	}
	for range rapid.IntRange(0, 2).Draw(t, "calls") {
		m.ToolCalls = append(m.ToolCalls, task.ToolCall{ID: text.Draw(t, "id"), Name: text.Draw(t, "name"), Arguments: text.Draw(t, "arguments")})
	}
	return m
}

// schemas are JSON as fronts hand it on.
func schemas() *rapid.Generator[json.RawMessage] {
	return rapid.Map(rapid.SampledFrom([]string{"", `{"b":"<x> & \u2028","a":[1.0,1e2]}`, `{ "spaced" : null }`}), func(s string) json.RawMessage {
		if s == "" {
			return nil
		}
		return json.RawMessage(s)
	})
}

func drawChat(t *rapid.T) *task.Chat {
	text := words()
	c := &task.Chat{
		ToolChoice: rapid.SampledFrom([]task.ToolChoice{task.ChooseAuto, task.ChooseNone, task.ChooseRequired, task.ChooseTool}).Draw(t, "choice"),
		ToolName:   text.Draw(t, "chosen"), ParallelCalls: maybe(t, rapid.Bool(), "parallel"), TemplateArgs: schemas().Draw(t, "arguments"),
		Reasoning: task.Reasoning{
			Split: rapid.Bool().Draw(t, "split"), Enabled: maybe(t, rapid.Bool(), "enabled"), Effort: text.Draw(t, "effort"), Budget: rapid.IntRange(0, 9).Draw(t, "budget"),
		},
	}
	for range rapid.IntRange(0, 2).Draw(t, "tools") {
		c.Tools = append(c.Tools, task.Tool{Name: text.Draw(t, "tool"), Description: text.Draw(t, "description"), Parameters: schemas().Draw(t, "parameters")})
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "biases") {
		c.LogitBias = append(c.LogitBias, task.Bias{Token: i, Bias: rapid.Float64Range(-9, 9).Draw(t, "bias")})
	}
	if rapid.Bool().Draw(t, "format?") {
		c.Format = &task.Format{Kind: task.FormatJSON, Schema: schemas().Draw(t, "schema")}
	}
	return c
}

// drawEnd draws how a task ended: completed with tokens or with a result, failed, canceled or dropped, in the queue or while it ran.
func drawEnd(t *rapid.T, r *task.Record) {
	text := words()
	if rapid.Bool().Draw(t, "ran") {
		r.ReplicaID, r.Fingerprint, r.StartedAt = "default-0", text.Draw(t, "fingerprint"), moments(t, "started")
		tokens := rapid.SliceOfN(anything(), 0, 8).Draw(t, "tokens")
		if rapid.IntRange(0, 19).Draw(t, "long") == 0 {
			tokens = append(tokens, strings.Repeat("x\u00e9", 1<<19))
		}
		for _, token := range tokens {
			r.Transcript.Text += token
			r.Transcript.Ends = append(r.Transcript.Ends, len(r.Transcript.Text))
		}
		if rapid.Bool().Draw(t, "of parts") {
			r.Transcript.Marks = ledgertest.Marks(t, len(tokens))
		}
	}
	r.FinishedAt, r.SealedAt, r.LastEventID = moments(t, "finished"), "3-aabbccdd", "4-aabbccdd"
	r.State = rapid.SampledFrom([]task.State{task.Completed, task.Failed, task.StateCanceled}).Draw(t, "state")
	if r.State != task.Completed {
		code := rapid.SampledFrom([]task.Code{task.Canceled, task.QueueFullDropLRU, task.WorkerReset, task.ShuttingDown, task.DeadlineUnmet}).Draw(t, "code")
		r.Err = task.Errorf(code, "%s", anything().Draw(t, "message")).Retry(time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "retry")))
		r.Err.Engine, r.Err.PoolID, r.Err.PolicyLabel, r.Err.Hint = r.Task.Engine, r.Task.PoolID, text.Draw(t, "label"), anything().Draw(t, "hint")
		return
	}
	r.End = &task.End{
		TokensIn: rapid.IntRange(0, 9).Draw(t, "in"), TokensOut: len(r.Transcript.Ends), DecodeTimeMS: rapid.Int64Range(0, 9).Draw(t, "decode"),
		FinishReason: task.FinishStop, ToolCalls: r.Transcript.Parts().Calls,
		Receipt: task.Receipt{
			Seed: r.Task.Seed, Determinism: r.Task.Determinism, Fingerprint: r.Fingerprint, RequestDigest: r.Task.RequestDigest,
			TranscriptSHA256: r.Transcript.Digest(), TranscriptForm: r.Transcript.Form(), ReplicaID: r.ReplicaID, ModelDigest: text.Draw(t, "weights"),
		},
	}
	r.End.Result = json.RawMessage(rapid.SampledFrom([]string{
		"", `{"a": "<b> & ` + "\u2028" + `", "n": 1.0e+2}`, `[ [0.1, -2E5], "\u003c\ud800" ]`, "\t null ", "\"\xff\xc3\"",
	}).Draw(t, "result"))
}

// The bytes of a bundle that are made when somebody asks are those whose digest the end of the task recorded, whatever the task
// was, however it ended, and whatever is kept: from the open ledger, and from one that is opened anew with other settings.
//
// OC-CTRL-2067
func TestEveryBundleIsTheOneThatWasRecorded(t *testing.T) {
	for _, keep := range []bundle.Keep{{}, {Prompts: true}, {Transcripts: true}, {Prompts: true, Transcripts: true}} {
		l := open(t, Options{Bundles: &keep, offhand: true})
		proofs := map[string]task.Proof{}
		same := func(t *rapid.T, id string) {
			r, ok, err := l.Get(t.Context(), id)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, proofs[id], r.Proof)
			text, err := bundle.Text(r)
			require.NoError(t, err)
			require.Len(t, text, r.Proof.Size)
			found, ok, err := l.Proven(t.Context(), r.Proof.SHA256)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, r, found)
		}
		rapid.Check(t, func(t *rapid.T) {
			seq, err := l.NextSeq()
			require.NoError(t, err)
			r := task.Record{Task: drawTask(t, seq)}
			switch rapid.IntRange(0, 2).Draw(t, "it") {
			case 0: // was dropped before its accept was through
			case 1:
				require.NoError(t, l.Accept(t.Context(), r.Task))
			case 2: // was taken up by another process
				require.NoError(t, l.Accept(t.Context(), r.Task))
				r, _, err = l.Get(t.Context(), r.Task.ID)
				require.NoError(t, err)
			}
			drawEnd(t, &r)
			require.NoError(t, l.Finish(t.Context(), r))
			proofs[r.Task.ID], err = bundle.Prove(r, keep)
			require.NoError(t, err)
			same(t, r.Task.ID)
		})
		o := l.o
		o.Bundles = &bundle.Keep{Prompts: !keep.Prompts}
		require.NoError(t, l.Close())
		l = open(t, o)
		rapid.Check(t, func(t *rapid.T) { same(t, rapid.SampledFrom(slices.Sorted(maps.Keys(proofs))).Draw(t, "id")) })
	}
}
