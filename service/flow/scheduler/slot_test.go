// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-202: a task that finds a free slot, while nobody waits, is recorded as running when it is accepted, and once. One that has to wait is
// recorded as queued, and its dispatch later.
func TestATaskThatFindsAFreeSlotIsRecordedOnce(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("first", bestEffort)
		r.must("second", bestEffort)
		require.Equal(t, task.Running, r.book.records["first"].State)
		require.Equal(t, "default-0", r.book.records["first"].ReplicaID)
		require.Equal(t, r.status("first").StartedAt, r.book.records["first"].StartedAt)
		require.Equal(t, task.Queued, r.book.records["second"].State)
		require.Contains(t, r.read("first"), "event: end")
		require.Contains(t, r.read("second"), "event: end")
		require.EqualValues(t, 1, r.book.dispatches.Load(), "that of the second")
	})
}

// LO-202: the engine may work before the accept is durable, but nobody sees that: neither the task nor what it counts as.
func TestNothingLeavesBeforeTheAcceptIsDurable(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.book.hangs.Store(true)
		var submits sync.WaitGroup
		submits.Go(func() { r.must("a", anyID, bestEffort) })
		time.Sleep(10 * time.Second) // all of its tokens would be there by now
		r.set(func() { require.Equal(t, []string{"a"}, r.order, "the engine works") })
		require.Zero(t, r.s.job("a").log.Tokens())
		require.Empty(t, r.list("", 10))
		require.Zero(t, r.counter("tasks_started_total"))
		require.Zero(t, r.counter("tasks_enqueued_total"))
		r.book.hangs.Store(false)
		submits.Wait()
		require.Contains(t, r.read("a"), "event: end")
		require.EqualValues(t, 1, r.counter("tasks_started_total"))
		require.EqualValues(t, 1, r.counter("tasks_enqueued_total"))
	})
}

// LO-202: where the accept of a task that has begun cannot be recorded, the submit is refused, the run ends, and its slot is free. That
// of a task that sends no tokens is no different.
func TestARunWhoseAcceptCannotBeRecordedEnds(t *testing.T) {
	for _, workload := range []task.Workload{task.Completion, task.Embedding} {
		run(t, 1, nil, func(t *testing.T, r *rig) {
			r.book.hangs.Store(true)
			var submits sync.WaitGroup
			submits.Go(func() {
				_, err := r.submit("a", anyID, bestEffort, func(t *task.Task) { t.Request.Workload = workload })
				require.True(t, task.HasCode(err, task.LedgerUnavailable), "%v", err)
			})
			time.Sleep(time.Second)
			require.Equal(t, 1, r.s.Backlog("default"), "it holds the slot")
			r.book.full.Store(true)
			r.book.hangs.Store(false)
			submits.Wait()
			r.book.full.Store(false)
			synctest.Wait()
			require.Zero(t, r.s.Backlog("default"))
			require.Empty(t, r.book.records)
			require.Empty(t, r.s.jobs())
			require.Zero(t, r.counter("llorch_tasks_finished_total"))
			r.must("b")
			require.Contains(t, r.read("b"), "event: end")
		})
	}
}

// LO-202: a stop lets a task that has begun finish, also where its accept is being recorded at that moment.
func TestAStopLetsATaskThatHasBegunFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.book.hangs.Store(true)
		var both sync.WaitGroup
		both.Go(func() { r.must("a", anyID, bestEffort) })
		synctest.Wait()
		time.AfterFunc(time.Second, func() { r.book.hangs.Store(false) })
		r.stop()
		both.Wait()
		require.Equal(t, task.Completed, r.book.records["a"].State)
	})
}

// OC-CORE-1022: what the ledger takes for the accept does not count for how long a run may take.
func TestASlowAcceptIsNotTheRuns(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Wall = time.Second }, func(t *testing.T, r *rig) {
		r.book.hangs.Store(true)
		var submits sync.WaitGroup
		submits.Go(func() { r.must("a", anyID, bestEffort) })
		time.Sleep(time.Minute)
		r.book.hangs.Store(false)
		submits.Wait()
		require.Contains(t, r.read("a"), "event: end")
	})
}

// ORCH-3002: a deadline holds from the accept on for a task that has begun, as for one that waits.
func TestTheDeadlineOfATaskThatFindsAFreeSlot(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("a", bestEffort, deadline(50*time.Millisecond), tokens(100))
		require.Contains(t, r.read("a"), `"code":"DEADLINE_UNMET"`)
	})
}

// LO-503: a pool that is held starts no newcomer either.
func TestAFreeSlotOfAPoolThatIsHeld(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.s.Hold("default", true)
		r.must("a", bestEffort)
		time.Sleep(time.Second)
		require.Equal(t, task.Queued, r.status("a").State)
		d, _ := r.s.Demand("default")
		require.Equal(t, residency.Demand{Interactive: r.status("a").AcceptedAt, Waiting: 1, ActiveAt: d.ActiveAt}, d)
		r.s.Hold("default", false)
		require.Contains(t, r.read("a"), "event: end")
	})
}

// ORCH-2001: a free slot is not for a newcomer where somebody waits, and not where somebody takes a place in the queue meanwhile.
func TestAFreeSlotIsNotForANewcomerWhileOthersWait(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		meanwhile := func() {
			r.set(func() { r.replicas[0].ready = false })
			r.must("before")
			r.set(func() { r.replicas[0].ready = true })
		}
		r.onLease.Store(&meanwhile)
		a := r.must("after")
		require.Equal(t, 1, a.QueuePosition)
		require.Contains(t, r.read("after"), "event: end")
		require.Equal(t, []string{"before", "after"}, r.order)
	})
}

// counter is the sum of a series over its labels.
func (r *rig) counter(name string) (sum float64) {
	families, err := r.registry.Gather()
	require.NoError(r.t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
