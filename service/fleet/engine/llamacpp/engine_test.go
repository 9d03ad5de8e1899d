// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

const prompt = "Write a haiku about GPUs containing \"forty-two\".\n\n"

func job(change func(*engine.Job)) engine.Job {
	j := engine.Job{
		Workload: task.Completion, Prompt: prompt, Seed: 7, MaxTokens: 64,
		Sampling: task.Sampling{Temperature: 0.8, TopP: 0.95, TopK: 40, MinP: 0.05, RepeatPenalty: 1},
	}
	if change != nil {
		change(&j)
	}
	return j
}

func collect(b *strings.Builder) func(task.Piece) error {
	return func(p task.Piece) error {
		if p.Kind != task.EventText || p.Text == "" || !utf8.ValidString(p.Text) {
			return errors.New("emit was called with no text, or with half a rune")
		}
		b.WriteString(p.Text)
		return nil
	}
}

func generate(t *testing.T, e *llamacpp.Engine, j engine.Job) (string, engine.Result) {
	t.Helper()
	var b strings.Builder
	r, err := e.Generate(t.Context(), j, collect(&b))
	require.NoError(t, err)
	return b.String(), r
}

// ORCH-3054
func TestEngineTellsItsProps(t *testing.T) {
	e, _ := launch(t, task.Completion, 0)
	p, err := e.Props(t.Context())
	require.NoError(t, err)
	require.Equal(t, 256, p.Ctx)
	require.Equal(t, 1, p.Slots)
	require.NotEmpty(t, p.Build)

	n, err := e.CountTokens(t.Context(), prompt)
	require.NoError(t, err)
	require.Equal(t, 22, n)

	got, err := e.ApplyTemplate(t.Context(), []task.Message{{Role: "system", Content: "Be brief."}, {Role: "user", Content: strings.TrimSpace(prompt)}}, nil)
	require.NoError(t, err)
	require.Equal(t, prompt, got)
}

// ORCH-3054
func TestGenerate(t *testing.T) {
	e, _ := launch(t, task.Completion, 0)
	text, r := generate(t, e, job(func(j *engine.Job) { j.Sampling.Temperature = 0 }))
	require.Equal(t, "GPUs once more\nforty-two kernels at night\nthe thread is glowing", text)
	require.Equal(t, 22, r.TokensIn)
	require.Positive(t, r.TokensOut)
	require.Equal(t, task.FinishStop, r.Finish)
	require.Positive(t, r.Decode)
	require.Positive(t, r.Prefill)

	text, r = generate(t, e, job(func(j *engine.Job) { j.Sampling.Temperature, j.MaxTokens = 0, 3 }))
	require.Equal(t, "GPUs ", text)
	require.Equal(t, 3, r.TokensOut)
	require.Equal(t, task.FinishLength, r.Finish)
}

// ORCH-3054
func TestStopStringsEndTheText(t *testing.T) {
	e, _ := launch(t, task.Completion, 0)
	text, r := generate(t, e, job(func(j *engine.Job) {
		j.Sampling.Temperature, j.Sampling.Stop = 0, []string{"o kernels a", "zzz"}
	}))
	require.Equal(t, "GPUs once more\nforty-tw", text)
	require.Equal(t, task.FinishStop, r.Finish)
}

// ORCH-3054
func TestPromptThatIsTooLongIsRefused(t *testing.T) {
	e, _ := launch(t, task.Completion, 0)
	long := strings.Repeat("frog pond ", 200)
	n, err := e.CountTokens(t.Context(), long)
	require.NoError(t, err)
	none := func(task.Piece) error { return errors.New("no token may come") }
	_, err = e.Generate(t.Context(), job(func(j *engine.Job) { j.Prompt = long }), none)
	require.True(t, task.HasCode(err, task.InvalidParams), err)
	require.ErrorContains(t, err, "the context holds 256")
	require.ErrorContains(t, err, "shorten it by")
	// Told a wrong count, it is the engine that refuses.
	_, err = e.Generate(t.Context(), job(func(j *engine.Job) { j.Prompt, j.PromptTokens = long, 5 }), none)
	require.True(t, task.HasCode(err, task.InvalidParams), err)
	require.Contains(t, task.AsError(err).Message, "shorten it by")
	require.False(t, task.AsError(err).Retriable)
	require.Greater(t, n, 256)
}

// ORCH-3054
func TestEmbedding(t *testing.T) {
	e, _ := launch(t, task.Embedding, 0)
	raw, r, err := e.Embed(t.Context(), engine.Job{Workload: task.Embedding, Inputs: []string{"rain", "a queue of jobs", "rain"}})
	require.NoError(t, err)
	var body struct{ Embeddings [][]float64 }
	require.NoError(t, json.Unmarshal(raw, &body))
	require.Len(t, body.Embeddings, 3)
	require.Equal(t, body.Embeddings[0], body.Embeddings[2])
	require.NotEqual(t, body.Embeddings[0], body.Embeddings[1])
	for _, v := range body.Embeddings {
		var sum float64
		for _, x := range v {
			sum += x * x
		}
		require.InDelta(t, 1, math.Sqrt(sum), 1e-5)
	}
	require.Equal(t, task.FinishResult, r.Finish)
	require.Positive(t, r.TokensIn)

	one, _, err := e.Embed(t.Context(), engine.Job{Workload: task.Embedding, Prompt: "rain"})
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(one, &body))
	require.Len(t, body.Embeddings, 1)

	_, _, err = e.Embed(t.Context(), engine.Job{Workload: task.Embedding, Inputs: []string{strings.Repeat("frog pond ", 400)}})
	require.Error(t, err)
	_, _, err = e.Rerank(t.Context(), engine.Job{Workload: task.Rerank, Prompt: "rain", Inputs: []string{"a"}})
	require.Error(t, err)
}

// ORCH-3054
func BenchmarkStreamFromTheEngine(b *testing.B) {
	e, _ := launch(b, task.Completion, 0)
	tokens := 0
	for b.Loop() {
		r, err := e.Generate(b.Context(), job(func(j *engine.Job) {
			j.Sampling, j.MaxTokens = task.Sampling{Temperature: 1000, TopP: 1, RepeatPenalty: 1}, 0
		}), func(task.Piece) error { return nil })
		require.NoError(b, err)
		tokens += r.TokensOut
	}
	b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
}
