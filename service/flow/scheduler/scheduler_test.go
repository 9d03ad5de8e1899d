// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ORCH-2001, ORCH-2002, LO-204
func TestTaskRunsToItsEnd(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		a := r.must("a")
		require.Equal(t, task.Admission{TaskID: "a", PoolID: "default", Determinism: task.Strict, AcceptedAt: time.Now().UTC()}, a)
		got := r.read("a")
		require.Equal(t, 10, strings.Count(got, "event: token\n"))
		require.Contains(t, got, "event: end\n")
		s := r.status("a")
		require.Equal(t, task.Completed, s.State)
		require.Equal(t, "default-0", s.ReplicaID)
		require.Equal(t, 3, s.TokensIn)
		require.Equal(t, 10, s.TokensOut)
		require.Equal(t, "fp", s.End.Receipt.Fingerprint)
		require.Len(t, s.End.Receipt.TranscriptSHA256, 64)
		require.Equal(t, got, r.read("a"), "a finished task replays the same bytes")
		require.Equal(t, 10.0, testutil.ToFloat64(r.s.o.Metrics.tokensOut))
	})
}

// OC-CORE-1003, OC-CORE-1004
func TestInteractiveBeforeBatchAndFIFOWithin(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("first")
		synctest.Wait()
		require.Equal(t, 0, r.must("b1", batch).QueuePosition)
		require.Equal(t, 1, r.must("b2", batch).QueuePosition)
		require.Equal(t, 0, r.must("i1").QueuePosition)
		require.Equal(t, 1, r.must("i2").QueuePosition)
		require.Equal(t, 3, r.status("b2").QueuePosition)
		for _, id := range []string{"first", "b1", "b2", "i1", "i2"} {
			r.read(id)
		}
		require.Equal(t, []string{"first", "i1", "i2", "b1", "b2"}, r.order)
	})
}

// ORCH-2001: with a measured service time, a prediction is what then happens.
func TestPredictionsFromMeasuredTimes(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.must("warm")
		r.read("warm") // 10 tokens at 10 ms
		r.must("a")
		r.must("b")
		synctest.Wait()
		require.Equal(t, 100*time.Millisecond, r.must("c").PredictedStart)
		require.Equal(t, 100*time.Millisecond, r.must("d").PredictedStart)
		require.Equal(t, 200*time.Millisecond, r.must("e").PredictedStart)
		for _, id := range []string{"c", "d", "e"} {
			r.read(id)
			got := r.status(id)
			require.Equal(t, got.PredictedStart, got.StartedAt.Sub(got.AcceptedAt), id)
		}
		require.Zero(t, testutil.ToFloat64(r.s.o.Metrics.cutOffs))
	})
}

// ORCH-2001: a slow and a fast replica in one pool: each counts at its own pace.
func TestPredictionsOnUnequalReplicas(t *testing.T) {
	run(t, 2, func(p *Pool) { p.Capacity = 50 }, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[1].every = 33 * time.Millisecond }) // never free at the same time as the other
		for _, id := range []string{"warm0", "warm1"} {
			r.must(id)
		}
		r.read("warm1")
		for i := range 14 {
			r.must(fmt.Sprint("t", i))
			synctest.Wait() // the first two are dispatched before the next is predicted
		}
		for i := range 14 {
			r.read(fmt.Sprint("t", i))
			s := r.status(fmt.Sprint("t", i))
			if i > 1 { // the first two found a free slot
				require.InDelta(t, s.PredictedStart.Seconds(), s.StartedAt.Sub(s.AcceptedAt).Seconds(), 0.005, i)
			}
		}
	})
}

// ORCH-3005, ORCH-2007
func TestFullQueueRejects(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Capacity = 1 }, func(t *testing.T, r *rig) {
		r.must("running")
		synctest.Wait()
		r.must("queued")
		_, err := r.submit("refused")
		e := task.AsError(err)
		require.Equal(t, task.AdmissionReject, e.Code)
		require.Equal(t, "reject", e.PolicyLabel)
		require.True(t, e.Retriable)
		require.Zero(t, e.RetryAfter, "nothing was measured yet")
		_, err = r.s.Get(t.Context(), "refused")
		require.True(t, task.HasCode(err, task.NotFound))
		r.read("running")
		synctest.Wait()
		r.must("next")
		_, err = r.submit("refused")
		require.True(t, task.HasCode(err, task.AdmissionReject))
		require.Equal(t, 100*time.Millisecond, task.AsError(err).RetryAfter, "a task lasts 100 ms here")
		r.read("next")
	})
}

// ORCH-3005, OC-CORE-1002
func TestFullQueueDropsTheOldestBatchTask(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Capacity, p.Policy = 2, queue.DropLRU }, func(t *testing.T, r *rig) {
		r.must("running")
		synctest.Wait()
		r.must("old", batch)
		r.must("young", batch)
		r.must("new")
		require.Contains(t, r.read("old"), `"code":"QUEUE_FULL_DROP_LRU"`)
		require.Contains(t, r.read("young"), "event: end")
		require.Equal(t, []string{"running", "new", "young"}, r.order)
	})
}

// LO-201, ORCH-3026: a task whose client asked for that ends when the last reader stays away, and not before.
func TestATaskMayEndWithItsClient(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		with := func(d task.OnDisconnect) func(*task.Task) {
			return func(t *task.Task) { t.Request.MaxTokens, t.Request.OnDisconnect = 1000, d } // 10 s
		}
		r.must("ends", with(task.CancelIt))
		r.must("unread", with(task.CancelIt), tokens(10))
		r.must("stays", with(task.Continue))
		one, err := r.s.Subscribe(t.Context(), "ends", "")
		require.NoError(t, err)
		two, err := r.s.Subscribe(t.Context(), "ends", "")
		require.NoError(t, err)
		one.Close()
		time.Sleep(6 * time.Second) // another still reads
		require.Equal(t, task.Running, r.status("ends").State)
		two.Close()
		time.Sleep(4 * time.Second)
		again, err := r.s.Subscribe(t.Context(), "ends", "") // in time
		require.NoError(t, err)
		time.Sleep(6 * time.Second)
		again.Close() // it has ended by then
		require.Equal(t, task.Completed, r.status("ends").State)

		require.Contains(t, r.read("unread"), "event: end", "nobody had read it, so nobody went away")

		left, err := r.s.Subscribe(t.Context(), "stays", "")
		require.NoError(t, err)
		left.Close()
		time.Sleep(11 * time.Second)
		require.Equal(t, task.Completed, r.status("stays").State)

		r.must("left", with(task.CancelIt))
		left, err = r.s.Subscribe(t.Context(), "left", "")
		require.NoError(t, err)
		left.Close()
		time.Sleep(6 * time.Second)
		s := r.status("left")
		require.Equal(t, task.StateCanceled, s.State)
		require.Contains(t, s.Err.Message, "on_disconnect")
		require.InDelta(t, 500, s.TokensOut, 1, "5 s of 10 ms tokens")
	})
}

// ORCH-3026, OC-CORE-1005
func TestCancelQueuedTaskIsNeverDispatched(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("running")
		synctest.Wait()
		r.must("queued")
		c, err := r.s.Cancel(t.Context(), "queued")
		require.NoError(t, err)
		require.Equal(t, task.StateCanceled, c.Outcome)
		require.True(t, strings.HasPrefix(c.LastEventID, "0-"))
		again, err := r.s.Cancel(t.Context(), "queued")
		require.NoError(t, err)
		require.Equal(t, c, again)
		require.Contains(t, r.read("queued"), `"code":"CANCELED"`)
		r.read("running")
		require.Equal(t, []string{"running"}, r.order)
	})
}

// ORCH-3026
func TestCancelRunningTaskSealsItsLog(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("long", tokens(1000))
		time.Sleep(45 * time.Millisecond) // on the virtual clock: four tokens
		c, err := r.s.Cancel(t.Context(), "long")
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(c.LastEventID, "4-"), c.LastEventID)
		got := r.read("long")
		require.Equal(t, 4, strings.Count(got, "event: token\n"))
		require.Contains(t, got, "id: "+c.LastEventID+"\nevent: token")
		r.must("next")
		require.Contains(t, r.read("next"), "event: end")
		require.Empty(t, r.replicas[0].replaced)
		require.Equal(t, 1.0, testutil.ToFloat64(r.s.o.Metrics.canceledTotal))
	})
}

// ORCH-3026: a cancel and the end at the same moment make one outcome, and both callers hear of it.
func TestCancelAtTheEndIsOneOutcome(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		for i := range 50 {
			id := fmt.Sprint("t", i)
			r.must(id, tokens(1))
			time.Sleep(10 * time.Millisecond)
			c, err := r.s.Cancel(t.Context(), id)
			require.NoError(t, err)
			got := r.read(id)
			require.Equal(t, 1, strings.Count(got, "event: end\n")+strings.Count(got, "event: error\n"))
			require.Equal(t, c.Outcome == task.Completed, strings.Contains(got, "event: end\n"))
			require.Equal(t, c.Outcome, r.status(id).State)
		}
	})
}

// ORCH-3026
func TestStuckSlotGetsItsWorkerReplaced(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.replicas[0].stuck = true
		r.must("long", tokens(1000))
		time.Sleep(25 * time.Millisecond)
		_, err := r.s.Cancel(t.Context(), "long")
		require.NoError(t, err)
		time.Sleep(1900 * time.Millisecond)
		r.mu.Lock()
		require.Empty(t, r.replicas[0].replaced)
		r.mu.Unlock()
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		require.NotEmpty(t, r.replicas[0].replaced)
	})
}

// LO-844: a task whose engine was left at a stop string ends at once. Its slot is given to the next one when the engine has noticed.
func TestASlotWhoseEngineWasLeftIsAwaited(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].left, r.replicas[0].stuck = true, true })
		r.must("left")
		require.Contains(t, r.read("left"), "event: end\n")
		r.must("next")
		time.Sleep(time.Second)
		require.Equal(t, task.Queued, r.status("next").State)
		r.set(func() { r.replicas[0].left, r.replicas[0].stuck = false, false })
		require.Contains(t, r.read("next"), "event: end\n")
		r.set(func() { require.Empty(t, r.replicas[0].replaced) })
	})
}

// OC-CORE-1022
func TestWatchdogs(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Wall, p.Idle = time.Second, 100*time.Millisecond }, func(t *testing.T, r *rig) {
		r.must("endless", tokens(1000))
		require.Contains(t, r.read("endless"), `"code":"DECODE_TIMEOUT"`)
		require.Equal(t, time.Second, r.status("endless").FinishedAt.Sub(r.status("endless").StartedAt))
		r.replicas[0].every = time.Minute
		r.must("hung")
		require.Contains(t, r.read("hung"), "sent no first token, and told of no progress with the prompt, for 100ms")
		require.Equal(t, task.Failed, r.status("hung").State)
	})
}

// LO-836: the wait for the first token has a bound of its own, which progress with the prompt puts off
func TestAPromptHasABoundOfItsOwn(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Wall, p.Prefill, p.Idle = time.Hour, time.Minute, time.Second }, func(t *testing.T, r *rig) {
		long := func(t *task.Task) { t.PromptTokens = 10000 }
		x := r.replicas[0]
		x.every, x.prefill = time.Minute-1, 20
		r.must("progress", long, tokens(1))
		require.Contains(t, r.read("progress"), "event: end")
		x.every, x.prefill = time.Minute+1, 0
		r.must("no progress", long)
		require.Contains(t, r.read("no progress"), "told of no progress with the prompt, for 1m0s")
		x.every = 59 * time.Second
		r.must("no second token", long)
		require.Contains(t, r.read("no second token"), "sent no token for 1s")
		require.Equal(t, time.Minute, r.status("no second token").FinishedAt.Sub(r.status("no second token").StartedAt))
		x.every, x.prefill = time.Second, 100
		r.must("short", tokens(1), func(t *task.Task) { t.PromptTokens = longPrompt - 1 })
		require.Contains(t, r.read("short"), "told of no progress", "of a short prompt nobody asks how far it is")
	})
}

// LO-839: what this process itself lacks is no fault of the replica's, however often it happens, and the task waits
func TestAShortageIsNotTheReplicas(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		for name, determinism := range map[string]task.Determinism{"strict": task.Strict, "best effort": task.BestEffort} {
			x := r.replicas[0]
			r.set(func() { x.short = 5 * attempts })
			r.must(name, func(t *task.Task) { t.Determinism = determinism })
			require.Contains(t, r.read(name), "event: end")
			require.Empty(t, x.replaced)
			require.GreaterOrEqual(t, r.status(name).FinishedAt.Sub(r.status(name).StartedAt), 5*attempts*r.s.o.RecordEvery, "it does not try all the time")
		}
		r.set(func() { r.replicas[0].short = 1 << 30 })
		r.must("canceled")
		time.Sleep(time.Minute)
		_, err := r.s.Cancel(t.Context(), "canceled")
		require.NoError(t, err)
		synctest.Wait()
		time.Sleep(time.Minute)
		require.Empty(t, r.replicas[0].replaced)
	})
}

func TestDeadlineEndsQueuedAndRunningTasks(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("running", tokens(1000), deadline(time.Second))
		r.must("queued", deadline(500*time.Millisecond))
		require.Contains(t, r.read("queued"), `"code":"DEADLINE_UNMET"`)
		require.Contains(t, r.read("running"), `"code":"DEADLINE_UNMET"`)
		require.Equal(t, time.Second, r.status("running").FinishedAt.Sub(r.status("running").AcceptedAt))
		require.Equal(t, []string{"running"}, r.order)
	})
}

// LO-101
func TestRepeatedSubmitGivesTheSameAdmission(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("running")
		synctest.Wait()
		a := r.must("x", body(1))
		require.Equal(t, a, r.must("x", body(1)))
		_, err := r.submit("x", body(2))
		require.True(t, task.HasCode(err, task.Conflict))
		r.read("x")
		again, found, err := r.s.Known(t.Context(), "x", [32]byte{1})
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, a, again)
		require.Equal(t, []string{"running", "x"}, r.order)
	})
}

// ORCH-3010
func TestTasksWaitForAReadyReplica(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].ready = false })
		r.must("a")
		synctest.Wait()
		require.Empty(t, r.order)
		r.set(func() { r.replicas[0].ready = true })
		r.s.Wake("default")
		require.Contains(t, r.read("a"), "event: end")
	})
}

// LO-601
func TestQueueThatStandsStillRaisesAnAlarm(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Wall, p.Idle = time.Hour, time.Hour }, func(t *testing.T, r *rig) {
		r.replicas[0].every = 10 * time.Minute
		r.must("hung", tokens(1))
		r.must("waiting")
		time.Sleep(time.Minute)
		require.False(t, r.s.Stuck("default"))
		time.Sleep(2 * time.Minute)
		require.True(t, r.s.Stuck("default"))
		time.Sleep(10 * time.Minute)
		require.False(t, r.s.Stuck("default"))
	})
}

func TestListNewestFirst(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		for i := range 3 {
			r.must(fmt.Sprint("done", i))
			r.read(fmt.Sprint("done", i))
		}
		r.must("running")
		time.Sleep(time.Millisecond)
		r.must("queued")
		ids := func(list []task.Status) (ids []string) {
			for _, s := range list {
				ids = append(ids, s.ID)
			}
			return ids
		}
		require.Equal(t, []string{"queued", "running", "done2", "done1", "done0"}, ids(r.list("", 10)))
		require.Equal(t, []string{"queued", "running"}, ids(r.list("", 2)))
		require.Equal(t, []string{"queued"}, ids(r.list(task.Queued, 10)))
		r.read("queued")
	})
}

// ORCH-2002: the moving figures tell where a task is.
func TestFigures(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("running")
		r.must("queued")
		time.Sleep(5 * time.Millisecond)
		s, err := r.s.Subscribe(t.Context(), "queued", "")
		require.NoError(t, err)
		defer s.Close()
		m, ok := s.Metrics()
		require.True(t, ok)
		require.Equal(t, task.PhaseQueued, m.Phase)
		require.Equal(t, 1, m.QueueDepth)
		require.Equal(t, 1.0, m.OnTimeProbability)
		q, err := r.s.Subscribe(t.Context(), "running", "")
		require.NoError(t, err)
		defer q.Close()
		m, _ = q.Metrics()
		require.Equal(t, task.PhasePrefill, m.Phase)
		time.Sleep(10 * time.Millisecond)
		m, _ = q.Metrics()
		require.Equal(t, task.PhaseDecode, m.Phase)
		r.read("queued")
		_, ok = s.Metrics()
		require.False(t, ok)
	})
}

// LO-501: prompt and answer together decide which replicas can take a task.
func TestALongTaskWaitsForTheLargeReplica(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].ctx, r.replicas[1].ctx = 50, 100 })
		long := func(t *task.Task) { t.PromptTokens, t.Request.MaxTokens = 31, 20 }
		for _, id := range []string{"a", "b"} {
			r.must(id, long)
			require.Contains(t, r.read(id), "event: end")
			require.Equal(t, "default-1", r.status(id).End.Receipt.ReplicaID)
		}
		r.must("short", func(t *task.Task) { t.PromptTokens, t.Request.MaxTokens = 30, 20 })
		require.Contains(t, r.read("short"), "event: end")
		require.Equal(t, "default-0", r.status("short").End.Receipt.ReplicaID)
	})
}
