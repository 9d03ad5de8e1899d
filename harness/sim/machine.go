// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// state is a worker's state.
type state uint8

const (
	loading state = iota
	ready
	leaving
	gone
)

// worker is one process with one model on one card.
type worker struct {
	index   int32
	model   int
	card    int
	replica int // its number in the pool; for the policies
	state   state
	slots   int
	active  int
	used    time.Duration // when a task, or the worker's load, last started or ended
	since   time.Duration // when its state began
	claimed bool          // a policy's mark: it takes no further task
}

func (w *worker) free() bool { return w.state == ready && !w.claimed && w.active < w.slots }

// run is a task that runs on a card.
type run struct {
	task   int32
	worker *worker
	left   float64 // ns of work left, if the card did nothing else
}

// card has a card's memory and time. Its tasks share its time. So when one task starts or ends, the ends of all its tasks move.
type card struct {
	free   int64
	runs   []run
	at     time.Duration // the time for which left is right
	mark   uint32        // mark of the end event that counts
	loads  int
	busy   time.Duration // with at least one task
	loaded time.Duration // without a task, while a model loads
	ids    []int32       // its workers
}

// machine is the box at work. If a policy breaks the machine's rules, the run ends with an error.
type machine struct {
	box     *Box
	now     time.Duration
	events  events
	tasks   []Task
	cards   []card
	workers []*worker
	policy  policy

	waiting  []int           // tasks, by model
	serving  []int           // Ready workers, by model
	lostAt   []time.Duration // by model: since when tasks wait without a Ready worker; -1: none do
	lost     time.Duration
	done     int
	present  int           // tasks that wait or run
	since    time.Duration // of the first of them
	active   time.Duration
	loads    int
	evicted  int
	cut      bool // the task that is ending was canceled
	watch    bool // record the spans
	spans    []Span
	err      error
	children [][]int32 // by task: the tasks that come after its end
}

func (m *machine) fail(format string, args ...any) {
	if m.err == nil {
		m.err = fmt.Errorf("at %v: %s", m.now, fmt.Sprintf(format, args...))
	}
}

// load starts a worker. Its memory is taken at once.
func (m *machine) load(model, at int) {
	w := m.place(model, at)
	m.loads++
	m.advance(at)
	m.cards[at].loads++
	m.events.add(m.now+m.box.LoadTime(model), workerLoads, w.index, 0)
}

func (m *machine) place(model, at int) *worker {
	c, spec := &m.cards[at], &m.box.Models[model]
	if c.free -= spec.Bytes; c.free < 0 {
		m.fail("%s does not fit card %d: %d bytes too much", spec.Name, at, -c.free)
	}
	if _, ok := spec.Rates[m.box.Cards[at].Class]; !ok {
		m.fail("%s has no rate on card %d", spec.Name, at)
	}
	w := &worker{index: int32(len(m.workers)), model: model, card: at, slots: max(spec.Slots, 1), since: m.now, used: m.now}
	m.workers = append(m.workers, w)
	c.ids = append(c.ids, w.index)
	return w
}

func (m *machine) becomesReady(w *worker) {
	m.advance(w.card)
	m.cards[w.card].loads--
	if m.watch && w.since < m.now {
		m.spans = append(m.spans, Span{Card: w.card, Model: w.model, From: w.since, To: m.now, Load: true})
	}
	w.state, w.since, w.used = ready, m.now, m.now
	m.serving[w.model]++
	m.count(w.model)
}

// unload lets a worker go. It must not run a task.
func (m *machine) unload(w *worker) {
	if w.active > 0 || w.state != ready {
		m.fail("%s is unloaded with %d tasks in state %d", m.box.Models[w.model].Name, w.active, w.state)
		return
	}
	w.state, w.since = leaving, m.now
	m.evicted++
	m.serving[w.model]--
	m.count(w.model)
	m.events.add(m.now+m.box.Exit, workerLeaves, w.index, 0)
}

func (m *machine) leaves(w *worker) {
	w.state, w.since = gone, m.now
	c := &m.cards[w.card]
	c.free += m.box.Models[w.model].Bytes
	c.ids = slices.DeleteFunc(c.ids, func(id int32) bool { return id == w.index })
}

// start runs a waiting task.
func (m *machine) start(task int32, w *worker) {
	t := &m.tasks[task]
	if t.state != waiting || !w.free() || w.model != int(t.Model) {
		m.fail("task %d of state %d cannot start on worker %d", task, t.state, w.index)
		return
	}
	t.state, t.Start, t.card = running, m.now, int32(w.card)
	m.waits(t, -1)
	w.active++
	w.used = m.now
	rate := m.box.Models[w.model].Rates[m.box.Cards[w.card].Class]
	m.advance(w.card)
	c := &m.cards[w.card]
	c.runs = append(c.runs, run{task: task, worker: w, left: float64(rate.Work(t.Prompt, t.Answer))})
	m.nextEnd(w.card)
}

// finish ends the card's run at index i.
func (m *machine) finish(at, i int) *worker {
	m.advance(at)
	c := &m.cards[at]
	r := c.runs[i]
	c.runs = slices.Delete(c.runs, i, i+1)
	m.nextEnd(at)
	r.worker.active--
	r.worker.used = m.now
	t := &m.tasks[r.task]
	if m.watch {
		m.spans = append(m.spans, Span{Card: at, Model: r.worker.model, From: t.Start, To: m.now, Batch: t.Batch})
	}
	m.ends(r.task)
	return r.worker
}

// ends makes a task final.
func (m *machine) ends(task int32) {
	t := &m.tasks[task]
	t.state, t.End = ended, m.now
	m.done++
	if m.present--; m.present == 0 {
		m.active += m.now - m.since
	}
	for _, c := range m.children[task] {
		next := &m.tasks[c]
		m.events.add(max(m.now+next.Delay, next.At), taskArrives, c, 0)
	}
}

// share returns how many times longer each of n tasks takes because they share the card.
func (m *machine) share(n int) float64 {
	if m.box.Unshared {
		return 1
	}
	return float64(n)
}

// advance subtracts what was computed since the last look from the card's runs, and counts how the card was used.
func (m *machine) advance(at int) {
	c := &m.cards[at]
	since := m.now - c.at
	c.at = m.now
	switch {
	case len(c.runs) > 0:
		c.busy += since
	case c.loads > 0:
		c.loaded += since
	}
	did := float64(since) / m.share(len(c.runs))
	for i := range c.runs {
		c.runs[i].left -= did
	}
}

// first returns the index of the run that ends first.
func (c *card) first() int {
	first := 0
	for i := range c.runs {
		if c.runs[i].left < c.runs[first].left {
			first = i
		}
	}
	return first
}

func (m *machine) nextEnd(at int) {
	c := &m.cards[at]
	c.mark++
	if len(c.runs) > 0 {
		left := max(c.runs[c.first()].left, 0) * m.share(len(c.runs))
		m.events.add(m.now+time.Duration(math.Ceil(left)), taskEnds, int32(at), c.mark)
	}
}

// waits adds a task to the waiting ones (n = 1) or removes it (n = -1).
func (m *machine) waits(t *Task, n int) {
	m.waiting[t.Model] += n
	m.count(int(t.Model))
}

// count adds up the time in which a model's tasks wait until it is loaded.
func (m *machine) count(model int) {
	without := m.waiting[model] > 0 && m.serving[model] == 0
	switch since := m.lostAt[model]; {
	case without && since < 0:
		m.lostAt[model] = m.now
	case !without && since >= 0:
		m.lost += m.now - since
		m.lostAt[model] = -1
	}
}
