// SPDX-License-Identifier: GPL-3.0-or-later

// Package enginetest holds every engine to what package engine promises of it.
package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// Replica is an engine under test, with what runs it.
type Replica struct {
	Engine engine.Engine
	// Kill ends what runs the engine, at once.
	Kill func() error
}

// Options say what is tested.
type Options struct {
	// Launch starts an engine for a workload that ends with the test. A slow one decodes so slowly that its streams are still
	// going on when a test ends them.
	Launch func(t testing.TB, w task.Workload, slow bool) Replica
	Ctx    int // tokens that a slot's context holds
	// Rerank: the engine is launched for rerank jobs, too. Every engine completes, and one with the face embeds.
	Rerank bool
	// Uncounted: the engine tells neither its context nor its slots, nor the tokens of a prompt.
	Uncounted bool
	// Rough: the engine does not tell its context, or how many tokens a prompt has. An answer without a bound may then end before the context is full.
	Rough bool
	// KV: what a job left in its slot is used by the next one, and can be erased.
	KV bool
}

const prompt = "Write a haiku about GPUs containing \"forty-two\".\n\n"

// job makes a completion of at most so many tokens, 0: as many as the context holds, that hardly ever ends by itself.
func job(seed uint32, most int) engine.Job {
	return engine.Job{
		Workload: task.Completion, Prompt: prompt, Seed: seed, MaxTokens: most,
		Sampling: task.Sampling{Temperature: 1000, TopP: 1, RepeatPenalty: 1},
	}
}

// suite is one engine under test.
type suite struct {
	Options
	t *testing.T
	e engine.Engine
	r Replica
}

// Run runs the tests. They are ORCH-3054's, and ORCH-3026's, ORCH-3045's and LO-209's where they say so.
func Run(t *testing.T, o Options) {
	for _, c := range []struct {
		name     string
		workload task.Workload
		slow     bool
		test     func(*suite)
	}{
		{"props", task.Completion, false, (*suite).props},
		{"tokens", task.Completion, false, (*suite).tokens},
		{"seeds", task.Completion, false, (*suite).seeds},
		{"stops", task.Completion, false, (*suite).stops},
		{"context", task.Completion, false, (*suite).context},
		{"too long", task.Completion, false, (*suite).tooLong},
		{"chat", task.Completion, false, (*suite).chat},
		{"cancel", task.Completion, true, (*suite).cancel},
		{"refusal by the reader", task.Completion, true, (*suite).readerStops},
		{"death", task.Completion, true, (*suite).death},
		{"KV", task.Completion, false, (*suite).kv},
		{"continue", task.Completion, false, (*suite).goesOn},
		{"embedding", task.Embedding, false, (*suite).embedding},
		{"rerank", task.Rerank, false, (*suite).rerank},
	} {
		if c.workload == task.Rerank && !o.Rerank {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			r := o.Launch(t, c.workload, c.slow)
			c.test(&suite{o, t, r.Engine, r})
		})
	}
}

// generate runs a job and returns its text, which has to be whole runes.
func (s *suite) generate(j engine.Job) (string, engine.Result) {
	s.t.Helper()
	var b strings.Builder
	r, err := s.e.Generate(s.t.Context(), j, func(p task.Piece) error {
		if p.Kind != task.EventText || p.Text == "" || !utf8.ValidString(p.Text) {
			return errors.New("emit was called with no text, or with half a rune")
		}
		b.WriteString(p.Text)
		return nil
	})
	require.NoError(s.t, err)
	return b.String(), r
}

// idle waits until the engine has no busy slot, where it tells.
func (s *suite) idle() {
	s.t.Helper()
	counter, ok := s.e.(engine.BusyCounter)
	for ok {
		busy, err := counter.Busy(s.t.Context())
		require.NoError(s.t, err)
		ok = busy > 0
	}
}

func (s *suite) props() {
	require.NoError(s.t, s.e.Health(s.t.Context()))
	p, err := s.e.Props(s.t.Context())
	require.NoError(s.t, err)
	require.GreaterOrEqual(s.t, p.Slots, 0)
	if s.Uncounted {
		require.Zero(s.t, p.Slots)
	} else if !s.Rough || p.Ctx > 0 {
		require.Equal(s.t, s.Ctx, p.Ctx)
	}
	require.NotEmpty(s.t, p.Build)
	s.idle()
}

func (s *suite) tokens() {
	text, r := s.generate(job(7, 5))
	require.NotEmpty(s.t, text)
	require.Equal(s.t, 5, r.TokensOut)
	require.Equal(s.t, task.FinishLength, r.Finish)
	require.Equal(s.t, s.Uncounted, r.TokensIn == 0)
	counter, ok := s.e.(engine.TokenCounter)
	if !ok {
		return
	}
	n, err := counter.CountTokens(s.t.Context(), prompt)
	require.NoError(s.t, err)
	require.Equal(s.t, r.TokensIn, n, "tokens are counted as they are decoded")
	for _, text := range []string{"a", " ", "\n\n\n", "frog pond", "🐸", "蛙の池", "\x00\x01", "<s></s>", strings.Repeat(" ", 99), strings.Repeat("é", 99)} {
		n, err := counter.CountTokens(s.t.Context(), text)
		require.NoError(s.t, err)
		require.LessOrEqual(s.t, n, engine.MostTokens(text), "%q", text)
	}
	told := job(7, 5)
	told.PromptTokens = n
	again, _ := s.generate(told)
	require.Equal(s.t, text, again)
}

// seeds: the same prompt, parameters and seed give the same bytes, whatever ran before (ORCH-3045).
func (s *suite) seeds() {
	seen := map[string]bool{}
	for _, seed := range []uint32{0, 1, 2, task.MaxSeed} {
		first, _ := s.generate(job(seed, 16))
		other := job(seed+100, 16)
		other.Prompt = "Write a haiku about tea.\n\n"
		s.generate(other)
		again, _ := s.generate(job(seed, 16))
		require.Equal(s.t, first, again)
		seen[first] = true
	}
	require.Len(s.t, seen, 4)
}

func (s *suite) stops() {
	whole, _ := s.generate(job(7, 16))
	runes := []rune(whole)
	require.Greater(s.t, len(runes), 4)
	stop := string(runes[len(runes)/2 : len(runes)/2+3])
	j := job(7, 16)
	j.Sampling.Stop = []string{stop, "a text that never comes"}
	text, r := s.generate(j)
	before, _, _ := strings.Cut(whole, stop)
	require.Equal(s.t, before, text)
	require.Equal(s.t, task.FinishStop, r.Finish)
}

// context: it is filled, and never shifted.
func (s *suite) context() {
	if s.Uncounted {
		return
	}
	for seed, most := range []int{0, 0, 100000} {
		_, r := s.generate(job(uint32(seed), most))
		require.LessOrEqual(s.t, r.TokensIn+r.TokensOut, s.Ctx)
		if r.Finish == task.FinishLength && !s.Rough {
			require.Equal(s.t, s.Ctx, r.TokensIn+r.TokensOut)
		}
	}
}

func (s *suite) tooLong() {
	long := job(7, 5)
	long.Prompt = strings.Repeat("frog pond ", 2*s.Ctx)
	none := func(task.Piece) error { return errors.New("no token may come") }
	_, err := s.e.Generate(s.t.Context(), long, none)
	require.True(s.t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.False(s.t, task.AsError(err).Retriable)
	long.PromptTokens = 5 // told a wrong count, it is the engine that refuses
	_, err = s.e.Generate(s.t.Context(), long, none)
	require.True(s.t, task.HasCode(err, task.InvalidParams), "%v", err)
	s.idle()
}

// chat: messages are decoded as the prompt that they make.
func (s *suite) chat() {
	messages := []task.Message{{Role: "user", Content: "Write a haiku about rain."}}
	templater, templates := s.e.(engine.Templater)
	_, chats := s.e.(engine.Chatter)
	var fromPrompt, fromMessages string
	if templates {
		text, err := templater.ApplyTemplate(s.t.Context(), messages, nil)
		require.NoError(s.t, err)
		require.Contains(s.t, text, "rain")
		j := job(7, 8)
		j.Prompt = text
		fromPrompt, _ = s.generate(j)
		require.NotEmpty(s.t, fromPrompt)
	}
	if chats {
		j := job(7, 8)
		j.Prompt, j.Messages = "", messages
		fromMessages, _ = s.generate(j)
		require.NotEmpty(s.t, fromMessages)
	}
	if templates && chats {
		require.Equal(s.t, fromPrompt, fromMessages)
	}
}

// cancel: nothing is emitted after the end, its cause comes back, and the slot is free (ORCH-3026).
func (s *suite) cancel() {
	cause := errors.New("canceled by the user")
	ctx, cancel := context.WithCancelCause(s.t.Context())
	tokens := 0
	_, err := s.e.Generate(ctx, job(7, 0), func(task.Piece) error {
		if tokens++; tokens == 3 {
			cancel(cause)
		}
		return nil
	})
	require.ErrorIs(s.t, err, cause)
	require.Equal(s.t, 3, tokens, "nothing is emitted after the end")
	s.idle()
	text, _ := s.generate(job(7, 1))
	require.NotEmpty(s.t, text)
}

// readerStops: the error of who reads the tokens ends the run and comes back as it is.
func (s *suite) readerStops() {
	stop, tokens := errors.New("sealed"), 0
	_, err := s.e.Generate(s.t.Context(), job(7, 0), func(task.Piece) error { tokens++; return stop })
	require.Equal(s.t, stop, err)
	require.Equal(s.t, 1, tokens)
	s.idle()
}

// death: what runs the engine is gone in the middle of a stream.
func (s *suite) death() {
	_, err := s.e.Generate(s.t.Context(), job(7, 0), func(task.Piece) error { return s.r.Kill() })
	require.True(s.t, task.HasCode(err, task.WorkerReset), "%v", err)
	require.True(s.t, task.AsError(err).Retriable)
	require.True(s.t, task.HasCode(s.e.Health(s.t.Context()), task.WorkerReset))
}

// kv: what a job left in its slot is told, used where that may be, and erased.
func (s *suite) kv() {
	keeper, ok := s.e.(engine.Keeper)
	if !ok || !s.KV {
		return
	}
	run := func(reuse engine.Reuse) (told int, r engine.Result) {
		told = -1
		j := job(7, 4)
		j.Reuse, j.Cached = reuse, func(n int) { told = n }
		_, r = s.generate(j)
		require.Equal(s.t, r.Cached, told, "it is told before the first token")
		return told, r
	}
	slot := func(id int) engine.Slot {
		s.idle()
		slots, err := keeper.Slots(s.t.Context())
		require.NoError(s.t, err)
		for _, found := range slots {
			if found.ID == id {
				return found
			}
		}
		require.Fail(s.t, "there is no such slot")
		return engine.Slot{}
	}
	_, first := run(engine.ReuseNothing)
	was := slot(first.Slot)
	require.True(s.t, was.Told)
	require.Equal(s.t, first.TokensIn+first.TokensOut-1, first.Cells)
	cached, second := run(engine.ReuseAny)
	require.Equal(s.t, second.TokensIn-1, cached)
	require.NotEqual(s.t, was.Job, slot(second.Slot).Job, "another job has been there")
	cached, _ = run(engine.ReuseNothing)
	require.Zero(s.t, cached, "a job that may not use it starts cold, whatever is there")
	require.NoError(s.t, keeper.Erase(s.t.Context(), second.Slot))
	cached, _ = run(engine.ReuseAny)
	require.Zero(s.t, cached)
}

func (s *suite) embedding() {
	face, ok := s.e.(engine.Embedder)
	if !ok {
		return
	}
	vectors := func(j engine.Job) ([][]float64, engine.Result) {
		raw, r, err := face.Embed(s.t.Context(), j)
		require.NoError(s.t, err)
		var body struct{ Embeddings [][]float64 }
		require.NoError(s.t, json.Unmarshal(raw, &body))
		return body.Embeddings, r
	}
	all, r := vectors(engine.Job{Workload: task.Embedding, Inputs: []string{"rain", "a queue of jobs", "rain"}})
	require.Len(s.t, all, 3)
	require.NotEmpty(s.t, all[0])
	require.Equal(s.t, all[0], all[2])
	require.NotEqual(s.t, all[0], all[1])
	require.Equal(s.t, task.FinishResult, r.Finish)
	require.Positive(s.t, r.TokensIn)
	one, _ := vectors(engine.Job{Workload: task.Embedding, Prompt: "rain"})
	require.Equal(s.t, all[:1], one)
}

func (s *suite) rerank() {
	face, ok := s.e.(engine.Reranker)
	require.True(s.t, ok)
	raw, r, err := face.Rerank(s.t.Context(), engine.Job{Workload: task.Rerank, Prompt: "rain on the roof", Inputs: []string{"rain", "a queue", "the roof"}})
	require.NoError(s.t, err)
	var body struct{ Scores []float64 }
	require.NoError(s.t, json.Unmarshal(raw, &body))
	require.Len(s.t, body.Scores, 3)
	require.Equal(s.t, task.FinishResult, r.Finish)
	require.Positive(s.t, r.TokensIn)
}
