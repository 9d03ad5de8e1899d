// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func simulate(t *testing.T, box Box, load []Task, p Policy) *Result {
	r, err := Run(box, load, p, false)
	require.NoError(t, err, p.Name)
	return r
}

func TestSameSeedSameResult(t *testing.T) {
	for _, p := range Policies() {
		a, err := Run(Reference(), Day(7), p, true)
		require.NoError(t, err)
		b, err := Run(Reference(), Day(7), p, true)
		require.NoError(t, err)
		require.Equal(t, a, b, p.Name)
		c, err := Run(Reference(), Day(8), p, true)
		require.NoError(t, err)
		require.NotEqual(t, a.Makespan, c.Makespan, "another seed is another day")
	}
}

// Planning only when a plan could contain something is as good as planning always, as the scheduler does.
//
// LO-503
func TestPlansThatAreLeftOutWouldChangeNothing(t *testing.T) {
	for seed := range uint64(2) {
		box := Reference()
		box.Models[general8b].IdleTTL = 10 * time.Minute
		literal := Ours(DefaultRules)
		literal.make = func() policy {
			o := newOurs(DefaultRules)
			o.literal = true
			return o
		}
		require.Equal(t, simulate(t, box, Day(seed), literal), simulate(t, box, Day(seed), Ours(DefaultRules)))
	}
}

// Every task ends once. Tasks of one pool and priority start in the order in which they came.
//
// ORCH-3004, OC-CORE-1003, OC-CORE-1004
func TestNothingIsLostAndOrderIsKept(t *testing.T) {
	loads := map[string][]Task{"day": Day(1), "small": small(1, 5, 2000)}
	for name, load := range loads {
		for _, p := range Policies() {
			r := simulate(t, Reference(), load, p)
			require.Len(t, r.Tasks, len(load))
			lines := map[[2]any][]*Task{}
			for i := range r.Tasks {
				x := &r.Tasks[i]
				require.Equal(t, ended, x.state)
				if x.Start < 0 {
					require.Equal(t, x.Came+x.Cancel, x.End, "only a cancel ends a task that has not started")
					continue
				}
				require.True(t, x.At <= x.Came && x.Came <= x.Start && x.Start < x.End, "%s %s: task %d: %+v", name, p.Name, i, x)
				if x.After >= 0 {
					require.GreaterOrEqual(t, x.Came, r.Tasks[x.After].End+x.Delay)
				}
				key := [2]any{x.Model, x.Batch}
				lines[key] = append(lines[key], x)
			}
			if p.Name != Policies()[0].Name {
				continue // by card, or one line for both priorities
			}
			for key, line := range lines {
				slices.SortStableFunc(line, func(a, b *Task) int { return int(a.Came - b.Came) })
				require.True(t, slices.IsSortedFunc(line, func(a, b *Task) int { return int(a.Start - b.Start) }), "%s %v", name, key)
			}
		}
	}
}

// The bound: an overdue task may still wait for one turn and one task of each pool before it, and for the swap. No pool may be passed over again and
// again.
//
// LO-503
func TestInteractiveTasksWaitNoLongerThanTheBound(t *testing.T) {
	for seed := range uint64(4) {
		box := Reference()
		r := simulate(t, box, Day(seed), Ours(DefaultRules))
		longest, load := time.Duration(0), time.Duration(0)
		for i := range r.Tasks {
			longest = max(longest, r.Tasks[i].End-r.Tasks[i].Start)
		}
		for model := range box.Models {
			load = max(load, box.LoadTime(model))
		}
		each := longest + box.Exit + load + swapEvery
		bound := DefaultRules.MaxWait + DefaultRules.MinTurn + time.Duration(len(box.Models)-1)*each
		require.Less(t, Percentile(r.Interactive, 1), bound, "seed %d", seed)
	}
}

// Interactive tasks of a loaded pool go before its batch tasks.
//
// ORCH-3004
func TestPrioritiesAreKept(t *testing.T) {
	load := []Task{
		{At: 0, After: -1, Prompt: 3200, Batch: true}, {At: 1, After: -1, Prompt: 3200, Batch: true}, {At: 2, After: -1, Prompt: 3200},
	}
	r := simulate(t, Rack(1), load, Ours(DefaultRules))
	require.Equal(t, []time.Duration{0, 2 * time.Second, time.Second}, []time.Duration{r.Tasks[0].Start, r.Tasks[1].Start, r.Tasks[2].Start})
}

func TestTasksShareTheirCard(t *testing.T) {
	box := Rack(1)
	box.Models[0].Slots = 2
	load := []Task{{At: 0, After: -1, Prompt: 3200}, {At: time.Second / 2, After: -1, Prompt: 3200}}
	r := simulate(t, box, load, Ours(DefaultRules))
	require.Equal(t, 1500*time.Millisecond, r.Tasks[0].End, "half alone, half at half the speed")
	require.Equal(t, 2*time.Second, r.Tasks[1].End)
	require.InDelta(t, 1, r.Busy[0], 1e-9)
}

// A rogue breaks one rule of the machine.
type rogue struct {
	m     *machine
	rule  string
	tasks []int32
}

func (g *rogue) begin(m *machine) { g.m = m; m.load(0, 0) }
func (g *rogue) arrives(i int32)  { g.tasks = append(g.tasks, i) }
func (g *rogue) withdrawn(int32)  {}
func (g *rogue) ticks()           {}
func (g *rogue) act()             {}
func (g *rogue) changed(w *worker) {
	switch g.rule {
	case "memory":
		for range 5 {
			g.m.load(0, 0)
		}
	case "unload":
		g.m.start(g.tasks[0], w)
		g.m.unload(w)
	case "slots":
		g.m.start(g.tasks[0], w)
		g.m.start(g.tasks[1], w)
	case "twice":
		w.slots = 2
		g.m.start(g.tasks[0], w)
		g.m.start(g.tasks[0], w)
	case "card":
		g.m.load(coder32b, 1)
	case "forgets":
	}
}

// LO-501, LO-503
func TestTheMachineHoldsPoliciesToItsRules(t *testing.T) {
	for rule, want := range map[string]string{
		"memory": "too much", "unload": "is unloaded with 1 tasks", "slots": "cannot start", "twice": "cannot start", "card": "too much", "forgets": "left behind",
	} {
		load := []Task{{After: -1, Prompt: 10}, {After: -1, Prompt: 10}}
		_, err := Run(Reference(), load, Policy{rule, func() policy { return &rogue{rule: rule} }}, false)
		require.ErrorContains(t, err, want, rule)
	}
}
