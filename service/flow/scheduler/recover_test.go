// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3005, LO-202: a full disk costs the newcomer, and not the task it would have displaced too.
func TestAFullDiskDropsNothing(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Capacity, p.Policy = 1, queue.DropLRU }, func(t *testing.T, r *rig) {
		r.must("running")
		synctest.Wait()
		r.must("old", batch)
		r.book.full.Store(true)
		_, err := r.submit("new")
		require.True(t, task.HasCode(err, task.LedgerUnavailable))
		r.book.full.Store(false)
		require.Contains(t, r.read("old"), "event: end")
		require.Equal(t, []string{"running", "old"}, r.order)
	})
}

// LO-202: a stop lets running tasks finish; what is left is for the next start, and its streams end without an end.
func TestStopLeavesQueuedTasksToTheNextStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.must("short")
		r.must("queued")
		synctest.Wait()
		s, err := r.s.Subscribe(t.Context(), "queued", "")
		require.NoError(t, err)
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		require.NoError(t, r.s.Stop(ctx))
		require.Contains(t, r.read("short"), "event: end", "what runs may finish")
		_, err = s.Next(t.Context(), nil) // started
		require.NoError(t, err)
		s.Written()
		_, err = s.Next(t.Context(), nil)
		require.ErrorIs(t, err, stream.ErrDetached)
		s.Close()
		_, err = r.submit("late")
		require.True(t, task.HasCode(err, task.ShuttingDown))
		_, err = r.s.Cancel(t.Context(), "queued")
		require.True(t, task.HasCode(err, task.ShuttingDown))

		r = r.restart()
		defer r.stop()
		require.Contains(t, r.read("queued"), "event: end")
	})
}

func TestStopEndsBestEffortTasksThatRunTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.must("long", tokens(1000), bestEffort)
		synctest.Wait()
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		require.NoError(t, r.s.Stop(ctx))
		require.Contains(t, r.read("long"), `"code":"SHUTTING_DOWN"`)
	})
}

// LO-202: a strict task that a stop cut short is decoded again, and its client goes on where it was, byte for byte.
func TestRestartContinuesAStrictTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		undisturbed := newRig(t, 1, nil)
		undisturbed.must("long", tokens(100))
		want := undisturbed.read("long")
		undisturbed.stop()

		r := newRig(t, 1, nil)
		r.must("long", tokens(100))
		r.must("next")
		time.Sleep(305 * time.Millisecond)
		s, err := r.s.Subscribe(t.Context(), "long", "")
		require.NoError(t, err)
		var head []byte
		for !strings.Contains(string(head), `"i":29}`) {
			b, err := s.Next(t.Context(), nil)
			require.NoError(t, err)
			head = append(head, b...)
			s.Written()
		}
		s.Close()
		at := r.status("long").LastEventID
		ctx, stop := context.WithCancel(t.Context())
		stop()
		require.NoError(t, r.s.Stop(ctx))
		require.Equal(t, 30, r.book.records["long"].Checkpoint.Event)

		r = r.restart()
		defer r.stop()
		r.must("later")
		tail := r.readAfter("long", at)
		require.Equal(t, want, string(head)+tail)
		r.read("later")
		require.Equal(t, []string{"long", "next", "later"}, r.order)
		require.Equal(t, 1.0, testutil.ToFloat64(r.s.o.Metrics.failovers.WithLabelValues("default", "resumed")))
	})
}

// LO-202
func TestRestartEndsWhatCannotBeContinued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, nil)
		r.must("best", tokens(1000), bestEffort)
		r.must("strict", tokens(1000))
		time.Sleep(50 * time.Millisecond)
		left := r.crash()
		for i := range left { // other bytes than will be decoded
			left[i].Checkpoint = task.Checkpoint{Event: 2, Sum: [32]byte{1}}
		}
		r = newRigOn(t, r.book, 2, nil, left...)
		defer r.stop()
		require.Contains(t, r.read("best"), `"code":"WORKER_RESET"`)
		require.Contains(t, r.read("strict"), "did not give what was already sent")
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.must("strict", tokens(1000))
		time.Sleep(50 * time.Millisecond)
		left := r.crash()
		left[0].Fingerprint = "gone"
		gone := left[0]
		gone.Task.ID, gone.Task.PoolID = "elsewhere", "removed"
		r = newRigOn(t, r.book, 1, nil, left[0], gone)
		defer r.stop()
		began := time.Now()
		require.Contains(t, r.read("strict"), "no replica that can go on with it")
		require.Equal(t, time.Minute, time.Since(began))
		require.Contains(t, r.read("elsewhere"), `"code":"POOL_UNAVAILABLE"`)
	})
}

// LO-203: the stream of a strict task whose worker dies goes on from another replica of the set, as if nothing had been.
func TestStrictTaskMovesToAnotherReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		undisturbed := newRig(t, 1, nil)
		undisturbed.must("a")
		want := undisturbed.read("a")
		undisturbed.stop()

		r := newRig(t, 2, nil)
		defer r.stop()
		r.replicas[0].dies = 3
		r.must("a")
		got := r.read("a")
		tokens := strings.Index(want, "id: 11-") // behind them, the receipt names another replica
		require.Equal(t, want[:tokens], got[:tokens])
		require.Contains(t, got, "event: end")
		require.Equal(t, "default-1", r.status("a").ReplicaID)
		require.Equal(t, []string{"a", "a"}, r.order)
	})
}

// LO-203
func TestMovesAreBounded(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.replicas[0].fail = task.Errorf(task.WorkerReset, "the worker died").Retry(0)
		r.must("a")
		got := r.read("a")
		require.Equal(t, 2, strings.Count(got, "event: token\n"))
		require.Contains(t, got, `"code":"WORKER_RESET"`)
		require.Contains(t, got, `"pool_id":"default"`)
		require.Len(t, r.order, attempts)
	})
}

// LO-203: other bytes than were sent end the task; nobody gets them.
func TestMoveToOtherBytesIsAReset(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.replicas[0].dies, r.replicas[1].says = 3, "x"
		r.must("a")
		got := r.read("a")
		require.Contains(t, got, "did not give what was already sent")
		require.NotContains(t, got, "xa")
	})
}

// ORCH-3026: a cancel while a task waits for another replica.
func TestCancelWhileATaskMoves(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].dies, r.replicas[1].ready = 3, false })
		r.must("a")
		time.Sleep(100 * time.Millisecond)
		c, err := r.s.Cancel(t.Context(), "a")
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(c.LastEventID, "3-"))
		require.Contains(t, r.read("a"), `"code":"CANCELED"`)
	})
}

// An outcome that cannot be recorded waits; nobody sees it before. A task that cannot be recorded is not accepted.

func TestFullDiskRefusesNewTasksAndHoldsOutcomes(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("a")
		time.Sleep(50 * time.Millisecond)
		r.book.full.Store(true)
		_, err := r.submit("b")
		require.True(t, task.HasCode(err, task.LedgerUnavailable))
		time.Sleep(10 * time.Second)
		require.Equal(t, task.Running, r.status("a").State)
		require.Equal(t, 10, r.status("a").TokensOut, "tokens flow on")
		r.book.full.Store(false)
		require.Contains(t, r.read("a"), "event: end")
		r.must("b")
		require.Contains(t, r.read("b"), "event: end")
	})
}

// ORCH-3046, LO-203: a pool with two builds of its engine has two sets. A strict task stays in its own, and where nobody of that comes
// back it ends rather than go on with other bytes.
func TestATaskStaysInItsReplicaSet(t *testing.T) {
	for name, back := range map[string]bool{"its own replica comes back": true, "only the other is there": false} {
		t.Run(name, func(t *testing.T) {
			run(t, 2, nil, func(t *testing.T, r *rig) {
				r.set(func() { r.replicas[1].build, r.replicas[0].dies = "b2", 3 })
				r.must("strict") // on the first by its id
				time.Sleep(10 * time.Second)
				require.Equal(t, task.Running, r.status("strict").State)
				require.Equal(t, 3, r.status("strict").TokensOut)
				if back {
					r.set(func() { r.replicas[0].ready = true })
					r.s.Wake("default")
					require.Contains(t, r.read("strict"), "event: end")
					require.Equal(t, "default-0", r.status("strict").End.Receipt.ReplicaID)
					return
				}
				require.Contains(t, r.read("strict"), `"code":"WORKER_RESET"`)
				require.Equal(t, []string{"strict"}, r.order, "the other build never decoded it")
			})
		})
	}
}

// LO-202: a start on a full disk takes up what it can, and ends the rest once it may.
func TestStartOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 2, nil)
		r.must("best", tokens(1000), bestEffort)
		r.must("strict")
		time.Sleep(50 * time.Millisecond)
		left, b := r.crash(), &book{records: map[string]task.Record{}}
		for _, was := range left {
			b.records[was.Task.ID] = was
		}
		b.full.Store(true)
		r = newRigOn(t, b, 2, nil, left...)
		defer r.stop()
		_, err := r.s.Get(t.Context(), "best")
		require.True(t, task.HasCode(err, task.LedgerUnavailable), "%v", err)
		time.Sleep(time.Minute)
		b.full.Store(false)
		time.Sleep(2 * time.Second)
		require.Contains(t, r.read("best"), `"code":"WORKER_RESET"`)
		require.Contains(t, r.read("strict"), "event: end")
		require.Equal(t, 1.0, testutil.ToFloat64(r.s.o.Metrics.finishedTotal.WithLabelValues("default", "failed")))
	})
}
