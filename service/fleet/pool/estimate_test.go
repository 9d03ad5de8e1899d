// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const haikuFile = "../../../models/haiku/haiku.gguf"

func fileSize(t *testing.T, path string) int64 {
	stat, err := os.Stat(path)
	require.NoError(t, err)
	return stat.Size()
}

func estimateOf(spec Spec, size int64) (estimate, error) {
	s, unread := newSizer(spec, size)
	e, err := s.at(spec.Ctx)
	return e, errors.Join(unread, err)
}

// ORCH-3003, LO-501
func TestTheBundledModelIsEstimated(t *testing.T) {
	of := func(change func(*Spec)) estimate {
		spec := Spec{ID: "p", ModelPath: haikuFile, Mode: Binary, Device: "cpu", Ctx: 256, Slots: 1}
		change(&spec)
		e, err := estimateOf(spec, fileSize(t, haikuFile))
		require.NoError(t, err)
		return e
	}
	cpu := of(func(*Spec) {})
	require.Empty(t, cpu.cards)
	require.Greater(t, cpu.host, int64(processHost)+fileSize(t, haikuFile))
	require.Less(t, cpu.host, int64(128*mebi))
	require.Greater(t, of(func(s *Spec) { s.Slots = 64 }).host, cpu.host, "each slot has a context of its own")

	one := of(func(s *Spec) { s.Device = "auto" })
	require.Len(t, one.cards, 1)
	require.Greater(t, one.cards[0], int64(cardContext)+fileSize(t, haikuFile))
	require.Less(t, one.cards[0], int64(cardContext+64*mebi))

	split := of(func(s *Spec) { s.Device, s.TensorSplit = "0,1", []float64{3, 1} })
	require.Len(t, split.cards, 2)
	all := total(split.cards, []float64{0.75, 0.25})
	require.GreaterOrEqual(t, float64(all)*0.75, float64(split.cards[0]))
	require.GreaterOrEqual(t, float64(all)*0.25, float64(split.cards[1]), "the smaller part bounds it")
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
		for _, device := range []string{"cpu", "0"} {
			e, err := estimateOf(Spec{ModelPath: path, Mode: Binary, Device: device, Ctx: 256, Slots: 1}, 1000*mebi)
			if err == nil {
				require.Positive(t, e.host)
				continue
			}
			guessed := e.host
			if device == "0" {
				guessed = e.cards[0]
			}
			require.GreaterOrEqual(t, guessed, int64(1200*mebi))
		}
	})
}
