// SPDX-License-Identifier: GPL-3.0-or-later

package queue_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/task"
)

// A model is the queue as one would write it without a care for speed.
type model struct {
	capacity int
	policy   queue.Policy
	levels   map[task.Priority][]int
	tickets  map[int]queue.Ticket
	priority map[int]task.Priority
	guests   map[int]bool // that are queued or were
	ids      int
}

// places is how much of the capacity a line takes.
func (m *model) places(line []int) (n int) {
	for _, id := range line {
		if !m.guests[id] {
			n++
		}
	}
	return n
}

func (m *model) line() []int { return slices.Concat(m.levels[task.Interactive], m.levels[task.Batch]) }

func (m *model) remove(id int) {
	p := m.priority[id]
	m.levels[p] = slices.DeleteFunc(m.levels[p], func(x int) bool { return x == id })
}

// A step is one operation with what the queue answered and how the model stood before it.
type step struct {
	op       string // push, restore, guest, pop, cancel
	id       int    // pushed, popped or canceled; -1 when Pop found nothing
	priority task.Priority
	ok       bool
	position int
	dropped  int // -1: none
	before   []int
}

// history runs a random history on a queue and its model and shows every step to the property.
func history(t *rapid.T, property func(q *queue.Queue[int], m *model, s step)) {
	m := &model{
		capacity: rapid.SampledFrom([]int{1, 2, 5, 40, 2000}).Draw(t, "capacity"),
		policy:   rapid.SampledFrom([]queue.Policy{queue.Reject, queue.DropLRU}).Draw(t, "policy"),
		levels:   map[task.Priority][]int{},
		tickets:  map[int]queue.Ticket{},
		priority: map[int]task.Priority{},
		guests:   map[int]bool{},
	}
	q := queue.New[int](m.capacity, m.policy)
	now := time.Unix(0, 0)
	priority := func() task.Priority {
		return rapid.SampledFrom([]task.Priority{task.Interactive, task.Batch}).Draw(t, "priority")
	}
	newcomer := func(p task.Priority) int {
		m.ids++
		m.priority[m.ids] = p
		now = now.Add(time.Second)
		return m.ids
	}
	push := func(p task.Priority) {
		s := step{op: "push", id: newcomer(p), priority: p, dropped: -1, before: m.line()}
		done, err := q.Push(p, s.id, now)
		if s.ok = err == nil; s.ok {
			s.position = done.Position
			m.tickets[s.id] = done.Ticket
			m.levels[p] = append(m.levels[p], s.id)
			if dropped, ok := q.Shed(p); ok != done.Over {
				t.Fatalf("Shed says %v after a push that says %v", ok, done.Over)
			} else if ok {
				s.dropped = dropped
				m.remove(s.dropped)
			}
		}
		property(q, m, s)
	}
	cancel := func(id int) {
		s := step{op: "cancel", id: id, dropped: -1, before: m.line()}
		s.ok = q.Cancel(m.tickets[id])
		m.remove(id)
		property(q, m, s)
	}
	t.Repeat(map[string]func(*rapid.T){
		"push": func(*rapid.T) { push(priority()) },
		"push many": func(*rapid.T) { // enough to fill and cross blocks
			for range rapid.IntRange(1, min(m.capacity, 700)).Draw(t, "many") {
				push(task.Batch)
			}
		},
		"restore": func(*rapid.T) {
			p := priority()
			s := step{op: "restore", id: newcomer(p), priority: p, ok: true, dropped: -1, before: m.line()}
			m.tickets[s.id] = q.Restore(p, s.id, now)
			m.levels[p] = append(m.levels[p], s.id)
			property(q, m, s)
		},
		"guest": func(*rapid.T) {
			p := priority()
			s := step{op: "guest", id: newcomer(p), priority: p, ok: true, dropped: -1, before: m.line()}
			done := q.PushGuest(p, s.id, now)
			s.position, m.tickets[s.id], m.guests[s.id] = done.Position, done.Ticket, true
			m.levels[p] = append(m.levels[p], s.id)
			property(q, m, s)
		},
		"pop": func(*rapid.T) {
			s := step{op: "pop", dropped: -1, before: m.line()}
			if s.id, s.ok = q.Pop(); s.ok {
				m.remove(s.id)
			} else {
				s.id = -1
			}
			property(q, m, s)
		},
		"cancel any": func(*rapid.T) { // of all that ever came: most have left
			if m.ids > 0 {
				cancel(rapid.IntRange(1, m.ids).Draw(t, "id"))
			}
		},
		"cancel queued": func(*rapid.T) {
			if line := m.line(); len(line) > 0 {
				cancel(rapid.SampledFrom(line).Draw(t, "id"))
			}
		},
	})
}

func check(t *testing.T, property func(t *rapid.T) func(q *queue.Queue[int], m *model, s step)) {
	rapid.Check(t, func(rt *rapid.T) { history(rt, property(rt)) })
}

// Interactive before batch, and in order of arrival within each.
// ORCH-3004, OC-CORE-1003, OC-CORE-1004
func TestPropertyOrder(t *testing.T) {
	check(t, func(t *rapid.T) func(*queue.Queue[int], *model, step) {
		return func(q *queue.Queue[int], m *model, s step) {
			if s.op == "pop" && s.ok && s.id != s.before[0] {
				t.Fatalf("popped %d, want %d, the first of the line", s.id, s.before[0])
			}
			if next, ok := q.Peek(); ok && next != m.line()[0] {
				t.Fatalf("Peek shows %d, want %d", next, m.line()[0])
			}
		}
	})
}

// A Push never takes the queue over its capacity, and refuses with the policy's label only when it is full. Guests take no place, and none is dropped.
// ORCH-3004, ORCH-3005, LO-437
func TestPropertyBound(t *testing.T) {
	check(t, func(t *rapid.T) func(*queue.Queue[int], *model, step) {
		return func(q *queue.Queue[int], m *model, s step) {
			taken := m.places(m.line())
			if got := q.Places(); got != taken {
				t.Fatalf("Places says %d, want %d", got, taken)
			}
			if s.op != "push" {
				return
			}
			before := m.places(s.before)
			if taken > max(m.capacity, before) {
				t.Fatalf("%d places are taken after a push, capacity %d, %d before", taken, m.capacity, before)
			}
			if !s.ok && before < m.capacity {
				t.Fatalf("refused with %d of %d places taken", before, m.capacity)
			}
			if s.dropped >= 0 && before < m.capacity {
				t.Fatalf("dropped %d with %d of %d places taken", s.dropped, before, m.capacity)
			}
			if m.guests[s.dropped] {
				t.Fatalf("dropped %d, which takes no place", s.dropped)
			}
		}
	})
}

// What went in comes out exactly once: popped, canceled or dropped; and what is left is what the counts say.
// ORCH-3004
func TestPropertyNoTaskLostOrDoubled(t *testing.T) {
	check(t, func(t *rapid.T) func(*queue.Queue[int], *model, step) {
		inside := map[int]bool{}
		leave := func(id int) {
			if !inside[id] {
				t.Fatalf("%d left the queue without being in it", id)
			}
			delete(inside, id)
		}
		return func(q *queue.Queue[int], m *model, s step) {
			if s.dropped >= 0 {
				leave(s.dropped)
			}
			switch s.op {
			case "push", "restore", "guest":
				if s.ok {
					inside[s.id] = true
				}
			case "pop":
				if s.ok {
					leave(s.id)
				} else if len(inside) > 0 {
					t.Fatalf("Pop found nothing with %d queued", len(inside))
				}
			case "cancel":
				if s.ok {
					leave(s.id)
				} else if inside[s.id] {
					t.Fatalf("Cancel denied that %d is queued", s.id)
				}
			}
			if depth, sum := q.Depth(), q.Len(task.Interactive)+q.Len(task.Batch); depth != len(inside) || sum != depth {
				t.Fatalf("depth %d, lines %d, want %d", depth, sum, len(inside))
			}
		}
	})
}

// Position is the number of items that would be popped before.
// ORCH-2001, OC-CORE-1003
func TestPropertyRightPositions(t *testing.T) {
	check(t, func(t *rapid.T) func(*queue.Queue[int], *model, step) {
		return func(q *queue.Queue[int], m *model, s step) {
			line := m.line()
			if (s.op == "push" || s.op == "guest") && s.ok && s.position != slices.Index(line, s.id) {
				t.Fatalf("Push said %d ahead of %d, want %d", s.position, s.id, slices.Index(line, s.id))
			}
			for i := 0; i < len(line); i += 1 + len(line)/16 {
				if got, ok := q.Position(m.tickets[line[i]]); !ok || got != i {
					t.Fatalf("position of %d is %d, %v, want %d", line[i], got, ok, i)
				}
			}
			if got := q.NextPosition(task.Batch); got != len(line) {
				t.Fatalf("next batch position %d, want %d", got, len(line))
			}
			if got := q.NextPosition(task.Interactive); got != len(m.levels[task.Interactive]) {
				t.Fatalf("next interactive position %d, want %d", got, len(m.levels[task.Interactive]))
			}
			if !slices.Contains(line, s.id) && s.id > 0 {
				if got, ok := q.Position(m.tickets[s.id]); ok {
					t.Fatalf("%d has left and still has position %d", s.id, got)
				}
			}
		}
	})
}

// OC-CORE-1005
func TestPropertyCanceledNeverPopped(t *testing.T) {
	check(t, func(t *rapid.T) func(*queue.Queue[int], *model, step) {
		canceled := map[int]bool{}
		return func(_ *queue.Queue[int], _ *model, s step) {
			if s.op == "cancel" {
				if s.ok && canceled[s.id] {
					t.Fatalf("%d was canceled twice", s.id)
				}
				canceled[s.id] = canceled[s.id] || s.ok
			}
			if s.op == "pop" && canceled[s.id] {
				t.Fatalf("%d was canceled, and popped", s.id)
			}
		}
	})
}

// The victim is the oldest batch item; without one, the oldest interactive item, for an interactive newcomer only.
// ORCH-3005
func TestPropertyDropLRUVictim(t *testing.T) {
	check(t, func(t *rapid.T) func(*queue.Queue[int], *model, step) {
		return func(_ *queue.Queue[int], m *model, s step) {
			if s.op != "push" {
				return
			}
			want, accept := -1, true
			seated := slices.DeleteFunc(slices.Clone(s.before), func(id int) bool { return m.guests[id] })
			if full := len(seated) >= m.capacity; full {
				firstBatch := slices.IndexFunc(seated, func(id int) bool { return m.priority[id] == task.Batch })
				switch {
				case m.policy == queue.Reject:
					accept = false
				case firstBatch >= 0:
					want = seated[firstBatch]
				case s.priority == task.Interactive:
					want = seated[0]
				default:
					accept = false
				}
			}
			if s.ok != accept || s.dropped != want {
				t.Fatalf("%s push: accepted %v and dropped %d, want %v and %d", s.priority, s.ok, s.dropped, accept, want)
			}
		}
	})
}
