// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/energy"
	"github.com/llama-orch/llama-orch/service/task"
)

// watts is what each card of a powered rig takes, whatever it does.
const watts = 100

// powered is a rig whose replicas are on cards that have counters, which answer a millisecond after somebody looks. Spent is what each task was charged.
func powered(t *testing.T, cards ...[]int) (*rig, *charges) { return poweredOn(t, cards) }

// poweredOn is the same on what an earlier process left.
func poweredOn(t *testing.T, cards [][]int, left ...task.Record) (*rig, *charges) {
	r := newUnstartedRig(t, &book{records: map[string]task.Record{}}, len(cards), nil)
	began := time.Now()
	var m *energy.Meter
	m = energy.New(energy.Options{
		Tariff: energy.Tariff{PerKWh: 3600},
		Look: func() {
			time.AfterFunc(time.Millisecond, func() {
				now := time.Now()
				joules := 1000 + watts*now.Sub(began).Seconds()
				m.Take([]energy.Reading{{Card: 0, UUID: "a", At: now, Joules: joules}, {Card: 1, UUID: "b", At: now, Joules: joules}, {Card: 2, UUID: "c", At: now}})
			})
		},
	})
	m.Take([]energy.Reading{{Card: 0, UUID: "a", At: began, Joules: 1000}, {Card: 1, UUID: "b", At: began, Joules: 1000}, {Card: 2, UUID: "c", At: began}})
	for i, on := range cards {
		r.replicas[i].cards = on
	}
	c := &charges{took: map[string]*task.Energy{}}
	r.s.o.Energy, r.s.o.Sessions = meterOf{m}, c
	r.s.Recover(left)
	require.NoError(t, r.s.Start(t.Context()))
	return r, c
}

type meterOf struct{ *energy.Meter }

func (m meterOf) Begin(cards []int, now time.Time) Use {
	if u := m.Meter.Begin(cards, now); u != nil {
		return u
	}
	return nil
}

// charges keeps what tasks are said to have taken when they end.
type charges struct {
	noSessions

	mu   sync.Mutex
	took map[string]*task.Energy
}

func (c *charges) Charge(r task.Record, _ time.Duration, e *task.Energy) *task.Charge {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took[r.Task.ID] = e
	return nil
}

func tokensOf(n int) func(*task.Task) { return func(t *task.Task) { t.Request.MaxTokens = n } }

// LO-504, LO-626: the end of a task on a card says what the card took while it ran, and what that cost. It is in the record, and in the pool's sum.
func TestAnEndTellsTheEnergy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := powered(t, []int{0})
		r.must("a", tokensOf(10)) // 100 ms at 100 W
		require.Contains(t, r.read("a"), `"energy_j":10,"energy_cost":0.01`)
		end := r.book.records["a"].End
		require.InDelta(t, 10, *end.EnergyJ, 1e-9)
		require.InDelta(t, 10, c.took["a"].Joules, 1e-6)
		require.Equal(t, end, r.status("a").End)
		require.Equal(t, end.EnergyJ, r.status("a").EnergyJ)
		require.InDelta(t, 10, r.counter("llorch_task_energy_joules_total"), 1e-6)
		r.stop()
	})
}

// LO-504: tasks on one card share what it takes while they run together.
func TestTasksOfOneWorkerShareItsEnergy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := powered(t, []int{0, 1})
		r.replicas[0].slots = 2
		r.must("short", bestEffort, tokensOf(10))
		r.must("long", bestEffort, tokensOf(30))
		r.read("long")
		require.InDelta(t, 2*5, c.took["short"].Joules, 1e-6, "half of 100 ms, of two cards")
		require.InDelta(t, 2*(5+20), c.took["long"].Joules, 1e-6)
		r.stop()
	})
}

// LO-504: a task that was decoded again is told all of its runs.
func TestATaskThatMovedIsToldAllOfItsRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := powered(t, []int{0}, []int{1})
		r.set(func() { r.replicas[0].dies = 5 })
		r.must("a", tokensOf(10))
		require.Contains(t, r.read("a"), `"energy_j":16`, "six steps of 10 ms until the worker died, and ten more")
		require.InDelta(t, 16, c.took["a"].Joules, 1e-6)
		r.stop()
	})
}

// LO-504: a task that is canceled has no end, but is charged what was taken for it by then.
func TestACanceledTaskIsChargedItsEnergy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := powered(t, []int{0})
		r.must("a", tokensOf(1000))
		time.Sleep(505 * time.Millisecond)
		_, err := r.s.Cancel(t.Context(), "a")
		require.NoError(t, err)
		require.InDelta(t, 50.5, c.took["a"].Joules, 1e-6)
		require.InDelta(t, 50.5, *r.book.records["a"].EnergyJ, 1e-9)
		require.InDelta(t, 0.0505, *r.status("a").EnergyCost, 1e-9)
		require.NotContains(t, r.read("a"), "energy")
		require.InDelta(t, 50.5, r.counter("llorch_task_energy_joules_total"), 1e-6)
		r.must("b")
		r.must("c") // waits
		_, err = r.s.Cancel(t.Context(), "c")
		require.NoError(t, err)
		require.Nil(t, c.took["c"], "it never ran")
		require.Nil(t, r.status("c").EnergyJ)
		r.stop()
	})
}

// LO-504: nothing is told of a task that ran on no card, on one without a counter, or partly in another process.
func TestWhatNobodyCountedIsLeftOut(t *testing.T) {
	for name, cards := range map[string][]int{"no card": nil, "no counter": {2}, "one of two has none": {0, 2}} {
		synctest.Test(t, func(t *testing.T) {
			r, c := powered(t, cards)
			r.must("a")
			began := time.Now()
			text := r.read("a")
			require.Contains(t, text, "event: end", name)
			require.NotContains(t, text, "energy", name)
			require.Equal(t, 100*time.Millisecond, time.Since(began), "%s: nothing was waited for", name)
			require.Nil(t, c.took["a"], name)
			require.Zero(t, r.counter("llorch_task_energy_joules_total"))
			r.stop()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r, _ := powered(t, []int{0})
		r.must("a", tokensOf(100))
		time.Sleep(105 * time.Millisecond)
		left := r.crash()
		again, c := poweredOn(t, [][]int{{0}}, left...)
		text := again.read("a")
		require.Contains(t, text, "event: end")
		require.NotContains(t, text, "energy")
		require.Nil(t, c.took["a"])
		again.stop()
	})
}
