// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
)

// LO-802: a header whose counts cannot be costs a guess, and neither the process nor its memory.
func TestAHeaderWithImpossibleCountsIsGuessed(t *testing.T) {
	header := func(tensors, pairs uint64, more ...any) []byte {
		b := []byte("GGUF\x03\x00\x00\x00")
		b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, tensors), pairs)
		for _, m := range more {
			switch m := m.(type) {
			case uint32:
				b = binary.LittleEndian.AppendUint32(b, m)
			case uint64:
				b = binary.LittleEndian.AppendUint64(b, m)
			case string:
				b = append(binary.LittleEndian.AppendUint64(b, uint64(len(m))), m...)
			}
		}
		return b
	}
	const text, array, u32 = uint32(8), uint32(9), uint32(4)
	for shift := 20; shift < 64; shift += 4 {
		n := uint64(1) << shift
		for name, content := range map[string][]byte{
			"tensors":   header(n, 0),
			"settings":  header(0, n),
			"key":       header(0, 1, n),
			"text":      header(0, 1, "k", text, n),
			"texts":     header(0, 1, "k", array, text, n),
			"numbers":   header(0, 1, "k", array, u32, n),
			"layers":    header(0, 1, "a.feed_forward_length", array, u32, n),
			"alignment": header(0, 1, "general.alignment", u32, uint32(0)),
			"parts":     header(0, 1, "split.tensors.count", uint32(10), n),
		} {
			path := filepath.Join(t.TempDir(), "x.gguf")
			require.NoError(t, os.WriteFile(path, content, 0o600))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			s, err := size(engine.Worker{Model: path, Slots: 1}, int64(len(content)))
			runtime.ReadMemStats(&after)
			require.Error(t, err, "%s: %d", name, n)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20), "%s: %d", name, n)
			e, err := s.At(256)
			require.NoError(t, err)
			require.Positive(t, e.Host)
		}
	}
}

// LO-802: the parser reads all parts of a model, so each of them is checked.
func TestAPartWithImpossibleCountsIsGuessed(t *testing.T) {
	dir := t.TempDir()
	whole, err := os.ReadFile(haikuFile)
	require.NoError(t, err)
	first := filepath.Join(dir, "m-00001-of-00002.gguf")
	require.NoError(t, os.WriteFile(first, whole, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "m-00002-of-00002.gguf"), []byte("GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00"), 0o600))
	_, err = size(engine.Worker{Model: first, Slots: 1}, 1000)
	require.ErrorContains(t, err, "it ends within its header")
}
