// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
)

const haikuFile = "../../../../models/haiku/haiku.gguf"

func fileSize(t *testing.T) int64 {
	stat, err := os.Stat(haikuFile)
	require.NoError(t, err)
	return stat.Size()
}

func estimateOf(w engine.Worker, bytes int64) (engine.Estimate, error) {
	s, unread := size(w, bytes)
	e, err := s.At(256)
	return e, errors.Join(unread, err)
}

// ORCH-3003, LO-501
func TestTheBundledModelIsEstimated(t *testing.T) {
	of := func(change func(*engine.Worker)) engine.Estimate {
		w := engine.Worker{Model: haikuFile, Slots: 1}
		change(&w)
		e, err := estimateOf(w, fileSize(t))
		require.NoError(t, err)
		return e
	}
	cpu := of(func(*engine.Worker) {})
	require.Empty(t, cpu.Cards)
	require.Greater(t, cpu.Host, int64(processHost)+fileSize(t))
	require.Less(t, cpu.Host, int64(128*mebi))
	require.Greater(t, of(func(w *engine.Worker) { w.Slots = 64 }).Host, cpu.Host, "each slot has a context of its own")

	one := of(func(w *engine.Worker) { w.Cards = 1 })
	require.Len(t, one.Cards, 1)
	require.Greater(t, one.Cards[0], int64(cardContext)+fileSize(t))
	require.Less(t, one.Cards[0], int64(cardContext+64*mebi))

	split := of(func(w *engine.Worker) { w.Cards, w.Split = 2, []float64{3, 1} })
	require.Len(t, split.Cards, 2)
	all := vram.Sum(split.Cards, []float64{0.75, 0.25})
	require.GreaterOrEqual(t, float64(all)*0.75, float64(split.Cards[0]))
	require.GreaterOrEqual(t, float64(all)*0.25, float64(split.Cards[1]), "the smaller part bounds it")
}

// ORCH-3003
func TestAFileThatIsNotUnderstoodIsGuessed(t *testing.T) {
	whole, err := os.ReadFile(haikuFile)
	require.NoError(t, err)
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		broken := append([]byte(nil), whole[:rapid.IntRange(0, 4096).Draw(t, "length")]...)
		for range rapid.IntRange(0, 4).Draw(t, "hits") {
			if len(broken) > 0 {
				broken[rapid.IntRange(0, len(broken)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			}
		}
		path := filepath.Join(dir, "broken.gguf")
		require.NoError(t, os.WriteFile(path, broken, 0o600))
		for cards := range 2 {
			e, err := estimateOf(engine.Worker{Model: path, Cards: cards, Slots: 1}, 1000*mebi)
			if err == nil {
				require.Positive(t, e.Host)
				continue
			}
			guessed := e.Host
			if cards > 0 {
				guessed = e.Cards[0]
			}
			require.GreaterOrEqual(t, guessed, int64(1200*mebi))
		}
	})
}
