// SPDX-License-Identifier: GPL-3.0-or-later

//go:build llamaserver

package llamacpp_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// heard is an answer with how likely its tokens were.
func heard(t *testing.T, e engine.Engine, j engine.Job) (text, likely string, r engine.Result) {
	t.Helper()
	var a, b strings.Builder
	r, err := e.Generate(t.Context(), j, func(p task.Piece) error {
		a.WriteString(p.Text)
		b.WriteString(p.Logprobs)
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, b.String())
	return a.String(), b.String(), r
}

// A slot of a real llama-server is saved, its process ends, and the next one restores it: the turn that follows takes its prompt from there. A strict one takes
// whole pieces of prompt, and has the text and the figures of a cold start.
//
// LO-473, LO-206
func TestARealLlamaServersSlotIsSavedAndRestored(t *testing.T) {
	dir := t.TempDir()
	start := func() (*llamacpp.Engine, *exec.Cmd) {
		_, at, cmd := launchAt(t, task.Completion, "--slot-save-path", dir, "-b", "16", "-ub", "16")
		e := llamacpp.New(engine.Endpoint{URL: at, Key: key, Piece: 16})
		t.Cleanup(e.Close)
		return e, cmd
	}
	turn := func(prompt string, seed uint32, reuse engine.Reuse) engine.Job {
		return job(func(j *engine.Job) {
			j.Prompt, j.Seed, j.MaxTokens, j.Reuse = prompt, seed, 24, reuse
			j.Sampling = task.Sampling{Temperature: 0.8, TopP: 0.95, TopK: 40, RepeatPenalty: 1}
			j.Chat = &task.Chat{Logprobs: &task.Logprobs{Top: 5}}
		})
	}
	for seed, topic := range []string{"GPUs", "rain on the roof", "a queue of old computers", "frogs", "tea"} {
		seed := uint32(seed)
		for _, reuse := range []engine.Reuse{engine.ReuseExact, engine.ReuseAny} {
			first, process := start()
			begin := strings.Repeat("Write a haiku about "+topic+" containing \"forty-two\".\n\n", 3)
			answer, _, was := heard(t, first, turn(begin, seed, reuse))
			saved, err := first.Save(t.Context(), was.Slot, "a.kv")
			require.NoError(t, err)
			require.Equal(t, was.Cells, saved.Tokens)
			require.NoError(t, process.Process.Kill())
			_ = process.Wait()

			next := begin + answer + "\n\nWrite a haiku about the night sky containing \"seven\".\n\n"
			second, _ := start()
			require.NoError(t, second.Restore(t.Context(), 0, saved))
			text, likely, r := heard(t, second, turn(next, seed, reuse))
			cold, _ := start()
			coldText, coldLikely, coldRun := heard(t, cold, turn(next, seed, engine.ReuseNothing))
			require.Zero(t, coldRun.Cached)
			t.Logf("%s: %d of %d tokens came from the file of %d bytes; prefill %s, cold %s", topic, r.Cached, r.TokensIn, saved.Bytes, r.Prefill, coldRun.Prefill)
			if reuse == engine.ReuseAny {
				require.Greater(t, r.Cached, saved.Tokens-16)
				continue
			}
			require.Positive(t, r.Cached)
			require.Zero(t, r.Cached%16)
			require.LessOrEqual(t, r.Cached, was.TokensIn)
			require.Equal(t, coldText, text)
			require.Equal(t, coldLikely, likely)
		}
	}
}

// What is no file of a slot leaves the slot empty, and the next job starts cold.
//
// LO-473
func TestARealLlamaServerRefusesWhatIsNotThere(t *testing.T) {
	e, _ := launch(t, task.Completion, 0)
	require.Error(t, e.Restore(t.Context(), 0, engine.Saved{Name: "gone.kv", Tokens: 1, Bytes: 1}))
	_, err := e.Save(t.Context(), 0, "empty.kv")
	require.Error(t, err, "the slot has held nothing yet")
	_, r := generate(t, e, job(nil))
	require.Zero(t, r.Cached)
}
