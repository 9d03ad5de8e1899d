// SPDX-License-Identifier: GPL-3.0-or-later

package queue_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/task"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// ORCH-3005, ORCH-2007
func TestFullQueueRefusesWithItsPolicy(t *testing.T) {
	for _, policy := range []queue.Policy{queue.Reject, queue.DropLRU} {
		q := queue.New[string](1, policy)
		_, err := q.Push(task.Interactive, "first", start)
		require.NoError(t, err)

		_, err = q.Push(task.Batch, "second", start) // finds no batch item to drop
		require.True(t, task.HasCode(err, task.AdmissionReject))
		e := task.AsError(err)
		require.Equal(t, string(policy), e.PolicyLabel)
		require.True(t, e.Retriable)
		require.Equal(t, 1, q.Depth())
	}
}

// ORCH-3005
func TestUnknownPolicyRejectsAndCapacityIsAtLeastOne(t *testing.T) {
	q := queue.New[string](-3, "")
	require.Equal(t, 1, q.Capacity())
	must(q.Push(task.Batch, "first", start))

	_, err := q.Push(task.Interactive, "second", start) // drops nothing
	require.Equal(t, string(queue.Reject), task.AsError(err).PolicyLabel)
}

// OC-CORE-1005
func TestTicketGoesStaleWhenItsSlotIsReused(t *testing.T) {
	q := queue.New[string](4, queue.Reject)
	first := must(q.Push(task.Interactive, "first", start)).Ticket
	_, ok := q.Pop()
	require.True(t, ok)
	second := must(q.Push(task.Interactive, "second", start)).Ticket

	require.False(t, q.Cancel(first), "a popped item's ticket must not cancel whoever came after it")
	require.False(t, q.Cancel(queue.Ticket{}))
	_, ok = q.Position(first)
	require.False(t, ok)
	position, ok := q.Position(second)
	require.True(t, ok)
	require.Zero(t, position)
	require.True(t, q.Cancel(second))
	require.False(t, q.Cancel(second))
}

// ORCH-3004
func TestRestoreIsExemptFromCapacity(t *testing.T) {
	q := queue.New[string](1, queue.Reject)
	_, err := q.Push(task.Batch, "queued", start)
	require.NoError(t, err)
	q.Restore(task.Batch, "recovered", start)
	require.Equal(t, 2, q.Depth())
	for _, want := range []string{"queued", "recovered"} {
		got, ok := q.Pop()
		require.True(t, ok)
		require.Equal(t, want, got)
	}
	_, ok := q.Pop()
	require.False(t, ok)
}

// A newcomer that cannot be recorded leaves again, and nothing was given up for it.
// ORCH-3005
func TestNothingIsDroppedBeforeShed(t *testing.T) {
	q := queue.New[string](1, queue.DropLRU)
	old := must(q.Push(task.Batch, "old", start))
	refused := must(q.Push(task.Batch, "refused", start))
	require.True(t, refused.Over)
	require.Zero(t, refused.Position, "as it will be once room is made")
	position, queued := q.Position(old.Ticket)
	require.True(t, queued)
	require.Zero(t, position)
	require.True(t, q.Cancel(refused.Ticket))
	_, dropped := q.Shed(task.Batch)
	require.False(t, dropped)
	urgent := must(q.Push(task.Interactive, "urgent", start))
	require.True(t, urgent.Over)
	gone, dropped := q.Shed(task.Interactive)
	require.True(t, dropped)
	require.Equal(t, "old", gone)
}

// LO-601, LO-503
func TestOldestOfEachPriority(t *testing.T) {
	q := queue.New[string](4, queue.Reject)
	_, ok := q.Oldest(task.Batch)
	require.False(t, ok)
	_ = must(q.Push(task.Batch, "old", start))
	_ = must(q.Push(task.Batch, "newer", start.Add(time.Second)))
	_ = must(q.Push(task.Interactive, "young", start.Add(time.Minute)))
	at, ok := q.Oldest(task.Batch)
	require.True(t, ok)
	require.Equal(t, start, at)
	at, ok = q.Oldest(task.Interactive)
	require.True(t, ok)
	require.Equal(t, start.Add(time.Minute), at)
	_, _ = q.Pop() // the young one
	_, ok = q.Oldest(task.Interactive)
	require.False(t, ok)
}

// OC-CORE-1003
func TestPopAndCancelDoNotAllocate(t *testing.T) {
	const n = 4000
	q := queue.New[int](n, queue.Reject)
	tickets := make([]queue.Ticket, n)
	for i := range tickets {
		tickets[i] = must(q.Push(task.Batch, i, start)).Ticket
	}
	next := n
	require.Zero(t, testing.AllocsPerRun(n/4, func() { _, _ = q.Pop() }))
	require.Zero(t, testing.AllocsPerRun(n/4, func() { next--; q.Cancel(tickets[next]) }))
	require.Zero(t, testing.AllocsPerRun(n/4, func() { _, _ = q.Push(task.Batch, 0, start) }), "freed slots are used again")
}

// Pushers, poppers and cancelers at once: every item leaves exactly once.
// ORCH-3004, OC-CORE-1005
func TestConcurrentUseLosesAndDoublesNothing(t *testing.T) {
	const workers, each = 4, 2000
	q := queue.New[int](64, queue.DropLRU)
	var left [workers * each]atomic.Int32 // how often an item was popped, canceled, dropped or refused
	var pushers, poppers sync.WaitGroup
	done := make(chan struct{})
	for w := range workers {
		pushers.Go(func() {
			for i := range each {
				id := w*each + i
				p := task.Interactive
				if id%3 == 0 {
					p = task.Batch
				}
				pushed, err := q.Push(p, id, start)
				if err != nil {
					left[id].Add(1)
					continue
				}
				if dropped, ok := q.Shed(task.Batch); ok {
					left[dropped].Add(1)
				}
				q.Position(pushed.Ticket)
				if id%5 == 0 && q.Cancel(pushed.Ticket) {
					left[id].Add(1)
				}
			}
		})
		poppers.Go(func() {
			for {
				if id, ok := q.Pop(); ok {
					left[id].Add(1)
					continue
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	pushers.Wait()
	close(done)
	poppers.Wait()
	for { // what a popper saw none of before it saw done
		id, ok := q.Pop()
		if !ok {
			break
		}
		left[id].Add(1)
	}
	for id := range left {
		require.EqualValues(t, 1, left[id].Load(), "item %d", id)
	}
}

// LO-607: the first of the line, in the order in which they leave.
func TestFirst(t *testing.T) {
	q := queue.New[string](9, queue.Reject)
	now := time.Now()
	for _, v := range []string{"b1", "b2"} {
		_, err := q.Push(task.Batch, v, now)
		require.NoError(t, err)
	}
	_, err := q.Push(task.Interactive, "i1", now)
	require.NoError(t, err)
	require.Equal(t, []string{"i1", "b1"}, q.First(2, nil))
	require.Equal(t, []string{"x", "i1", "b1", "b2"}, q.First(9, []string{"x"}))
	require.Empty(t, q.First(0, nil))
}
