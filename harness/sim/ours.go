// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/task"
)

type ticket = queue.Ticket

// The virtual day begins at epoch, far from the zero time, which means "none".
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// swapEvery is how often the scheduler looks at the on-demand pools when nothing happens.
const swapEvery = time.Second

// ours is the service's scheduler without its goroutines: a lane a pool, and the plan of swaps.
type ours struct {
	rules residency.Rules
	// literal asks for a plan at every change and every second, as the scheduler does, and not only when the plan could contain something.
	literal bool

	m       *machine
	lanes   []lane
	dirty   []int // lanes to dispatch
	news    bool  // the plan is due
	cards   []vram.Room
	tenants []residency.Tenant
	tickAt  time.Duration // time of the next tick; 0: none is set
	// The scheduler's lanes and the residency are goroutines of their own, so what they do at one instant may come in either order. Here dispatches
	// come first. With check set, raced is the first instant at which the other order gives another plan.
	check bool
	raced time.Duration
	might []residency.Plan // plans that other orders give at this instant
}

// lane is one pool.
type lane struct {
	id       string
	pool     int
	queue    *queue.Queue[int32]
	onDemand bool
	workers  []*worker           // by replica
	slots    []placement.Replica // their snapshot
	held     bool
	dirty    bool
	moved    time.Duration
	state    residency.State
	since    time.Duration
	busy     int
	wants    []residency.Want
	holds    []vram.Share
	ttl      time.Duration
}

func newOurs(rules residency.Rules) *ours {
	return &ours{rules: rules}
}

func (o *ours) begin(m *machine) {
	o.m = m
	for i := range m.box.Cards {
		o.cards = append(o.cards, vram.Room{Card: i})
	}
	o.lanes = make([]lane, len(m.box.Models))
	for i := range m.box.Models {
		spec, l := &m.box.Models[i], &o.lanes[i]
		*l = lane{
			id: spec.Name, pool: i, queue: queue.New[int32](math.MaxInt, queue.Reject), onDemand: len(spec.Pinned) == 0,
			wants: []residency.Want{{Bytes: spec.Bytes}}, ttl: spec.IdleTTL,
		}
		for _, at := range spec.Pinned {
			w := m.place(i, at)
			m.cards[at].loads++
			m.becomesReady(w)
			o.join(l, w)
		}
	}
	for i := range o.lanes {
		for _, w := range o.lanes[i].workers {
			o.freed(w.card)
		}
	}
}

// join adds a Ready worker to its pool's replicas.
func (o *ours) join(l *lane, w *worker) {
	w.replica = len(l.workers)
	l.workers = append(l.workers, w)
	l.slots = append(l.slots, placement.Replica{
		ID: fmt.Sprintf("%s-%04d", l.id, w.replica), Ready: true, Slots: w.slots, Strict: w.slots == 1, FreeVRAM: o.m.cards[w.card].free,
	})
}

// freed tells the replicas on a card about its free memory.
func (o *ours) freed(card int) {
	free := o.m.cards[card].free
	for _, id := range o.m.cards[card].ids {
		if w := o.m.workers[id]; w.state == ready {
			o.lanes[w.model].slots[w.replica].FreeVRAM = free
		}
	}
}

func (o *ours) wake(l *lane) {
	o.news = o.news || l.onDemand
	if !l.dirty {
		l.dirty = true
		o.dirty = append(o.dirty, l.pool)
	}
}

func (o *ours) arrives(i int32) {
	t := &o.m.tasks[i]
	l := &o.lanes[t.Model]
	pushed, err := l.queue.Push(t.Priority(), i, epoch.Add(o.m.now))
	if err != nil {
		o.m.fail("a queue without a bound is full: %v", err)
		return
	}
	t.ticket = pushed.Ticket
	o.wake(l)
}

func (o *ours) withdrawn(i int32) {
	t := &o.m.tasks[i]
	if !o.lanes[t.Model].queue.Cancel(t.ticket) {
		o.m.fail("task %d waits in no queue", i)
	}
	o.wake(&o.lanes[t.Model])
}

func (o *ours) changed(w *worker) {
	l := &o.lanes[w.model]
	switch {
	case w.state == gone:
		l.workers, l.slots, l.holds = nil, nil, nil
		o.become(l, residency.Absent)
		o.freed(w.card)
	case l.onDemand && l.state == residency.Loading:
		o.join(l, w)
		o.become(l, residency.Loaded)
	default: // a task ended
		l.slots[w.replica].Active = w.active
		l.busy--
		if o.check {
			o.mayRace(o.swaps()) // the plan may be made after the lane freed the slot and before it noted the time
		}
		if !o.m.cut {
			l.moved = o.m.now
		}
	}
	o.news = o.news || o.anyOnDemand()
	o.wake(l)
}

func (o *ours) anyOnDemand() bool {
	return slices.ContainsFunc(o.lanes, func(l lane) bool { return l.onDemand })
}

func (o *ours) become(l *lane, s residency.State) { l.state, l.since = s, o.m.now }

func (o *ours) ticks() {
	if o.tickAt == o.m.now {
		o.tickAt, o.news = 0, true
	}
}

// act dispatches and plans until neither changes anything.
func (o *ours) act() {
	for len(o.dirty) > 0 || o.news {
		if o.check && o.news {
			o.mayRace(o.swaps()) // the plan may be made before the lanes dispatch
		}
		for len(o.dirty) > 0 {
			l := &o.lanes[o.dirty[len(o.dirty)-1]]
			o.dirty = o.dirty[:len(o.dirty)-1]
			l.dirty = false
			for o.dispatch(l) {
			}
		}
		if o.news {
			o.news = false
			plan := o.swaps()
			if o.check {
				o.decided(plan)
			}
			o.do(plan)
		}
	}
	o.setTick()
}

func (o *ours) mayRace(plan residency.Plan) { o.might = append(o.might, plan) }

// decided notes whether the plan is the only one that could have been made.
func (o *ours) decided(plan residency.Plan) {
	for _, other := range o.might {
		if o.raced == 0 && (!slices.Equal(plan.Hold, other.Hold) || !slices.Equal(plan.Unload, other.Unload)) {
			o.raced = o.m.now
		}
	}
	o.might = o.might[:0]
}

// dispatch does a lane's work: it starts the queue's next task if a replica can take it.
func (o *ours) dispatch(l *lane) bool {
	if l.held {
		return false
	}
	next, ok := l.queue.Peek()
	if !ok {
		return false
	}
	at, _ := placement.Place(l.slots, placement.Need{})
	if at < 0 {
		return false
	}
	l.queue.Pop()
	w := l.workers[at]
	o.m.start(next, w)
	l.slots[at].Active = w.active
	l.busy++
	l.moved = o.m.now
	return true
}

// swaps returns the plan for the current state.
func (o *ours) swaps() residency.Plan {
	if !o.literal && !o.open() {
		return residency.Plan{}
	}
	for i := range o.cards {
		o.cards[i].Free = o.m.cards[i].free
	}
	o.tenants = o.tenants[:0]
	for i := range o.lanes {
		l := &o.lanes[i]
		if !l.onDemand {
			continue
		}
		t := residency.Tenant{
			ID: l.id, State: l.state, Holds: l.holds, Wants: l.wants, Busy: l.busy, Since: epoch.Add(l.since),
			IdleSince: epoch.Add(max(l.moved, l.since)), IdleTTL: l.ttl,
		}
		t.Interactive, _ = l.queue.Oldest(task.Interactive)
		t.Batch, _ = l.queue.Oldest(task.Batch)
		o.tenants = append(o.tenants, t)
	}
	return residency.Decide(epoch.Add(o.m.now), o.cards, o.tenants, o.rules)
}

// do carries out the plan.
func (o *ours) do(plan residency.Plan) {
	for i := range o.lanes {
		l := &o.lanes[i]
		held := slices.Contains(plan.Hold, l.id) || slices.Contains(plan.Unload, l.id)
		if l.held && !held {
			o.wake(l)
		}
		l.held = held
	}
	for i := range o.lanes {
		l := &o.lanes[i]
		if l.state == residency.Loaded && slices.Contains(plan.Unload, l.id) {
			for _, w := range l.workers {
				l.slots[w.replica].Ready = false
				o.m.unload(w)
			}
			o.become(l, residency.Leaving)
			o.news = true
		}
	}
	for _, id := range plan.Load { // in the plan's order, since the cards are chosen one after the other
		l := &o.lanes[slices.IndexFunc(o.lanes, func(l lane) bool { return l.id == id })]
		for c := range o.cards {
			o.cards[c].Free = o.m.cards[c].free
		}
		at := vram.Smallest(o.cards, l.wants[0].Bytes) // each card has the index of its room
		if at < 0 {
			o.m.fail("%s is to be loaded and fits no card", id)
			return
		}
		o.m.load(l.pool, at)
		l.holds = []vram.Share{{Card: at, Bytes: l.wants[0].Bytes}}
		o.become(l, residency.Loading)
		o.freed(at)
		o.news = true
	}
}

// setTick sets a look at the pools for the scheduler's next second while time alone could change the plan: while a task waits for a model that is not
// there, or while an idle model will have to go at some time.
func (o *ours) setTick() {
	if o.tickAt > 0 || !o.literal && !o.open() {
		return
	}
	o.tickAt = o.m.now - o.m.now%swapEvery + swapEvery
	o.m.events.add(o.tickAt, policyTicks, 0, 0)
}

// open reports whether a plan could be non-empty. It follows what Decide's comment promises.
func (o *ours) open() bool {
	for i := range o.lanes {
		l := &o.lanes[i]
		if l.onDemand && (l.state == residency.Absent && l.queue.Depth() > 0 || l.state == residency.Loaded && l.ttl > 0) {
			return true
		}
	}
	return false
}
