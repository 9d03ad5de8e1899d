// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/task"
)

// request is a Passage that a test scripts.
type request struct {
	before, after time.Duration // until the first sign of an answer, and from then to its end
	sends         time.Duration // how long its body takes, of which some goes every second
	fail          error
	panics        bool

	place  task.Admission
	ran    atomic.Bool
	inside atomic.Bool // it is under way
	at     string      // the replica that served it
}

func (p *request) Queued(a task.Admission) { p.place = a }

func (p *request) Pass(ctx context.Context, at Lease, signs Signs) error {
	p.ran.Store(true)
	p.inside.Store(true)
	defer p.inside.Store(false)
	p.at = at.Replica().ID
	sleep := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			time.Sleep(100 * time.Millisecond) // it takes a moment to let go
			return context.Cause(ctx)
		}
	}
	for range p.sends / time.Second {
		if err := sleep(time.Second); err != nil {
			return err
		}
		signs.Sent()
	}
	if err := sleep(p.before); err != nil {
		return err
	}
	if p.panics {
		panic("a request")
	}
	signs.Came()
	if err := sleep(p.after); err != nil {
		return err
	}
	return p.fail
}

// pass sends a request through the line, and returns how it ended.
func (r *rig) pass(ctx context.Context, id string, p *request, change ...func(*task.Task)) error {
	t := task.Task{
		ID: id, PoolID: "default", Engine: task.Command, ModelID: "speech", Determinism: task.BestEffort, AcceptedAt: time.Now(),
		Request: task.Request{ModelRef: "speech", Workload: task.Opaque, Path: "/v1/audio/speech", Priority: task.Interactive, KVHint: task.KVCold, OnDisconnect: task.Continue},
	}
	for _, f := range change {
		f(&t)
	}
	passing, err := r.s.Pass(t, p)
	if err != nil {
		return err
	}
	return passing.Wait(ctx)
}

// passAside is pass in a goroutine of its own.
func (r *rig) passAside(ctx context.Context, id string, p *request, change ...func(*task.Task)) <-chan error {
	done := make(chan error, 1)
	go func() { done <- r.pass(ctx, id, p, change...) }()
	synctest.Wait()
	return done
}

func batchPriority(t *task.Task) { t.Request.Priority = task.Batch }

// LO-467: a request waits in the pool's queue by its priority, with the tasks, and gets a slot. It is listed while it lives. The ledger never knows of it, and
// nobody does after its end.
func TestARequestPassesThroughTheLineUnrecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		defer r.stop()
		first, batch, second := &request{before: time.Second}, &request{before: time.Second}, &request{before: time.Second, after: time.Second}
		one := r.passAside(t.Context(), "one", first)
		two := r.passAside(t.Context(), "two", batch, batchPriority)
		three := r.passAside(t.Context(), "three", second)
		require.Equal(t, []int{0, 0, 0}, []int{first.place.QueuePosition, batch.place.QueuePosition, second.place.QueuePosition}, "the interactive one is ahead of the batch's")
		require.Equal(t, "one", first.place.TaskID)
		status := r.status("one")
		require.Equal(t, task.Running, status.State)
		require.Equal(t, task.Opaque, status.Workload)
		require.Equal(t, task.Queued, r.status("two").State)
		require.Equal(t, 1, r.status("two").QueuePosition)
		require.Len(t, r.list("", 10), 3)
		require.NoError(t, <-one)
		synctest.Wait()
		require.False(t, batch.ran.Load(), "the interactive one has the slot now")
		require.NoError(t, <-three)
		require.NoError(t, <-two)
		require.Equal(t, "default-0", second.at)
		require.Empty(t, r.book.live())
		require.Empty(t, r.book.records)
		require.Empty(t, r.list("", 10))
		_, err := r.s.Get(t.Context(), "one")
		require.True(t, task.HasCode(err, task.NotFound), "%v", err)
		count, err := testutil.GatherAndCount(r.registry, "llorch_tasks_finished_total")
		require.NoError(t, err)
		require.Equal(t, 1, count)
	})
}

// LO-467: a full queue refuses a request as it refuses a task, and one that gives way is told so.
func TestARequestFindsAFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, func(p *Pool) { p.Capacity, p.Policy = 1, queue.DropLRU })
		defer r.stop()
		one := r.passAside(t.Context(), "one", &request{before: time.Second})
		two := r.passAside(t.Context(), "two", &request{}, batchPriority)
		three := r.passAside(t.Context(), "three", &request{})
		require.True(t, task.HasCode(<-two, task.QueueFullDropLRU))
		err := r.pass(t.Context(), "four", &request{}, batchPriority)
		require.True(t, task.HasCode(err, task.AdmissionReject), "%v", err)
		require.True(t, task.AsError(err).Retriable)
		require.NoError(t, <-one)
		require.NoError(t, <-three)
	})
}

// LO-467: a cancel, a deletion and the client's going end a request at once, in the queue and in its slot. When they return, nothing of it is under way.
func TestARequestIsEnded(t *testing.T) {
	end := map[string]func(r *rig, gone context.CancelFunc) error{
		"canceled": func(r *rig, _ context.CancelFunc) error {
			result, err := r.s.Cancel(r.t.Context(), "one")
			require.Equal(r.t, task.StateCanceled, result.Outcome)
			return err
		},
		"deleted": func(r *rig, _ context.CancelFunc) error { return r.s.Delete(r.t.Context(), "one", "somebody") },
		"left":    func(_ *rig, gone context.CancelFunc) error { gone(); return nil },
	}
	for how, ends := range end {
		for _, waits := range []bool{true, false} {
			t.Run(how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, 1, nil)
					defer r.stop()
					r.set(func() { r.replicas[0].ready = !waits })
					ctx, gone := context.WithCancel(t.Context())
					p := &request{before: time.Second, after: time.Minute}
					done := r.passAside(ctx, "one", p)
					time.Sleep(2 * time.Second)
					require.Equal(t, !waits, p.inside.Load())
					require.NoError(t, ends(r, gone))
					require.True(t, how == "left" || !p.inside.Load(), "it is under way")
					require.True(t, task.HasCode(<-done, task.Canceled))
					require.False(t, p.inside.Load())
					gone()
					r.set(func() { r.replicas[0].ready = true })
					require.NoError(t, r.pass(t.Context(), "two", &request{}), "the slot is free")
					require.Empty(t, r.book.records)
				})
			})
		}
	}
}

// LO-467: the pool's watchdogs and the request's deadline hold. A body that is still being sent counts as progress.
func TestARequestIsWatched(t *testing.T) {
	for name, c := range map[string]struct {
		request *request
		change  func(*task.Task)
		code    task.Code
		says    string
	}{
		"no answer":       {&request{before: time.Minute}, nil, task.DecodeTimeout, "did not begin to answer for 5s"},
		"half an answer":  {&request{after: time.Minute}, nil, task.DecodeTimeout, "sent nothing more for 5s"},
		"a long body":     {&request{sends: 20 * time.Second}, nil, "", ""},
		"too long a body": {&request{sends: 2 * time.Minute}, nil, task.DecodeTimeout, "longer than the 1m0s"},
		"a deadline":      {&request{before: 4 * time.Second}, func(t *task.Task) { t.Request.Deadline = 2 * time.Second }, task.DeadlineUnmet, "2000 ms"},
		"a broken one":    {&request{fail: errors.New("connection reset")}, nil, task.WorkerReset, "send the request again"},
		"the client's":    {&request{fail: task.Errorf(task.TooLarge, "too large")}, nil, task.TooLarge, "too large"},
		"a panic":         {&request{panics: true}, nil, task.Internal, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 1, nil)
				defer r.stop()
				change := c.change
				if change == nil {
					change = func(*task.Task) {}
				}
				err := r.pass(t.Context(), "one", c.request, change)
				if c.code == "" {
					require.NoError(t, err)
				} else {
					require.True(t, task.HasCode(err, c.code), "%v", err)
					require.Contains(t, task.AsError(err).Message, c.says)
				}
				require.NoError(t, r.pass(t.Context(), "two", &request{}), "the slot is free")
			})
		})
	}
}

// LO-467: a request that finds out by itself that its client is gone is canceled too.
func TestARequestWhoseClientTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		defer r.stop()
		require.True(t, task.HasCode(r.pass(t.Context(), "one", &request{fail: task.Errorf(task.Canceled, "gone")}), task.Canceled))
		require.InDelta(t, 1, testutil.ToFloat64(r.s.o.Metrics.finishedTotal.WithLabelValues("default", "canceled")), 0)
	})
}

// LO-467: a request whose worker is lost is told so, and may be sent again. It is not run again.
func TestARequestLosesItsWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, func(p *Pool) { p.Prefill = time.Hour })
		defer r.stop()
		r.replicas[0].lost = make(chan struct{})
		p := &request{before: time.Minute}
		done := r.passAside(t.Context(), "one", p)
		r.set(func() { r.replicas[0].ready = false })
		close(r.replicas[0].lost)
		err := <-done
		require.True(t, task.HasCode(err, task.WorkerReset), "%v", err)
		require.True(t, task.AsError(err).Retriable)
	})
}

// LO-467: a stop lets what runs come to its end for a while, ends what waits, and leaves nothing for the next start.
func TestAStopEndsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, func(p *Pool) { p.Prefill = time.Hour })
		short := r.passAside(t.Context(), "short", &request{before: time.Second})
		waits := r.passAside(t.Context(), "waits", &request{})
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		require.NoError(t, r.s.Stop(ctx))
		require.NoError(t, <-short)
		require.True(t, task.HasCode(<-waits, task.ShuttingDown))
		require.True(t, task.HasCode(r.pass(t.Context(), "late", &request{}), task.ShuttingDown))

		r = newRig(t, 1, func(p *Pool) { p.Prefill = time.Hour })
		long := r.passAside(t.Context(), "long", &request{before: time.Minute})
		ctx, stop = context.WithTimeout(t.Context(), time.Second)
		defer stop()
		require.NoError(t, r.s.Stop(ctx))
		require.True(t, task.HasCode(<-long, task.ShuttingDown))
		require.Empty(t, r.book.records)
	})
}
