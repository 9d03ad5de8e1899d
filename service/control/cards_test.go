// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/gpu"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
)

// ORCH-3053: what is critical is told to the pools at once, what another program did alone is not; and workers that wait for a
// card are told when it is back.
func TestTroubleIsToldAtOnce(t *testing.T) {
	m, back := NewCards(zap.NewNop(), config.Energy{}), 0
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

// LO-504, LO-626: what the cards' counters say goes to the tasks, at the prices of the configuration.
func TestCountersAreSplitOverTasks(t *testing.T) {
	c := NewCards(zap.NewNop(), config.Energy{PricePerKWh: 0.36, Night: config.Night{From: "22:30", To: "06:00", PricePerKWh: 0.18}})
	day := time.Date(2026, 1, 2, 12, 0, 0, 0, time.Local)
	counted := func(at time.Time, joules float64) {
		c.count([]gpu.Counter{{Card: 0, UUID: "GPU-0", At: at, Joules: joules}})
	}
	counted(day, 100)
	require.Nil(t, c.Meter().Begin(nil, day), "it is on no card")
	u := c.Meter().Begin([]int{0}, day)
	u.End(day.Add(time.Second))
	counted(day.Add(time.Second), 300)
	took, known := u.Taken()
	require.True(t, known)
	require.InDelta(t, 200, took.Joules, 1e-9)
	require.InDelta(t, 200*0.36/3.6e6, took.Cost, 1e-12)

	night := time.Date(2026, 1, 2, 22, 30, 0, 0, time.Local)
	counted(night, 1000)
	u = c.Meter().Begin([]int{0}, night)
	u.End(night.Add(time.Second))
	counted(night.Add(time.Second), 1200)
	took, known = u.Taken()
	require.True(t, known)
	require.InDelta(t, 200*0.18/3.6e6, took.Cost, 1e-12)
	require.False(t, tariff(config.Energy{}).Set())
}

// LO-501, LO-503: the plan of swaps and the ledger, which must not know each other, choose the same card.
func TestPropertyPlanAndLedgerChooseTheSameCard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now, rooms := time.Now(), []vram.Room{}
		inventory := gpu.Inventory{Seq: 1, At: now, Driver: "570"}
		for i := range rapid.IntRange(1, 5).Draw(t, "cards") {
			free := rapid.Int64Range(0, 6).Draw(t, "free")
			rooms = append(rooms, vram.Room{Card: i, Free: free})
			inventory.Cards = append(inventory.Cards, gpu.Card{Index: i, Total: 8, Free: free, Used: 8 - free, Healthy: true})
		}
		ledger := vram.NewLedger(vram.LedgerOptions{Snapshot: func() gpu.Inventory { return inventory }, Now: func() time.Time { return now }})
		bytes := rapid.Int64Range(1, 6).Draw(t, "bytes")
		want := residency.Decide(now, rooms, []residency.Tenant{
			{ID: "a", Interactive: now, Wants: []residency.Want{{Bytes: bytes}}},
		}, residency.Rules{})
		got, err := ledger.Reserve("a", vram.Wish{Device: vram.Auto, Bytes: bytes})
		require.Equal(t, len(want.Load) > 0, err == nil, "%v", err)
		if err == nil {
			require.Equal(t, []int{rooms[vram.Smallest(rooms, bytes)].Card}, got.Cards)
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

// LO-503: memory that a worker gives back, and that the driver still shows, keeps its pool from being absent. So the plan waits for that memory, instead of
// finding that a model could never have it.
func TestAPoolLeavesUntilTheDriverShowsIt(t *testing.T) {
	const size, pid = 14, 7
	now := time.Now()
	inventory := gpu.Inventory{Seq: 1, At: now, Driver: "570", Cards: []gpu.Card{{Index: 0, Total: 24, Free: 24, Healthy: true}}}
	sample := func(used int64) {
		now = now.Add(time.Second)
		inventory.Seq++
		inventory.At = now
		c := gpu.Card{Index: 0, Total: 24, Used: used, Free: 24 - used, Healthy: true}
		if used > 0 {
			c.Processes = []gpu.Process{{PID: pid, Bytes: used}}
		}
		inventory.Cards = []gpu.Card{c}
	}
	ledger := vram.NewLedger(vram.LedgerOptions{
		Snapshot: func() gpu.Inventory { return inventory }, Now: func() time.Time { return now },
		Group: func(int) (int, bool) { return 0, false },
	})
	stands := func(r pool.Info) residency.Tenant {
		t := residency.Tenant{ID: "first"}
		models{}.tenant(&t, vram.Auto, nil, r, ledger.View())
		return t
	}
	_, err := ledger.Reserve("first-0", vram.Wish{Device: vram.Auto, Bytes: size})
	require.NoError(t, err)
	ledger.Spawned("first-0", pid)
	sample(size)
	ledger.Settle("first-0")
	sample(size)
	require.Equal(t, residency.Loaded, stands(pool.Info{Owner: "first-0", State: pool.Ready, NeedBytes: size}).State)

	ledger.Release("first-0")
	stopped := pool.Info{Owner: "first-0", State: pool.Stopped, NeedBytes: size}
	first := stands(stopped)
	require.Equal(t, residency.Leaving, first.State)
	room := []vram.Room{{Card: 0, Free: ledger.Free(0)}}
	require.EqualValues(t, 10, room[0].Free)
	require.True(t, residency.Possible(room, []residency.Tenant{first}, []residency.Want{{Bytes: size}}), "it will have the memory")
	sample(0)
	require.Equal(t, residency.Absent, stands(stopped).State)
}
