// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Task is one task of a load, with its results.
type Task struct {
	Model  int32
	Batch  bool
	Prompt int32 // tokens
	Answer int32 // tokens; 0: an embedding
	// A task comes at its time. If it follows another task, it does not come before Delay has passed since that task's end: an agent reads an
	// answer before it goes on.
	At     time.Duration
	After  int32 // index; -1: none
	Delay  time.Duration
	Cancel time.Duration // after it came; 0: never

	Came, Start, End time.Duration // Start is -1 if the task was canceled while it waited
	card             int32
	state            taskState
	ticket           ticket
}

type taskState uint8

const (
	absent taskState = iota
	waiting
	running
	ended
)

// Wait returns how long the task waited for its start, or false if it was canceled before.
func (t *Task) Wait() (time.Duration, bool) { return t.Start - t.Came, t.Start >= 0 }

// Priority is the task's.
func (t *Task) Priority() task.Priority {
	if t.Batch {
		return task.Batch
	}
	return task.Interactive
}

// policy decides. It is told what happened, and then asked to act on the machine.
type policy interface {
	begin(m *machine)
	arrives(task int32)
	withdrawn(task int32) // it was waiting
	changed(w *worker)    // a task ended on it, it is loaded, or it is gone
	ticks()
	act()
}

// Run runs a load on a box. It fails if the policy broke a rule of the machine, or left a task behind.
func Run(box Box, load []Task, p Policy, watch bool) (*Result, error) {
	m := &machine{
		box: &box, tasks: slices.Clone(load), cards: make([]card, len(box.Cards)), policy: p.make(), watch: watch,
		waiting: make([]int, len(box.Models)), serving: make([]int, len(box.Models)), lostAt: make([]time.Duration, len(box.Models)),
		children: make([][]int32, len(load)),
	}
	for i := range box.Cards {
		m.cards[i].free = box.Cards[i].Bytes
	}
	for i := range m.lostAt {
		m.lostAt[i] = -1
	}
	m.policy.begin(m)
	m.policy.act()
	m.loop(m.roots())
	switch {
	case m.err != nil:
		return nil, m.err
	case m.done < len(m.tasks):
		return nil, fmt.Errorf("%s: %d of %d tasks were left behind", p.Name, len(m.tasks)-m.done, len(m.tasks))
	}
	return m.result(p), nil
}

// roots has the tasks that follow no other task, in the order of their times. They are most of a large load, and need not go into the heap.
func (m *machine) roots() []int32 {
	var roots []int32
	for i := range m.tasks {
		t := &m.tasks[i]
		t.state, t.Start, t.card = absent, -1, -1
		if t.After >= 0 {
			m.children[t.After] = append(m.children[t.After], int32(i))
		} else {
			roots = append(roots, int32(i))
		}
	}
	byTime := func(a, b int32) int { return cmp.Or(cmp.Compare(m.tasks[a].At, m.tasks[b].At), cmp.Compare(a, b)) }
	if !slices.IsSortedFunc(roots, byTime) {
		slices.SortFunc(roots, byTime)
	}
	return roots
}

func (m *machine) loop(roots []int32) {
	for m.err == nil && m.done < len(m.tasks) {
		if len(roots) > 0 && (len(m.events.heap) == 0 || m.tasks[roots[0]].At <= m.events.heap[0].at) {
			m.now = m.tasks[roots[0]].At
			m.arrives(roots[0])
			roots = roots[1:]
			m.policy.act()
			continue
		}
		e, ok := m.events.next()
		if !ok {
			return
		}
		m.now = e.at
		if m.happens(e) {
			m.policy.act()
		}
	}
}

// happens handles an event. It returns false if the event was superseded.
func (m *machine) happens(e event) bool {
	switch e.kind {
	case taskArrives:
		m.arrives(e.ref)
	case taskCancels:
		return m.cancels(e.ref)
	case taskEnds:
		c := &m.cards[e.ref]
		if c.mark != e.mark {
			return false
		}
		m.advance(int(e.ref))
		m.policy.changed(m.finish(int(e.ref), c.first()))
	case workerLoads:
		w := m.workers[e.ref]
		m.becomesReady(w)
		m.policy.changed(w)
	case workerLeaves:
		w := m.workers[e.ref]
		m.leaves(w)
		m.policy.changed(w)
	case policyTicks:
		m.policy.ticks()
	}
	return true
}

func (m *machine) arrives(i int32) {
	t := &m.tasks[i]
	t.Came, t.state = m.now, waiting
	if m.present++; m.present == 1 {
		m.since = m.now
	}
	m.waits(t, 1)
	if t.Cancel > 0 {
		m.events.add(m.now+t.Cancel, taskCancels, i, 0)
	}
	m.policy.arrives(i)
}

func (m *machine) cancels(i int32) bool {
	t := &m.tasks[i]
	switch t.state {
	case waiting:
		m.waits(t, -1)
		m.policy.withdrawn(i)
		m.ends(i)
		return true
	case running:
		runs := m.cards[t.card].runs
		at := slices.IndexFunc(runs, func(r run) bool { return r.task == i })
		w := m.finish(int(t.card), at)
		m.cut = true
		m.policy.changed(w)
		m.cut = false
		return true
	case absent, ended:
	}
	return false
}
