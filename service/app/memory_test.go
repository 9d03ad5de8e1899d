// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/gpu"
	"github.com/llama-orch/llama-orch/service/placement"
)

// ORCH-3011, ORCH-3052
func TestMasksAndShares(t *testing.T) {
	cards, err := indices("auto")
	require.NoError(t, err)
	require.Empty(t, cards)
	cards, err = indices("0,1")
	require.NoError(t, err)
	require.Equal(t, []int{0, 1}, cards)
	for _, bad := range []string{"x", "", "0,"} {
		_, err := indices(bad)
		require.ErrorContains(t, err, "no list of GPU indices", bad)
	}
	require.Equal(t, []gpu.Share{{Card: 1, Bytes: 9}}, shares([]int{1}, nil, 9))
	require.Equal(t, []gpu.Share{{Card: 0, Bytes: 6}, {Card: 1, Bytes: 3}}, shares([]int{0, 1}, []float64{2, 1}, 9))
}

// ORCH-3053: trouble is that of the worker's own cards, and of its own time.
func TestProblemsOfCards(t *testing.T) {
	m, born := newMemory(zap.NewNop()), time.Now()
	m.note(gpu.Event{At: born.Add(-time.Second), Kind: gpu.XID, Card: 0, Text: "before it was born"})
	require.Empty(t, m.problems([]int{0}, born))
	m.note(gpu.Event{At: born.Add(time.Second), Kind: gpu.XID, Card: 1, Text: "fell off the bus"})
	m.note(gpu.Event{At: born.Add(2 * time.Second), Kind: gpu.CardBack, Card: 1, Text: "is back"})
	require.Empty(t, m.problems([]int{0}, born))
	require.Equal(t, "fell off the bus", m.problems([]int{0, 1}, born))
	m.note(gpu.Event{At: born.Add(3 * time.Second), Kind: gpu.DriverLost, Card: -1, Text: "the driver is gone"})
	require.Equal(t, "the driver is gone", m.problems([]int{0}, born))
	for range 2 * troubleKept {
		m.note(gpu.Event{At: born, Kind: gpu.XID, Card: 5, Text: "more"})
	}
	require.Len(t, m.trouble, troubleKept)
}

// LO-501, LO-503: the plan of swaps and the ledger, which must not know each other, choose the same card.
func TestPropertyPlanAndLedgerChooseTheSameCard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now, free := time.Now(), map[int]int64{}
		inventory := gpu.Inventory{Seq: 1, At: now, Driver: "570"}
		for i := range rapid.IntRange(1, 5).Draw(t, "cards") {
			free[i] = rapid.Int64Range(0, 6).Draw(t, "free")
			inventory.Cards = append(inventory.Cards, gpu.Card{Index: i, Total: 8, Free: free[i], Used: 8 - free[i], Healthy: true})
		}
		ledger := gpu.NewLedger(gpu.LedgerOptions{Snapshot: func() gpu.Inventory { return inventory }, Now: func() time.Time { return now }})
		bytes := rapid.Int64Range(1, 6).Draw(t, "bytes")
		want, fits := placement.ChooseCard(free, bytes)
		got, err := ledger.ReserveAuto("a", bytes)
		require.Equal(t, fits, err == nil, "%v", err)
		if fits {
			require.Equal(t, want, got)
		}
	})
}
