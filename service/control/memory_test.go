// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
)

// ORCH-3053: what is critical is told to the pools at once, what another program did alone is not; and workers that wait for a
// card are told when it is back.
func TestTroubleIsToldAtOnce(t *testing.T) {
	m, back := NewMemory(zap.NewNop()), 0
	var told []int
	m.Watch(func() { back++ }, func(card int) { told = append(told, card) })
	m.note(gpu.Event{Kind: gpu.XID, XID: 13, Card: 1, Text: "an application's own fault"})
	require.Empty(t, told)
	m.note(gpu.Event{Kind: gpu.XID, XID: 79, Card: 0, Critical: true, Text: "XID 79"})
	m.note(gpu.Event{Kind: gpu.DriverLost, Card: -1, Critical: true, Text: "gone"})
	require.Equal(t, []int{0, -1}, told)
	require.Zero(t, back)
	m.note(gpu.Event{Kind: gpu.CardBack, Card: 0})
	m.note(gpu.Event{Kind: gpu.DriverBack, Card: -1})
	require.Equal(t, 2, back)
}

// LO-503: a pool that would not fit if all others on demand were gone is loaded once all the same, so that the refusal says why.
func TestWhatIsImpossible(t *testing.T) {
	cards := []residency.Card{{Index: hostCard, Free: 100}, {Index: 0, Free: 4}, {Index: 1, Free: 2}}
	held := []residency.Tenant{{ID: "b", Holds: []residency.Share{{Card: 0, Bytes: 4}}}}
	wants := func(bytes int64, shares ...residency.Share) residency.Tenant {
		return residency.Tenant{ID: "a", Wants: []residency.Want{{Bytes: bytes, Shares: shares}}}
	}
	require.True(t, possible(cards, held, wants(8)))
	require.False(t, possible(cards, held, wants(9)), "the host's memory is no card's")
	require.True(t, possible(cards, held, wants(0, residency.Share{Card: 0, Bytes: 8}, residency.Share{Card: 1, Bytes: 2})))
	require.False(t, possible(cards, held, wants(0, residency.Share{Card: 0, Bytes: 2}, residency.Share{Card: 1, Bytes: 3})))
	require.False(t, possible(cards, held, wants(0, residency.Share{Card: 1, Bytes: 3}, residency.Share{Card: 0, Bytes: 2})))
	require.True(t, possible(cards, held, wants(0, residency.Share{Card: hostCard, Bytes: 90})))
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
		ledger := vram.NewLedger(vram.LedgerOptions{Snapshot: func() gpu.Inventory { return inventory }, Now: func() time.Time { return now }})
		bytes := rapid.Int64Range(1, 6).Draw(t, "bytes")
		want, fits := residency.ChooseCard(free, bytes)
		got, err := ledger.Reserve("a", vram.Wish{Device: vram.Auto, Bytes: bytes})
		require.Equal(t, fits, err == nil, "%v", err)
		if fits {
			require.Equal(t, []int{want}, got.Cards)
		}
	})
}

// LO-503, LO-103: a first load is predicted by the measured rate of others, and not at all without one.
func TestAFirstLoadIsPredictedByTheRateOfOthers(t *testing.T) {
	require.Zero(t, asFast(nil, 8))
	loaded := []pool.Info{
		{LoadTime: 2 * time.Second, EstimateBytes: 10},
		{LoadTime: 4 * time.Second, EstimateBytes: 20},
		{LoadTime: time.Hour},
		{EstimateBytes: 1 << 40},
	}
	require.Equal(t, 8*time.Second, asFast(loaded, 40))
	require.Zero(t, asFast(loaded[2:], 40))
	longest, bytes := slowest(loaded[:2])
	require.Equal(t, 4*time.Second, longest)
	require.EqualValues(t, 20, bytes)
}
