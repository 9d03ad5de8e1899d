// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/residency"
)

// Policy is one way to decide.
type Policy struct {
	Name string
	make func() policy
}

// DefaultRules are the configuration's defaults.
var DefaultRules = residency.Rules{
	MaxWait: 30 * time.Second, MaxWaitBehindBatch: 5 * time.Second, MaxWaitBatch: 10 * time.Minute, MinTurn: 20 * time.Second, Linger: 30 * time.Second,
}

// Ours uses the service's queue, placement and plan of swaps.
func Ours(rules residency.Rules) Policy {
	return Policy{"llama-orch", func() policy { return newOurs(rules) }}
}

// RoundRobin gives the models to the cards in turn. Each card runs its tasks in the order in which they came.
func RoundRobin() Policy {
	return Policy{"FIFO + round-robin", func() policy { return &byCard{choose: roundRobin} }}
}

// LeastConnections gives each task to the card with the fewest tasks. Each card runs its tasks in the order in which they came.
func LeastConnections() Policy {
	return Policy{"least connections", func() policy { return &byCard{choose: leastConnections} }}
}

// SwapEach loads the model of each request as soon as the running tasks allow it.
func SwapEach() Policy {
	return Policy{"swap on every request", func() policy { return &swapEach{} }}
}

// SwapInOrder is like SwapEach but does not take a model away from a task that has waited for it longer. Proxies that swap, and that let a model's
// requests end before they stop it, work like this.
func SwapInOrder() Policy {
	return Policy{"swap in order of arrival", func() policy { return &swapEach{orderly: true} }}
}

// Policies returns all policies, ours first.
func Policies() []Policy {
	return []Policy{Ours(DefaultRules), RoundRobin(), LeastConnections(), SwapEach(), SwapInOrder()}
}

// Span is a stretch of a card's time: a task, or a load.
type Span struct {
	Card, Model int
	From, To    time.Duration
	Load, Batch bool
}

// Result is the result of a simulated load.
type Result struct {
	Policy      string
	Tasks       []Task
	Makespan    time.Duration   // from the first task's arrival to the last one's end
	Active      time.Duration   // in which at least one task waited or ran
	Interactive []time.Duration // waits, sorted
	Batch       []time.Duration
	Response    time.Duration // mean time of an interactive task, from its arrival to its end
	Swaps       int           // models loaded
	Evicted     int           // models unloaded
	Lost        time.Duration // model-time in which tasks waited for a model that was not loaded
	Busy        []float64     // share of the makespan in which a card computed
	Loading     []float64     // share in which it did not, while a model was loaded
	Spans       []Span        // where they were asked for
}

// Idle is the share of the cards' time in which they did nothing.
func (r *Result) Idle() float64 {
	idle := 0.0
	for i := range r.Busy {
		idle += 1 - r.Busy[i] - r.Loading[i]
	}
	return idle / float64(len(r.Busy))
}

// Percentile is the value that a share p of the sorted waits do not exceed.
func Percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}

func (m *machine) result(p Policy) *Result {
	r := &Result{Policy: p.Name, Tasks: m.tasks, Swaps: m.loads, Evicted: m.evicted, Lost: m.lost, Active: m.active, Spans: m.spans}
	first, answered := m.now, time.Duration(0)
	for i := range m.tasks {
		t := &m.tasks[i]
		first = min(first, t.Came)
		wait, ok := t.Wait()
		switch {
		case !ok:
		case t.Batch:
			r.Batch = append(r.Batch, wait)
		default:
			r.Interactive = append(r.Interactive, wait)
			answered += t.End - t.Came
		}
	}
	slices.Sort(r.Interactive)
	slices.Sort(r.Batch)
	r.Makespan = m.now - first
	r.Response = answered / time.Duration(max(len(r.Interactive), 1))
	for i := range m.cards {
		m.advance(i)
		r.Busy = append(r.Busy, m.cards[i].busy.Seconds()/m.now.Seconds())
		r.Loading = append(r.Loading, m.cards[i].loaded.Seconds()/m.now.Seconds())
	}
	return r
}
