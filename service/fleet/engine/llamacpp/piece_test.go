// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// headerOf is a model's file with nothing but a header.
func headerOf(t *testing.T, architecture string, numbers map[string]uint32) string {
	var b bytes.Buffer
	put := func(v any) { require.NoError(t, binary.Write(&b, binary.LittleEndian, v)) }
	text := func(s string) { put(uint64(len(s))); b.WriteString(s) }
	b.WriteString("GGUF")
	put(uint32(3))
	put(uint64(0))
	put(uint64(1 + len(numbers)))
	text("general.architecture")
	put(uint32(8))
	text(architecture)
	for name, n := range numbers {
		text(architecture + "." + name)
		put(uint32(4))
		put(n)
	}
	path := filepath.Join(t.TempDir(), "model.gguf")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	return path
}

// Where whole pieces of prompt are reused, the worker is told their size as that of its batches; elsewhere strict tasks start cold. What was not shown needs the
// operator's word, and what cannot be is not done even then.
// LO-441
func TestPiecesAreReusedWhereThatWasShown(t *testing.T) {
	plain := headerOf(t, "llama", map[string]uint32{"context_length": 4096})
	worker := func(change func(*engine.Worker)) engine.Worker {
		w := engine.Worker{Workload: task.Completion, Model: plain, Slots: 1, Prefixes: engine.Prefixes{Reuse: engine.ReusingWhereProven}}
		if change != nil {
			change(&w)
		}
		return w
	}
	always := func(w *engine.Worker) { w.Prefixes.Reuse = engine.ReusingAlways }
	for name, c := range map[string]struct {
		change        func(*engine.Worker)
		proven, wants int // the pieces with `auto` and with `on`
	}{
		"as it is":         {nil, 256, 256},
		"the built-in one": {func(w *engine.Worker) { w.BuiltIn = true }, 256, 256},
		"a small context":  {func(w *engine.Worker) { w.Ctx = 256 }, 16, 16},
		"a large context":  {func(w *engine.Worker) { w.Ctx = 100_000 }, 512, 512},
		"a chosen size":    {func(w *engine.Worker) { w.Prefixes.Piece = 96 }, 96, 96},
		"a template":       {func(w *engine.Worker) { w.Args = []string{"--jinja", "--chat-template-file", "x.jinja"} }, 256, 256},
		"a card":           {func(w *engine.Worker) { w.Cards = 1 }, 0, 256},
		"quantised KV":     {func(w *engine.Worker) { w.Args = []string{"-ctk", "q8_0"} }, 0, 256},
		"batches":          {func(w *engine.Worker) { w.Args = []string{"--ubatch-size=64"} }, 0, 0},
		"slots":            {func(w *engine.Worker) { w.Slots = 2 }, 0, 0},
		"embeddings":       {func(w *engine.Worker) { w.Workload = task.Embedding }, 0, 0},
		"a window": {func(w *engine.Worker) {
			w.Model = headerOf(t, "llama", map[string]uint32{"context_length": 4096, "attention.sliding_window": 1024})
		}, 0, 0},
		"a state": {func(w *engine.Worker) {
			w.Model = headerOf(t, "mamba", map[string]uint32{"context_length": 4096, "ssm.state_size": 16})
		}, 0, 0},
		"attention in chunks": {func(w *engine.Worker) { w.Model = headerOf(t, "llama4", map[string]uint32{"context_length": 4096}) }, 0, 0},
		"no header":           {func(w *engine.Worker) { w.Model = filepath.Join(t.TempDir(), "none.gguf") }, 0, 0},
	} {
		w := worker(c.change)
		command := llamacpp.Kind().Start.Command(w)
		require.Equal(t, c.proven, command.Piece, name)
		args := strings.Join(command.Args, " ")
		switch {
		case w.BuiltIn:
			require.Contains(t, args, "--ubatch 256")
			require.Equal(t, 256, command.Batch, "it is in the fingerprint")
		case c.proven > 0:
			require.Contains(t, args, strings.ReplaceAll("-b N -ub N", "N", map[int]string{16: "16", 96: "96", 256: "256", 512: "512"}[c.proven]), name)
			require.Equal(t, c.proven, command.Batch, name)
		default:
			require.Contains(t, args, "-b 2048 -ub 512", name)
		}
		always(&w)
		require.Equal(t, c.wants, llamacpp.Kind().Start.Command(w).Piece, name)
		w.Prefixes = engine.Prefixes{Reuse: "off"}
		require.Zero(t, llamacpp.Kind().Start.Command(w).Piece, name)
	}
}
