// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-803: a panic in a run ends its task as INTERNAL, with a line in the log. Its neighbour and its slot know nothing of it.
func TestAPanicEndsOneTask(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].panics = "an adapter is wrong" })
		r.must("hit")
		r.must("neighbour")
		got := r.read("hit")
		require.Contains(t, got, `"code":"INTERNAL"`)
		require.NotContains(t, got, "an adapter is wrong", "that is for the log")
		require.Contains(t, r.read("neighbour"), "event: end\n")
		require.EqualValues(t, 1, r.panics.Load())
		require.Equal(t, task.Failed, r.status("hit").State)

		r.set(func() { r.replicas[0].panics = "" })
		r.must("next")
		require.Contains(t, r.read("next"), "event: end\n")
		require.EqualValues(t, 1, r.panics.Load())
	})
}

// LO-803: where what is counted of a task panics, its outcome is recorded already, and stands.
func TestAPanicBehindTheOutcomeChangesNothing(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].tokensIn = -1 }) // a counter cannot go down, and panics
		r.must("hit")
		require.Contains(t, r.read("hit"), "event: end\n")
		require.EqualValues(t, 1, r.panics.Load())
		require.Equal(t, task.Completed, r.status("hit").State)
		c, err := r.s.Cancel(t.Context(), "hit")
		require.NoError(t, err)
		require.Equal(t, task.Completed, c.Outcome)
	})
}

// LO-803: where the end itself panics, the task ends as INTERNAL; where the ledger does, nobody sees an end that is not recorded.
func TestAPanicWithinTheEnd(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("hit")
		time.Sleep(15 * time.Millisecond) // on the virtual clock: it has sent a token
		j := r.s.job("hit")
		require.True(t, j.claim(nil))
		r.s.end(j, task.Failed, nil, nil) // an error that is missing
		require.Contains(t, r.read("hit"), `"code":"INTERNAL"`)
		require.EqualValues(t, 1, r.panics.Load())
		r.must("next")
		require.Contains(t, r.read("next"), "event: end\n")
	})
}

// LO-802: where the clock was set back since the accept, what a client is told of its task is not below 0.
func TestAClockThatWasSetBack(t *testing.T) {
	run(t, 0, nil, func(t *testing.T, r *rig) {
		r.must("waiting", func(t *task.Task) { t.AcceptedAt = t.AcceptedAt.Add(time.Hour) })
		require.GreaterOrEqual(t, r.status("waiting").PredictedStart, time.Duration(0))
	})
}

// LO-803: a panic in a submit refuses that task as INTERNAL, whatever broke. It leaves nothing in the queue, and its id is free.
func TestAPanicWithinASubmit(t *testing.T) {
	for _, what := range []string{"the number", "the accept", "the lease"} {
		t.Run(what, func(t *testing.T) {
			run(t, 1, nil, func(t *testing.T, r *rig) {
				r.book.panics.Store(what)
				if what == "the lease" {
					r.onLease.Store(new(stumble))
				}
				_, err := r.submit("hit")
				require.True(t, task.HasCode(err, task.Internal), "%v", err)
				require.EqualValues(t, 1, r.panics.Load())
				r.book.panics.Store("")
				synctest.Wait() // its run ends, if it had begun
				require.Zero(t, r.s.Backlog("default"))
				r.must("next")
				require.Contains(t, r.read("next"), "event: end\n")
				r.must("hit")
				require.Contains(t, r.read("hit"), "event: end\n")
			})
		})
	}
}

// stumble is somebody else's code that panics.
func stumble() { panic("index out of range") }

// LO-803: a task whose placing panics ends as INTERNAL, and does not hold up those behind it.
func TestAPanicOfThePlacingEndsItsTask(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("first")
		r.must("hit")
		r.must("behind")
		r.onLease.Store(new(stumble))
		require.Contains(t, r.read("hit"), `"code":"INTERNAL"`)
		require.Contains(t, r.read("behind"), "event: end\n")
		require.EqualValues(t, 1, r.panics.Load())
	})
}

// LO-803: a panic of a pool's loop costs no task: the loop begins anew with what waits.
func TestALoopThatPanickedGoesOn(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].ready = false })
		r.must("hit")
		synctest.Wait()
		r.set(func() { r.replicas[0].ready = true })
		r.onLook.Store(new(stumble))
		r.s.Wake("default")
		began := time.Now()
		require.Contains(t, r.read("hit"), "event: end\n")
		require.Less(t, time.Since(began), time.Second, "of the virtual clock")
		require.Nil(t, r.onLook.Load(), "it did panic")
	})
}

// LO-803: where the timer of a task that waits for another replica panics, the task ends, and does not wait for ever.
func TestATimerThatPanickedEndsItsTask(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].dies = 1 })
		r.must("hit")
		time.Sleep(time.Second)
		require.Equal(t, task.Running, r.status("hit").State)
		r.onLook.Store(new(stumble))
		require.Contains(t, r.read("hit"), `"code":"INTERNAL"`)
		require.EqualValues(t, 1, r.panics.Load())
	})
}

// LO-803: a start whose ledger panics while it records what nobody can continue goes on. The next start takes the task up.
func TestAPanicOfARecovery(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("hit", func(t *task.Task) { t.Determinism = task.BestEffort })
		time.Sleep(15 * time.Millisecond) // on the virtual clock: it has sent a token
		left := r.crash()
		b := &book{records: map[string]task.Record{}}
		b.panics.Store("the outcome")
		next := newRigOn(t, b, 1, nil, left...)
		next.must("fresh")
		b.panics.Store("")
		require.Contains(t, next.read("fresh"), "event: end\n")
		require.EqualValues(t, 1, next.panics.Load())
		next.stop()
	})
}
