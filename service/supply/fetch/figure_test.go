// SPDX-License-Identifier: GPL-3.0-or-later

package fetch_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-802: sizes that a hub tells, and whose sum is no number any more, are refused before a byte is fetched.
func TestSizesThatCannotBe(t *testing.T) {
	s := start(t, "hf")
	s.put(t, "m-00001-of-00002.gguf", model(size))
	s.put(t, "m-00002-of-00002.gguf", model(size))
	s.Lie = func(file map[string]any) {
		file["size"] = int64(math.MaxInt64)
		delete(file, "lfs")
	}
	b := s.fetcher(t, t.TempDir())
	_, err := b.fetch(t.Context(), parse(t, s.RefTo("m-00001-of-00002.gguf")), fetch.Options{})
	require.True(t, task.HasCode(err, task.TooLarge), "%v", err)
	require.Empty(t, s.Requests())
	require.Empty(t, left(t, b.dir))
}

// LO-806: a hub that is wrong about a file's length stays wrong. That is no outage, and nothing of the file is kept.
func TestALengthThatStaysWrong(t *testing.T) {
	for name, wrong := range map[string]int64{"longer": size + 5000, "shorter": size - 5000, "much longer": 50 * size} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "hf")
			s.put(t, "m.gguf", model(size))
			s.Lie = func(file map[string]any) {
				file["size"] = wrong
				delete(file, "lfs")
			}
			b := s.fetcher(t, t.TempDir())
			_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
			require.True(t, task.HasCode(err, task.UntrustedArtifact), "%v", err)
			require.False(t, task.AsError(err).Retriable)
			require.Empty(t, left(t, b.dir))
		})
	}
}

// LO-806: a file that is there, and cannot be read.
func TestAFileThatCannotBeReadToItsEnd(t *testing.T) {
	s := start(t, "hf")
	b := s.fetcher(t, t.TempDir())
	_, err := b.fetch(t.Context(), parse(t, "file:/proc/self/mem"), fetch.Options{})
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.Contains(t, task.AsError(err).Message, "name the model's file itself")
}
