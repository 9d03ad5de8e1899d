// SPDX-License-Identifier: GPL-3.0-or-later

// Package queue is a pool's waiting line: a bounded FIFO with two priorities. Interactive items leave before batch items,
// first come first served within each (ORCH-3004, OC-CORE-1003, OC-CORE-1004).
//
// One mutex, no I/O, no clock: the caller passes `now`. Push, Pop and Cancel take constant (amortised) time at any depth,
// and Pop does not allocate. Position is exact and bears the cost instead: it adds up the counts of blocks of neighbours.
//
// A queued item is named by the ticket that Push returned, not by its task's id. Whoever cancels a task, or looks at it, has the
// ticket at hand, and a map of a million ids would make these operations several times slower.
package queue

import (
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Policy says what a full queue does with a newcomer (ORCH-3005).
type Policy string

// The policies. Reject refuses the newcomer. DropLRU drops the oldest queued batch item. Where no batch item is queued, an
// interactive newcomer drops the oldest queued interactive one. The item is dropped when Shed is called, and not by the push.
const (
	Reject  Policy = "reject"
	DropLRU Policy = "drop-lru"
)

// Ticket names one stay of one item in one queue. It is stale once the item has left, and no other stay gets it (before 2^31 of
// them in one slot). The zero Ticket names nothing.
type Ticket struct {
	slot       ref
	generation uint32
}

// Pushed is what became of a Push.
type Pushed struct {
	Ticket   Ticket
	Position int  // items ahead, from 0, once room is made
	Over     bool // the queue was full: Shed makes room
}

// Queue is one pool's queue of T, which is usually a pointer to the task's record. Its methods may be called from several goroutines.
// New makes one.
type Queue[T any] struct {
	capacity int
	policy   Policy

	mu     sync.Mutex
	line   line
	slots  []slot[T] // by ref, beside line.nodes
	guests int       // queued items that take none of the capacity
}

type slot[T any] struct {
	value      T
	enqueuedAt time.Time
	guest      bool
}

// The levels: each priority has a line of its own, and the first level leaves first.
const (
	interactive = iota
	batch
	levels
)

// New makes an empty queue. Capacity counts both priorities together; less than 1 is taken as 1. A policy other than
// DropLRU is Reject.
func New[T any](capacity int, policy Policy) *Queue[T] {
	if policy != DropLRU {
		policy = Reject
	}
	return &Queue[T]{capacity: max(capacity, 1), policy: policy, line: newLine(), slots: make([]slot[T], 1)}
}

// Capacity is the bound given to New.
func (q *Queue[T]) Capacity() int { return q.capacity }

// Push puts an item at the end of its priority's line. A full queue refuses it with ADMISSION_REJECT, which carries the policy's
// label; the caller says when to come again. Under DropLRU a full queue takes the item all the same. The caller then makes room
// with Shed, once it is sure of the newcomer: so nothing that waits is dropped for one that is refused in the end.
func (q *Queue[T]) Push(p task.Priority, value T, now time.Time) (Pushed, error) {
	var done Pushed
	level := levelOf(p)
	q.mu.Lock()
	defer q.mu.Unlock()
	done.Position = q.ahead(level) + q.line.lists[level].len
	if q.places() >= q.capacity {
		victim := q.victim(level)
		if victim == 0 {
			return Pushed{}, q.errFull()
		}
		done.Over = true
		if q.line.level(victim) <= level {
			done.Position--
		}
	}
	n := q.take(value, now)
	q.line.pushBack(level, n)
	done.Ticket = q.ticket(n)
	return done, nil
}

// Shed drops the item that gives way to a newcomer of this priority, which was pushed before. False: meanwhile there is room.
func (q *Queue[T]) Shed(p task.Priority) (T, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.places() > q.capacity {
		if victim := q.victim(levelOf(p)); victim != 0 {
			return q.remove(victim), true
		}
	}
	var none T
	return none, false
}

// Restore puts an item at the end of its priority's line, even if the queue is full. It is for items that an earlier process accepted.
func (q *Queue[T]) Restore(p task.Priority, value T, enqueuedAt time.Time) Ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.take(value, enqueuedAt)
	q.line.pushBack(levelOf(p), n)
	return q.ticket(n)
}

// PushGuest puts an item at the end of its priority's line that takes none of the capacity, and that nothing drops. The caller bounds how many
// there are (LO-437).
func (q *Queue[T]) PushGuest(p task.Priority, value T, enqueuedAt time.Time) Pushed {
	level := levelOf(p)
	q.mu.Lock()
	defer q.mu.Unlock()
	done := Pushed{Position: q.ahead(level) + q.line.lists[level].len}
	n := q.take(value, enqueuedAt)
	q.slots[n].guest = true
	q.guests++
	q.line.pushBack(level, n)
	done.Ticket = q.ticket(n)
	return done
}

// Pop takes the next item: the first interactive one, else the first batch one. False: the queue is empty.
func (q *Queue[T]) Pop() (T, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := q.next(); n != 0 {
		return q.remove(n), true
	}
	var none T
	return none, false
}

// Peek shows the item that Pop would take.
func (q *Queue[T]) Peek() (T, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.next() // slot 0 holds the zero T
	return q.slots[n].value, n != 0
}

// Cancel takes an item out wherever it stands; it is never popped then (OC-CORE-1005). False: it had left before.
func (q *Queue[T]) Cancel(t Ticket) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.queued(t) {
		return false
	}
	q.remove(t.slot)
	return true
}

// Position is how many items would be popped before this one, from 0. False: it has left the queue.
func (q *Queue[T]) Position(t Ticket) (int, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.queued(t) {
		return 0, false
	}
	return q.ahead(q.line.level(t.slot)) + q.line.rank(t.slot), true
}

// NextPosition is the position that a newcomer of this priority would get now if there were room.
func (q *Queue[T]) NextPosition(p task.Priority) int {
	level := levelOf(p)
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ahead(level) + q.line.lists[level].len
}

// Len is how many items of a priority are queued.
func (q *Queue[T]) Len(p task.Priority) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.line.lists[levelOf(p)].len
}

// Depth is how many items are queued in all. Guests, Restore, and a Push until its Shed, can take it over the capacity.
func (q *Queue[T]) Depth() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.depth()
}

// Places is how much of the capacity is taken. Guests take none of it, and Restore, and a Push until its Shed, can take it over the capacity.
func (q *Queue[T]) Places() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.places()
}

// Oldest is when the first item of a priority's line was enqueued. False: nobody is in that line.
func (q *Queue[T]) Oldest(p task.Priority) (time.Time, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.line.lists[levelOf(p)].head // slot 0 holds the zero T
	return q.slots[n].enqueuedAt, n != 0
}

func (q *Queue[T]) depth() int { return q.line.lists[interactive].len + q.line.lists[batch].len }

// places is Places with mu held.
func (q *Queue[T]) places() int { return q.depth() - q.guests }

// ahead counts the items of the levels before this one.
func (q *Queue[T]) ahead(level int) int {
	if level == batch {
		return q.line.lists[interactive].len
	}
	return 0
}

func (q *Queue[T]) next() ref {
	if n := q.line.lists[interactive].head; n != 0 {
		return n
	}
	return q.line.lists[batch].head
}

// victim is what a full queue drops for a newcomer of this level; 0 where it refuses the newcomer.
func (q *Queue[T]) victim(level int) ref {
	if q.policy != DropLRU {
		return 0
	}
	if n := q.oldest(batch); n != 0 || level == batch {
		return n
	}
	return q.oldest(interactive)
}

// oldest is the first item of a level that is no guest; 0: there is none.
func (q *Queue[T]) oldest(level int) ref {
	n := q.line.lists[level].head
	for n != 0 && q.slots[n].guest {
		n = q.line.nodes[n].next
	}
	return n
}

func (q *Queue[T]) take(value T, at time.Time) ref {
	n := q.line.take()
	if int(n) == len(q.slots) {
		q.slots = append(q.slots, slot[T]{})
	}
	q.slots[n] = slot[T]{value: value, enqueuedAt: at}
	return n
}

func (q *Queue[T]) remove(n ref) T {
	value := q.slots[n].value
	if q.slots[n].guest {
		q.guests--
	}
	q.slots[n] = slot[T]{} // a free slot must not keep a task's memory alive
	q.line.drop(n)
	return value
}

func (q *Queue[T]) ticket(n ref) Ticket {
	return Ticket{slot: n, generation: q.line.nodes[n].generation}
}

func (q *Queue[T]) queued(t Ticket) bool {
	return t.slot != 0 && int(t.slot) < len(q.slots) && q.line.nodes[t.slot].generation == t.generation
}

func (q *Queue[T]) errFull() error {
	e := task.Errorf(task.AdmissionReject, "the queue is full; submit again after retry_after_ms").Retry(0)
	e.PolicyLabel = string(q.policy)
	return e
}

// levelOf takes every priority but batch as interactive, the default of a request.
func levelOf(p task.Priority) int {
	if p == task.Batch {
		return batch
	}
	return interactive
}

// First appends to into the items that would be popped first, at most n, in that order.
func (q *Queue[T]) First(n int, into []T) []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, list := range q.line.lists {
		for at := list.head; at != 0 && n > 0; at, n = q.line.nodes[at].next, n-1 {
			into = append(into, q.slots[at].value)
		}
	}
	return into
}
