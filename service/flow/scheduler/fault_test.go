// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-202: deadlines that passed while nobody ran end their tasks while the others are still being taken up, and leave nothing
// behind.
func TestDeadlinesThatPassedFireWhileTasksAreTakenUp(t *testing.T) {
	var left []task.Record
	for i := range 400 {
		r := task.Record{State: task.Queued, Task: task.Task{
			ID: fmt.Sprint(i), Seq: uint64(i), PoolID: "default", Engine: "llamacpp", Determinism: task.Strict, AcceptedAt: time.Now().Add(-time.Hour),
			Request: task.Request{Workload: task.Completion, Priority: task.Interactive, MaxTokens: 1, Deadline: time.Second},
		}}
		if i%2 == 0 {
			r.State, r.StartedAt, r.Fingerprint = task.Running, r.Task.AcceptedAt, "fp"
		}
		left = append(left, r)
	}
	b := &book{records: map[string]task.Record{}}
	for _, r := range left {
		b.records[r.Task.ID] = r
	}
	r := newRigOn(t, b, 0, nil, left...)
	defer r.stop()
	for _, was := range left {
		require.Contains(t, r.read(was.Task.ID), `"code":"DEADLINE_UNMET"`)
	}
	require.Zero(t, r.s.Backlog("default"))
}

// LO-203, ORCH-3026: a task that is canceled after it left its worker, and before it waits for another, leaves nothing behind: no
// prediction counts it, and no model is kept for it.
func TestACancelBetweenLeavingAndWaitingLeavesNothing(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		var canceled task.CancelResult
		r.onMove = func(id string) {
			var err error
			canceled, err = r.s.Cancel(t.Context(), id)
			require.NoError(t, err)
		}
		r.set(func() { r.replicas[0].dies = 3 })
		r.must("a")
		require.Contains(t, r.read("a"), `"code":"CANCELED"`)
		synctest.Wait()
		require.Equal(t, task.StateCanceled, canceled.Outcome)
		require.Zero(t, r.s.Backlog("default"))
		d, ok := r.s.Demand("default")
		require.True(t, ok)
		require.Zero(t, d.Waiting)
		require.Zero(t, d.Interactive)
	})
}

// LO-202, LO-203: a strict task whose worker dies while the daemon waits to stop is left to the next start at once: with a
// checkpoint, and its readers told. One of best effort that had sent nothing is told to come again.
func TestAWorkerThatDiesDuringAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		undisturbed := newRig(t, 1, nil)
		undisturbed.must("strict")
		want := undisturbed.read("strict")
		undisturbed.stop()

		r := newRig(t, 3, nil)
		r.set(func() { r.replicas[0].dies, r.replicas[1].dies, r.replicas[1].every = 3, -1, 40*time.Millisecond })
		r.must("strict")
		synctest.Wait()
		r.must("best", bestEffort)
		synctest.Wait()
		r.must("long", tokens(100))
		synctest.Wait()
		s, err := r.s.Subscribe(t.Context(), "strict", "")
		require.NoError(t, err)
		defer s.Close()
		began := time.Now()
		var stopping sync.WaitGroup
		stopping.Go(r.stop)
		var got []byte
		for {
			var b []byte
			b, err = s.Next(t.Context(), nil)
			if err != nil {
				break
			}
			got = append(got, b...)
			s.Written()
		}
		require.ErrorIs(t, err, stream.ErrDetached)
		require.Equal(t, 40*time.Millisecond, time.Since(began), "when its worker died, not when the stop is over")
		require.True(t, strings.HasPrefix(want, string(got)))
		require.Contains(t, r.read("best"), `"code":"SHUTTING_DOWN"`)
		stopping.Wait()
		require.Equal(t, time.Second, time.Since(began), "the others had the time to end")
		require.Contains(t, r.read("long"), "event: end")
		require.Equal(t, 3, r.book.records["strict"].Checkpoint.Event)

		r = r.restart()
		defer r.stop()
		require.Equal(t, tokenLines(want), tokenLines(r.read("strict")))
	})
}

// LO-203: the patience of a wait that is over does not end the run that has just begun.
func TestPatienceDoesNotEndALaterRun(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].dies = 3 })
		r.must("a", tokens(100))
		time.Sleep(40 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, task.Running, r.status("a").State)
		time.Sleep(time.Minute - time.Millisecond) // the worker was lost 40 ms after the start
		back := func() {                           // the timer has fired, and looks whether the pool is parked
			r.set(func() { r.replicas[0].ready = true })
			r.s.Wake("default")
			time.Sleep(100 * time.Millisecond)
		}
		r.onLook.Store(&back)
		require.Contains(t, r.read("a"), "event: end")
		require.Equal(t, []string{"a", "a"}, r.order)
		require.Nil(t, r.onLook.Load())
	})
}

// LO-202: a task is listed and fetched once its accept is durable. Its stream may be opened before, and begins then.
func TestATaskIsSeenOnceItIsAccepted(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.book.hangs.Store(true)
		var submits sync.WaitGroup
		submits.Go(func() { r.must("a", anyID) })
		synctest.Wait()
		_, err := r.s.Get(t.Context(), "a")
		require.True(t, task.HasCode(err, task.NotFound), "%v", err)
		require.Empty(t, r.list("", 10))
		require.Empty(t, r.list(task.Queued, 10))
		opened := make(chan string)
		submits.Go(func() { opened <- r.read("a") })
		time.Sleep(time.Minute)
		select {
		case got := <-opened:
			require.Fail(t, "it was read before it was accepted", got)
		default:
		}
		r.book.hangs.Store(false)
		require.Contains(t, <-opened, "event: end")
		submits.Wait()
		require.Equal(t, task.Completed, r.status("a").State)
		require.Len(t, r.list("", 10), 1)
	})
}

// LO-202, ORCH-3005: who opens the stream of a task that cannot be recorded hears why, and finds no task.
func TestAStreamOfATaskThatIsNotAccepted(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.book.hangs.Store(true)
		var both sync.WaitGroup
		both.Go(func() {
			_, err := r.submit("a", anyID)
			require.True(t, task.HasCode(err, task.LedgerUnavailable), "%v", err)
		})
		synctest.Wait()
		both.Go(func() {
			_, err := r.s.Subscribe(t.Context(), "a", "")
			require.True(t, task.HasCode(err, task.LedgerUnavailable), "%v", err)
			_, err = r.s.Cancel(t.Context(), "a")
			require.True(t, task.HasCode(err, task.NotFound), "%v", err)
		})
		synctest.Wait()
		r.book.full.Store(true)
		r.book.hangs.Store(false)
		both.Wait()
		synctest.Wait() // its run ends
		require.Zero(t, r.s.Backlog("default"))
	})
}

// LO-101: while the disk hangs, whoever asks waits no longer than their client does.
func TestNobodyOutlivesTheirClientWhileTheDiskHangs(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("ended")
		r.read("ended")
		r.book.hangs.Store(true)
		var submits sync.WaitGroup
		submits.Go(func() { r.must("a", anyID) })
		synctest.Wait()
		for name, ask := range map[string]func(ctx context.Context) error{
			"a submit of an id that is being accepted": func(ctx context.Context) error {
				_, _, err := r.s.Known(ctx, "a", [32]byte{})
				return err
			},
			"a submit of an id that has ended": func(ctx context.Context) error {
				_, _, err := r.s.Known(ctx, "ended", [32]byte{})
				return err
			},
			"a task that has ended":                    func(ctx context.Context) error { _, err := r.s.Get(ctx, "ended"); return err },
			"a stream of a task that has ended":        func(ctx context.Context) error { _, err := r.s.Subscribe(ctx, "ended", ""); return err },
			"a stream of one that is being accepted":   func(ctx context.Context) error { _, err := r.s.Subscribe(ctx, "a", ""); return err },
			"a cancel of one that is being accepted":   func(ctx context.Context) error { _, err := r.s.Cancel(ctx, "a"); return err },
			"a cancel of one that has ended":           func(ctx context.Context) error { _, err := r.s.Cancel(ctx, "ended"); return err },
			"a new submit with an id":                  func(ctx context.Context) error { _, err := r.s.Enqueue(ctx, numbered("b")); return err },
			"a new submit with an id that is arriving": func(ctx context.Context) error { return r.twice(ctx, numbered("c")) },
		} {
			began := time.Now()
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			require.ErrorIs(t, ask(ctx), context.DeadlineExceeded, name)
			stop()
			require.Equal(t, 10*time.Second, time.Since(began), name)
		}
		r.book.hangs.Store(false)
		submits.Wait()
		require.Contains(t, r.read("a"), "event: end")
		require.Contains(t, r.read("ended"), "event: end")
		require.Empty(t, r.s.arriving)
	})
}

// ORCH-2001: a submit whose prediction is slow, because somebody holds up who looks at the replicas, holds up nobody else.
func TestASlowSubmitHoldsUpNobody(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("running", tokens(1000))
		synctest.Wait()
		release := make(chan struct{})
		look := func() { <-release }
		r.onLook.Store(&look)
		var submit sync.WaitGroup
		submit.Go(func() { r.must("slow") })
		synctest.Wait()
		require.Nil(t, r.onLook.Load())
		require.Equal(t, task.Running, r.status("running").State)
		require.Len(t, r.list("", 10), 1)
		r.must("other")
		_, err := r.s.Cancel(t.Context(), "running")
		require.NoError(t, err)
		close(release)
		submit.Wait()
		require.Contains(t, r.read("other"), "event: end")
		require.Contains(t, r.read("slow"), "event: end")
	})
}

// anyID is a task whose id the orchestrator made, so that nobody looks it up.
func anyID(t *task.Task) { t.Request.ID = "" }

func numbered(id string) task.Task {
	return task.Task{ID: id, PoolID: "default", Engine: "llamacpp", Request: task.Request{ID: id, MaxTokens: 1}}
}

// twice submits a task at the same time as somebody else does.
func (r *rig) twice(ctx context.Context, x task.Task) error {
	var other sync.WaitGroup
	other.Go(func() { _, _ = r.s.Enqueue(ctx, x) })
	defer other.Wait()
	synctest.Wait()
	_, err := r.s.Enqueue(ctx, x)
	return err
}

// LO-101: of many submits of one id at one time, one is queued, and all get its admission.
func TestSubmitsOfOneIDAtOneTime(t *testing.T) {
	run(t, 0, nil, func(t *testing.T, r *rig) {
		r.book.hangs.Store(true)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { require.Equal(t, "x", r.must("x", body(1)).TaskID) })
		}
		all.Go(func() {
			synctest.Wait()
			r.book.hangs.Store(false)
		})
		all.Wait()
		require.Equal(t, 1, r.s.Backlog("default"))
		_, err := r.submit("x", body(2))
		require.True(t, task.HasCode(err, task.Conflict))
	})
}

// LO-202: Start and Stop in any order, and a task's timers with them: what was taken up and never started stays as it was.
func TestStartsAndStopsInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newRig(t, 1, nil)
		first.must("runs", tokens(1000), deadline(time.Minute))
		synctest.Wait()
		first.must("waits", deadline(time.Minute))
		time.Sleep(50 * time.Millisecond)
		left := first.crash()
		require.Len(t, left, 2)

		b := &book{records: map[string]task.Record{}}
		for _, r := range left {
			b.records[r.Task.ID] = r
		}
		r := newUnstartedRig(t, b, 1, nil)
		r.s.Recover(left)
		s, err := r.s.Subscribe(t.Context(), "waits", "")
		require.NoError(t, err)
		defer s.Close()
		r.stop() // before the start
		_, err = s.Next(t.Context(), nil)
		require.NoError(t, err)
		s.Written()
		_, err = s.Next(t.Context(), nil)
		require.ErrorIs(t, err, stream.ErrDetached)
		require.NoError(t, r.s.Start(t.Context()))
		r.stop() // and again
		_, err = r.submit("late")
		require.True(t, task.HasCode(err, task.ShuttingDown))
		r.s.AddPool(Pool{ID: "late"})
		require.Nil(t, r.s.lane("late"))
		r.s.Recover(left)
		time.Sleep(time.Hour) // deadlines and patience would be over
		require.Empty(t, r.order)
		require.Equal(t, task.Queued, b.records["waits"].State)
		require.Equal(t, task.Running, b.records["runs"].State)

		r = newUnstartedRig(t, b, 1, nil)
		r.must("early")
		require.NoError(t, r.s.Start(t.Context()))
		require.NoError(t, r.s.Start(t.Context()))
		require.Contains(t, r.read("early"), "event: end")
		var stops sync.WaitGroup
		for range 3 {
			stops.Go(r.stop)
		}
		stops.Wait()
	})
}

// A second Stop waits for the first, and no longer than its context.
//
// LO-202
func TestASecondStopWaitsForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.must("long", tokens(500)) // 5 s
		synctest.Wait()
		var stops sync.WaitGroup
		stops.Go(r.stop)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, r.s.Stop(ctx), context.DeadlineExceeded)
		began := time.Now()
		r.stop()
		require.Equal(t, 4*time.Second, time.Since(began))
		stops.Wait()
		require.Contains(t, r.read("long"), "event: end")
		s, err := r.s.Subscribe(t.Context(), "long", "")
		require.NoError(t, err)
		defer s.Close()
		for err == nil {
			_, err = s.Next(t.Context(), nil)
			s.Written()
		}
		require.ErrorIs(t, err, io.EOF)
	})
}

// hasty is a ledger that lets something happen before it lists, and keeps times as SQLite's does, in milliseconds.
type hasty struct {
	*book
	before func()
}

func (h hasty) List(ctx context.Context, state task.State, limit int) ([]task.Record, error) {
	h.before()
	found, err := h.book.List(ctx, state, limit)
	for i := range found {
		found[i].Task.AcceptedAt = found[i].Task.AcceptedAt.Truncate(time.Millisecond)
	}
	return found, err
}

// LO-202: a task that ends while the list is made is in it once, and as one that has ended.
func TestATaskThatEndsWhileItIsListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &book{records: map[string]task.Record{}}
		r := newUnstartedRig(t, b, 1, nil)
		defer r.stop()
		r.s.o.Ledger = hasty{b, func() {
			_, err := r.s.Cancel(t.Context(), "second")
			require.NoError(t, err)
		}}
		require.NoError(t, r.s.Start(t.Context()))
		r.must("first")
		time.Sleep(100 * time.Microsecond)
		r.must("second")
		listed := r.list("", 10)
		require.Len(t, listed, 2)
		states := map[string]task.State{listed[0].ID: listed[0].State, listed[1].ID: listed[1].State}
		require.Equal(t, map[string]task.State{"first": task.Running, "second": task.StateCanceled}, states)
	})
}
