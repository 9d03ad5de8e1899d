// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// heirs are two workers that save to one folder: what the first holds, the second may restore.
func heirs(t *testing.T) (first *slot, a *llamacpp.Engine, second *slot, b *llamacpp.Engine) {
	first, a = serveSlot(t, piece)
	second, b = serveSlot(t, piece)
	first.files = &folder{slots: map[string][]cell{}}
	second.files = first.files
	return first, a, second, b
}

// What of a restored slot is whole pieces of prompt goes with it, and nothing else: a strict job has the bytes of a cold start, and any other takes what is there.
//
// LO-473, LO-206
func TestARestoredSlotHoldsWhatWasSaved(t *testing.T) {
	first, a, second, b := heirs(t)
	prompt := strings.Repeat("one ", 10) // 41 tokens
	first.ask(a, prompt, engine.ReuseExact)
	saved, err := a.Save(t.Context(), 0, "a.kv")
	require.NoError(t, err)
	require.Equal(t, 44, saved.Tokens)

	next := prompt + "abc and so on"
	require.NoError(t, b.Restore(t.Context(), 0, saved))
	n, calls := second.ask(b, next, engine.ReuseExact)
	require.Equal(t, 2*piece, n)
	require.Contains(t, calls, "cut")
	require.True(t, second.asCold(next))

	require.NoError(t, b.Restore(t.Context(), 0, saved))
	n, _ = second.ask(b, next, engine.ReuseAny)
	require.Equal(t, 44, n)

	first.ask(a, next, engine.ReuseAny) // nobody knows which of its pieces are those of a cold start
	saved, err = a.Save(t.Context(), 0, "a.kv")
	require.NoError(t, err)
	require.NoError(t, b.Restore(t.Context(), 0, saved))
	n, _ = second.ask(b, next, engine.ReuseExact)
	require.Zero(t, n)
	require.True(t, second.asCold(next))
}

// A restore that fails leaves a slot of which nobody knows what it holds, so that a strict job starts cold: where the file is gone, or was cut short.
//
// LO-473, LO-206
func TestARestoreThatFails(t *testing.T) {
	for name, harm := range map[string]func(files map[string][]cell){
		"gone":      func(files map[string][]cell) { delete(files, "a.kv") },
		"cut short": func(files map[string][]cell) { files["a.kv"] = files["a.kv"][:20] },
	} {
		first, a, second, b := heirs(t)
		prompt := strings.Repeat("one ", 10)
		first.ask(a, prompt, engine.ReuseExact)
		saved, err := a.Save(t.Context(), 0, "a.kv")
		require.NoError(t, err)
		second.ask(b, prompt, engine.ReuseExact) // it holds something of its own
		first.files.change(harm)
		require.Error(t, b.Restore(t.Context(), 0, saved), name)
		n, _ := second.ask(b, prompt, engine.ReuseExact)
		require.Zero(t, n, name)
		require.True(t, second.asCold(prompt), name)
	}
}

// LO-473: an engine that saves nothing, or says what cannot be, has saved nothing.
func TestASaveThatFails(t *testing.T) {
	_, e := serveSlot(t, piece)
	_, err := e.Save(t.Context(), 0, "a.kv")
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	for _, answer := range []string{`{}`, `{"n_saved":5}`, `{"n_saved":-1,"n_written":1}`, `{"n_saved":1,"n_written":1e300}`, `[]`} {
		_, err := fake(t, map[string]string{"/slots/0": answer}).Save(t.Context(), 0, "a.kv")
		require.True(t, task.HasCode(err, task.WorkerReset), "%s: %v", answer, err)
	}
}
