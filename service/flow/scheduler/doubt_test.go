// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// runsOf counts the runs of a prompt.
func (r *rig) runsOf(prompt string) (n int) {
	order, _ := r.history()
	for _, p := range order {
		if p == prompt {
			n++
		}
	}
	return n
}

// wide runs a test on a replica of four slots.
func wide(t *testing.T, replicas int, test func(t *testing.T, r *rig)) {
	run(t, replicas, func(p *Pool) { p.Capacity = 100 }, func(t *testing.T, r *rig) {
		r.set(func() {
			for _, x := range r.replicas {
				x.slots = 4
			}
		})
		test(t, r)
	})
}

// LO-203: an engine of several slots goes down, and nobody but its tasks notices. Each of them spends one run on that, and one that comes
// meanwhile none.
func TestAnEngineOfSeveralSlotsStartsAgain(t *testing.T) {
	for name, uncounted := range map[string]bool{"it counts its busy slots": false, "it does not": true} {
		t.Run(name, func(t *testing.T) {
			for runs := 1; runs <= 4; runs++ {
				wide(t, 1, func(t *testing.T, r *rig) {
					r.set(func() { r.replicas[0].uncounted = uncounted })
					for i := range runs {
						r.must(fmt.Sprint("a", i), bestEffort)
					}
					time.Sleep(35 * time.Millisecond)
					r.set(func() { r.replicas[0].down = true })
					time.Sleep(15 * time.Millisecond)
					r.must("late", bestEffort)
					time.Sleep(20 * time.Second)
					r.set(func() { r.replicas[0].down = false })
					time.Sleep(time.Second)
					require.Equal(t, 1, r.runsOf("late"))
					require.Equal(t, written("late", 10), r.answer("late").Transcript.Text)
					for i := range runs {
						a := fmt.Sprint("a", i)
						require.Equal(t, 2, r.runsOf(a))
						require.Equal(t, written(a, 10), r.answer(a).Transcript.Text)
					}
				})
			}
		})
	}
}

// LO-203: the same for an engine of one slot that does not count its busy ones: its lease is not held for long.
func TestAnEngineOfOneSlotStartsAgain(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].uncounted = true })
		r.must("a")
		time.Sleep(35 * time.Millisecond)
		r.set(func() { r.replicas[0].down = true })
		time.Sleep(20 * time.Second)
		r.set(func() { r.replicas[0].down = false })
		time.Sleep(time.Second)
		require.Equal(t, written("a", 10), r.answer("a").Transcript.Text)
		require.Equal(t, 2, r.runsOf("a"))
	})
}

// LO-203: another replica takes the task at once.
func TestATaskDoesNotWaitForAnEngineThatIsGone(t *testing.T) {
	wide(t, 2, func(t *testing.T, r *rig) {
		r.must("a", bestEffort)
		time.Sleep(35 * time.Millisecond)
		r.set(func() { r.replicas[0].down = true })
		time.Sleep(80 * time.Millisecond)
		a := r.answer("a")
		require.Equal(t, written("a", 10), a.Transcript.Text)
		require.Equal(t, "default-1", a.ReplicaID)
	})
}

// LO-203: who waits for an engine to answer again can be canceled, has its deadline, and waits no longer than for any replica.
func TestTheWaitForAnEngineEnds(t *testing.T) {
	wide(t, 1, func(t *testing.T, r *rig) {
		r.must("canceled", bestEffort)
		r.must("deadline", bestEffort, deadline(5*time.Second))
		r.must("patient", bestEffort)
		time.Sleep(35 * time.Millisecond)
		r.set(func() { r.replicas[0].down = true })
		time.Sleep(time.Second)
		_, err := r.s.Cancel(t.Context(), "canceled")
		require.NoError(t, err)
		require.Equal(t, task.StateCanceled, r.status("canceled").State)
		time.Sleep(5 * time.Second)
		require.Equal(t, task.DeadlineUnmet, r.status("deadline").Err.Code)
		require.Equal(t, task.Running, r.status("patient").State)
		time.Sleep(time.Minute)
		require.Equal(t, task.WorkerReset, r.status("patient").Err.Code)
		require.Contains(t, r.status("patient").Err.Message, "no replica that can go on with it was ready in time")
		for _, id := range []string{"canceled", "deadline", "patient"} {
			require.Equal(t, 1, r.runsOf(id))
		}
	})
}

// LO-203: a replica that has another worker takes tasks again, whatever the old one did.
func TestAWorkerThatIsGoneIsNotWaitedFor(t *testing.T) {
	wide(t, 1, func(t *testing.T, r *rig) {
		lost := make(chan struct{})
		r.set(func() { r.replicas[0].lost = lost })
		r.must("a", bestEffort)
		time.Sleep(35 * time.Millisecond)
		old := r.replicas[0]
		r.set(func() { old.down = true })
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, r.runsOf("a"))
		r.set(func() {
			r.replicas[0] = &replica{r: r, id: old.id, pool: old.pool, ready: true, every: old.every, slots: 4}
		})
		close(lost)
		time.Sleep(time.Second)
		require.Equal(t, written("a", 10), r.answer("a").Transcript.Text)
	})
}

// LO-203: the same for requests that are passed on. Nobody can repeat the one that broke off, and the others wait.
func TestRequestsWaitForTheirServer(t *testing.T) {
	wide(t, 1, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].uncounted = true })
		broken := &request{before: time.Second, fail: errors.New("connection reset")}
		one := r.passAside(t.Context(), "one", broken)
		time.Sleep(999 * time.Millisecond)
		r.set(func() { r.replicas[0].down = true })
		require.True(t, task.HasCode(<-one, task.WorkerReset))
		synctest.Wait()
		late := &request{before: time.Second}
		two := r.passAside(t.Context(), "two", late)
		time.Sleep(20 * time.Second)
		require.False(t, late.ran.Load())
		r.set(func() { r.replicas[0].down = false })
		require.NoError(t, <-two)
	})
}

// LO-203: a stop does not wait for an engine that does not answer.
func TestAStopDoesNotWaitForAnEngineThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.set(func() { r.replicas[0].slots, r.replicas[0].uncounted = 4, true })
		r.must("a", bestEffort)
		time.Sleep(35 * time.Millisecond)
		r.set(func() { r.replicas[0].down = true })
		time.Sleep(time.Second)
		began := time.Now()
		r.stop()
		require.Less(t, time.Since(began), time.Second)
		require.True(t, strings.HasPrefix(r.book.records["a"].Err.Message, "the orchestrator is stopping"))
	})
}
