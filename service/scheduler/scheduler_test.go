// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/engine"
	"github.com/llama-orch/llama-orch/service/ledger"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/placement"
	"github.com/llama-orch/llama-orch/service/queue"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a scheduler on a virtual clock with replicas that a test scripts. Each replica has one slot.
type rig struct {
	t        *testing.T
	s        *Scheduler
	registry *prometheus.Registry

	mu       sync.Mutex
	replicas []*replica
	order    []string // prompts in the order of dispatch
}

type replica struct {
	r        *rig
	id       string
	ready    bool
	busy     bool
	replaced string
	every    time.Duration // between tokens
	stuck    bool          // the slot stays busy once a run ended early
	fail     error         // what Generate returns after two tokens
}

func newRig(t *testing.T, replicas int, change func(*Pool)) *rig {
	r := &rig{t: t, registry: prometheus.NewRegistry()}
	for i := range replicas {
		r.replicas = append(r.replicas, &replica{r: r, id: fmt.Sprint("default-", i), ready: true, every: 10 * time.Millisecond})
	}
	pool := Pool{ID: "default", Engine: "llamacpp", Capacity: 4, Policy: queue.Reject, Wall: time.Minute, Idle: 5 * time.Second}
	if change != nil {
		change(&pool)
	}
	r.s = New(Options{
		Pools: []Pool{pool}, Replicas: r, Ledger: ledger.NewMemory(100), Narrator: observe.NewNarrator(zap.NewNop()),
		Metrics: NewMetrics(r.registry), Log: zap.NewNop(), Now: time.Now,
	})
	r.s.Start()
	return r
}

func (r *rig) stop() { r.s.Stop(context.Background()) }

func (r *rig) Snapshot(_ string, into []placement.Replica) []placement.Replica {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.replicas {
		active := 0
		if x.busy {
			active = 1
		}
		into = append(into, placement.Replica{ID: x.id, Ready: x.ready, Slots: 1, Active: active})
	}
	return into
}

func (r *rig) EngineVersion(string) string { return "b1" }

func (r *rig) Lease(id string) (Lease, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.replicas {
		if x.id == id && x.ready && !x.busy {
			x.busy = true
			return lease{x}, nil
		}
	}
	return nil, task.Errorf(task.ReplicaExhausted, "busy")
}

type lease struct{ *replica }

func (l lease) Engine() engine.Engine { return l.replica }
func (l lease) Replica() Replica      { return Replica{ID: l.id, EngineVersion: "b1", Fingerprint: "fp"} }
func (l lease) Lost() <-chan struct{} { return nil }
func (l lease) Replace(reason string) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.replaced = reason
}
func (l lease) Release() {
	l.r.mu.Lock()
	l.busy = false
	l.r.mu.Unlock()
	l.r.s.Wake("default")
}

// replica is its own engine: it answers a prompt with MaxTokens tokens.
func (x *replica) Generate(ctx context.Context, job engine.Job, emit func(string) error) (engine.Result, error) {
	x.r.mu.Lock()
	x.r.order = append(x.r.order, job.Prompt)
	x.r.mu.Unlock()
	for i := range job.MaxTokens {
		select {
		case <-time.After(x.every):
		case <-ctx.Done():
			return engine.Result{}, fmt.Errorf("decode: %w", context.Cause(ctx))
		}
		if x.fail != nil && i == 2 {
			return engine.Result{}, x.fail
		}
		if err := emit(fmt.Sprint(job.Prompt, i, " ")); err != nil {
			return engine.Result{}, err
		}
	}
	return engine.Result{TokensIn: 3, TokensOut: job.MaxTokens, Finish: task.FinishLength}, nil
}
func (x *replica) Idle(context.Context) (bool, error)                            { return !x.stuck, nil }
func (x *replica) Health(context.Context) error                                  { return nil }
func (x *replica) Props(context.Context) (engine.Props, error)                   { return engine.Props{}, nil }
func (x *replica) CountTokens(context.Context, string) (int, error)              { return 3, nil }
func (x *replica) ApplyTemplate(context.Context, []task.Message) (string, error) { return "", nil }
func (x *replica) Answer(context.Context, engine.Job) (json.RawMessage, engine.Result, error) {
	return json.RawMessage(`[[1]]`), engine.Result{Finish: task.FinishResult}, nil
}

// submit enqueues a task whose prompt and id are name.
func (r *rig) submit(name string, change ...func(*task.Task)) (task.Admission, error) {
	t := task.Task{
		ID: name, Prompt: name, PoolID: "default", Engine: "llamacpp", EngineVersion: "b1", Determinism: task.Strict, AcceptedAt: time.Now(),
		Request: task.Request{ID: name, ModelRef: "haiku", Workload: task.Completion, Priority: task.Interactive, MaxTokens: 10},
	}
	for _, c := range change {
		c(&t)
	}
	return r.s.Enqueue(r.t.Context(), t)
}

func (r *rig) must(name string, change ...func(*task.Task)) task.Admission {
	a, err := r.submit(name, change...)
	require.NoError(r.t, err)
	return a
}

func batch(t *task.Task)                        { t.Request.Priority = task.Batch }
func tokens(n int) func(*task.Task)             { return func(t *task.Task) { t.Request.MaxTokens = n } }
func deadline(d time.Duration) func(*task.Task) { return func(t *task.Task) { t.Request.Deadline = d } }
func body(b byte) func(*task.Task)              { return func(t *task.Task) { t.Request.BodySHA256[0] = b } }

// read takes a task's stream to its end.
func (r *rig) read(id string) string {
	s, err := r.s.Subscribe(id, "")
	require.NoError(r.t, err)
	defer s.Close()
	var got strings.Builder
	for {
		b, err := s.Next(r.t.Context(), nil)
		if errors.Is(err, io.EOF) {
			return got.String()
		}
		require.NoError(r.t, err)
		got.Write(b)
		s.Written()
	}
}

func (r *rig) status(id string) task.Status {
	s, err := r.s.Get(id)
	require.NoError(r.t, err)
	return s
}

func run(t *testing.T, replicas int, change func(*Pool), test func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, replicas, change)
		defer r.stop()
		test(t, r)
	})
}

// ORCH-2001, ORCH-2002, LO-204
func TestTaskRunsToItsEnd(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		a := r.must("a")
		require.Equal(t, task.Admission{TaskID: "a", PoolID: "default", Determinism: task.Strict}, a)
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
		require.Equal(t, 150*time.Millisecond, r.must("d").PredictedStart)
		r.read("c")
		require.Equal(t, 100*time.Millisecond, r.status("c").StartedAt.Sub(r.status("c").AcceptedAt))
		r.read("d")
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
		require.Positive(t, e.RetryAfter)
		_, err = r.s.Get("refused")
		require.True(t, task.HasCode(err, task.NotFound))
		r.read("queued")
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

// OC-CORE-1022
func TestWatchdogs(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Wall, p.Idle = time.Second, 100*time.Millisecond }, func(t *testing.T, r *rig) {
		r.must("endless", tokens(1000))
		require.Contains(t, r.read("endless"), `"code":"DECODE_TIMEOUT"`)
		require.Equal(t, time.Second, r.status("endless").FinishedAt.Sub(r.status("endless").StartedAt))
		r.replicas[0].every = time.Minute
		r.must("hung")
		require.Contains(t, r.read("hung"), "sent no token for 100ms")
		require.Equal(t, task.Failed, r.status("hung").State)
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
		again, found, err := r.s.Known("x", [32]byte{1})
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, a, again)
		require.Equal(t, []string{"running", "x"}, r.order)
	})
}

// ORCH-3010
func TestTasksWaitForAReadyReplica(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.replicas[0].ready = false
		r.must("a")
		synctest.Wait()
		require.Empty(t, r.order)
		r.mu.Lock()
		r.replicas[0].ready = true
		r.mu.Unlock()
		r.s.Wake("default")
		require.Contains(t, r.read("a"), "event: end")
	})
}

func TestBrokenEngineEndsTheTaskTyped(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.replicas[0].fail = task.Errorf(task.WorkerReset, "the worker died").Retry(0)
		r.must("a")
		got := r.read("a")
		require.Equal(t, 2, strings.Count(got, "event: token\n"))
		require.Contains(t, got, `"code":"WORKER_RESET"`)
		require.Contains(t, got, `"pool_id":"default"`)
	})
}

func TestStopEndsEveryTaskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.must("short")
		r.must("queued")
		synctest.Wait()
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		r.s.Stop(ctx)
		require.Contains(t, r.read("short"), "event: end", "what runs may finish")
		require.Contains(t, r.read("queued"), `"code":"SHUTTING_DOWN"`)
		_, err := r.submit("late")
		require.True(t, task.HasCode(err, task.ShuttingDown))
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.must("long", tokens(1000))
		synctest.Wait()
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		r.s.Stop(ctx)
		require.Contains(t, r.read("long"), `"code":"SHUTTING_DOWN"`)
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
		require.Equal(t, []string{"queued", "running", "done2", "done1", "done0"}, ids(r.s.List("", 10)))
		require.Equal(t, []string{"queued", "running"}, ids(r.s.List("", 2)))
		require.Equal(t, []string{"queued"}, ids(r.s.List(task.Queued, 10)))
		r.read("queued")
	})
}

// ORCH-2002: the moving figures tell where a task is.
func TestFigures(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("running")
		r.must("queued")
		time.Sleep(5 * time.Millisecond)
		s, err := r.s.Subscribe("queued", "")
		require.NoError(t, err)
		defer s.Close()
		m, ok := s.Metrics()
		require.True(t, ok)
		require.Equal(t, task.PhaseQueued, m.Phase)
		require.Equal(t, 1, m.QueueDepth)
		require.Equal(t, 1.0, m.OnTimeProbability)
		q, err := r.s.Subscribe("running", "")
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
