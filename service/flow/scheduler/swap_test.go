// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// den is a rig with a card of 10 bytes and on-demand pools of 8 bytes and one replica each, of which it holds one.
type den struct {
	*rig
	models *residency.Manager
	state  map[string]residency.State
	took   map[string]time.Duration
	fails  map[string]*task.Error
	loads  []string
}

const loadTime = 3 * time.Second

func newDen(t *testing.T, pools ...string) *den {
	d := &den{
		rig:   &rig{t: t, registry: prometheus.NewRegistry(), book: &book{records: map[string]task.Record{}}},
		state: map[string]residency.State{}, took: map[string]time.Duration{}, fails: map[string]*task.Error{},
	}
	d.models = residency.New(residency.Options{
		Models: d, Metrics: residency.NewMetrics(d.registry), Log: zap.NewNop(), Now: time.Now,
		Rules: residency.Rules{MaxWait: 30 * time.Second, MaxWaitBatch: 2 * time.Minute, MinTurn: 5 * time.Second},
	})
	o := Options{
		Replicas: d, Residency: d.models, Ledger: d.book, Narrator: observe.NewNarrator(zap.NewNop()), Metrics: NewMetrics(d.registry),
		Log: zap.NewNop(), Now: time.Now, StuckAfter: time.Hour,
	}
	for _, id := range pools {
		d.replicas = append(d.replicas, &replica{r: d.rig, id: id + "-0", pool: id, every: 10 * time.Millisecond})
		o.Pools = append(o.Pools, Pool{
			ID: id, Engine: "llamacpp", Capacity: 100, Policy: queue.Reject, Wall: time.Minute, Idle: 5 * time.Second,
			OnDemand: true,
		})
	}
	d.s = New(o)
	d.models.Serve(d.s)
	require.NoError(t, d.s.Start(t.Context()))
	require.NoError(t, d.models.Start(t.Context()))
	return d
}

func (d *den) stop() {
	require.NoError(d.t, d.models.Stop(context.Background()))
	d.rig.stop()
}

// counted is a series of the residency.
func (d *den) counted(name string, labels ...string) (value float64) {
	families, err := d.registry.Gather()
	require.NoError(d.t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetValue())
			}
			if f.GetName() == name && slices.Equal(has, labels) {
				value = m.GetCounter().GetValue()
			}
		}
	}
	return value
}

func (d *den) Memory() ([]vram.Room, []residency.Tenant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	free := int64(10)
	var tenants []residency.Tenant
	for _, x := range d.replicas {
		t := residency.Tenant{ID: x.pool, State: d.state[x.pool], IdleTTL: time.Minute, Wants: []residency.Want{{Bytes: 8}}}
		if t.State != residency.Absent {
			free -= 8
			t.Holds = []vram.Share{{Card: 0, Bytes: 8}}
		}
		tenants = append(tenants, t)
	}
	return []vram.Room{{Card: 0, Free: free}}, tenants
}

func (d *den) turn(pool string, to residency.State) {
	d.set(func() {
		d.state[pool] = to
		for _, x := range d.replicas {
			if x.pool == pool {
				x.ready = to == residency.Loaded
			}
		}
	})
	d.s.Wake(pool)
}

func (d *den) Load(pool string) {
	d.set(func() { d.loads = append(d.loads, pool) })
	d.turn(pool, residency.Loading)
	time.AfterFunc(loadTime, func() {
		d.set(func() { d.took[pool] = loadTime })
		d.turn(pool, residency.Loaded)
	})
}

// Unload refuses, as the pools do, where a task got in before the pool was held.
func (d *den) Unload(pool string) (err error) {
	d.set(func() {
		for _, x := range d.replicas {
			if x.pool != pool {
				continue
			}
			if x.busy > 0 {
				err = task.Errorf(task.PoolUnready, "pool %s generates", pool)
				return
			}
			x.ready = false
		}
	})
	if err != nil {
		return err
	}
	d.turn(pool, residency.Leaving)
	time.AfterFunc(time.Second, func() { d.turn(pool, residency.Absent) })
	return nil
}

func (d *den) Fetching(string) (float64, bool) { return 0, false }

func (d *den) LoadTime(pool string) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.took[pool]
}

func (d *den) Failed(pool string) *task.Error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fails[pool]
}

func (d *den) residency(pool string) residency.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state[pool]
}

func in(pool string) func(*task.Task) { return func(t *task.Task) { t.PoolID = pool } }

func denned(t *testing.T, pools []string, test func(t *testing.T, d *den)) {
	synctest.Test(t, func(t *testing.T) {
		d := newDen(t, pools...)
		defer d.stop()
		test(t, d)
		time.Sleep(10 * time.Second) // what is on its way in or out arrives
	})
}

// LO-503: a task loads its pool, its stream says so, and the next one's prediction holds the load.
func TestATaskLoadsItsPool(t *testing.T) {
	denned(t, []string{"a", "b"}, func(t *testing.T, d *den) {
		require.Zero(t, d.must("first", in("a")).PredictedStart, "nothing was measured yet")
		time.Sleep(time.Second)
		s, err := d.s.Subscribe(t.Context(), "first", "")
		require.NoError(t, err)
		m, going := s.Metrics()
		require.True(t, going)
		require.Equal(t, task.PhaseLoading, m.Phase)
		s.Close()
		require.Contains(t, d.read("first"), "event: end")
		first := d.status("first")
		require.Equal(t, loadTime, first.StartedAt.Sub(first.AcceptedAt))

		time.Sleep(59 * time.Second) // to the next look after that
		require.Equal(t, residency.Loaded, d.residency("a"))
		time.Sleep(4 * time.Second)
		require.Equal(t, residency.Absent, d.residency("a"), "idle_ttl passed")

		require.Equal(t, loadTime, d.must("again", in("a")).PredictedStart)
		time.Sleep(loadTime / 2)
		s, err = d.s.Subscribe(t.Context(), "again", "")
		require.NoError(t, err)
		m, _ = s.Metrics()
		require.InDelta(t, 0.5, m.LoadProgress, 0.001)
		s.Close()
		require.Contains(t, d.read("again"), "event: end")
		again := d.status("again")
		require.Equal(t, again.PredictedStart, again.StartedAt.Sub(again.AcceptedAt))
		require.Equal(t, 2.0, d.counted("llorch_swaps_total", "in", "a"))
		require.InDelta(t, 6000, d.counted("llorch_swap_lost_ms_total", "a"), 1)
	})
}

// LO-503: tasks for one model run together, and an idle model makes room at once.
func TestTasksOfOneModelRunTogether(t *testing.T) {
	denned(t, []string{"a", "b"}, func(t *testing.T, d *den) {
		for i := range 20 {
			d.must(string(rune('A'+i)), in(map[bool]string{true: "a", false: "b"}[i%2 == 0]), batch)
		}
		for i := range 20 {
			require.Contains(t, d.read(string(rune('A'+i))), "event: end")
		}
		require.Len(t, d.loads, 2, "one swap for twenty tasks that come in turn")
		order := strings.Join(d.order, "")
		require.Contains(t, []string{"ACEGIKMOQSBDFHJLNPRT", "BDFHJLNPRTACEGIKMOQS"}, order)
	})
}

// LO-503: no task waits longer than the bound because another model is in memory, and what generates is not unloaded.
func TestAWaitingModelGetsItsTurn(t *testing.T) {
	denned(t, []string{"a", "b"}, func(t *testing.T, d *den) {
		for i := range 60 {
			d.must("a"+string(rune('A'+i)), in("a"), tokens(100)) // 1 s each
		}
		time.Sleep(10 * time.Second)
		d.must("b", in("b"), tokens(100))
		require.Contains(t, d.read("b"), "event: end")
		b := d.status("b")
		waited := b.StartedAt.Sub(b.AcceptedAt)
		// the bound, the task that still ran, the way out, and the load; looked at once a second
		require.LessOrEqual(t, waited, 30*time.Second+time.Second+time.Second+loadTime+time.Second)
		require.GreaterOrEqual(t, waited, 30*time.Second)
		for i := range 60 {
			require.Contains(t, d.read("a"+string(rune('A'+i))), "event: end")
		}
		require.Equal(t, []string{"a", "b", "a"}, d.loads)
	})
}

// LO-503: the messages of a task for a model that was not loaded are templated once it is.
func TestMessagesAreTemplatedOnceTheModelIsThere(t *testing.T) {
	denned(t, []string{"a"}, func(t *testing.T, d *den) {
		d.must("chat", in("a"), func(t *task.Task) {
			t.Prompt, t.RequestDigest = "", ""
			t.Request.Messages = []task.Message{{Role: "user", Content: "hi"}}
		})
		require.Contains(t, d.read("chat"), "templated hi0 ")
		want := task.Task{Prompt: "templated hi", Request: task.Request{Workload: task.Completion, MaxTokens: 10}}
		require.Equal(t, want.Digest(), d.status("chat").End.Receipt.RequestDigest)
	})
}

// LO-503, ORCH-3040: tasks wait while a pool's model is tried, and end with the reason once it is given up; those of other pools
// do not notice.
func TestTasksOfAPoolThatIsGivenUpEnd(t *testing.T) {
	denned(t, []string{"a", "b"}, func(t *testing.T, d *den) {
		d.set(func() { d.state["a"] = residency.Loading }) // as one that backs off is shown
		for _, id := range []string{"first", "second"} {
			d.must(id, in("a"), batch)
		}
		d.must("other", in("b"))
		time.Sleep(time.Hour)
		require.Equal(t, task.Queued, d.status("first").State)
		d.set(func() {
			d.fails["a"] = task.Errorf(task.PoolUnavailable, "the model is larger than any card: use a smaller one").Retry(time.Minute)
		})
		d.s.Wake("a")
		for _, id := range []string{"first", "second"} {
			require.Contains(t, d.read(id), "event: error")
			s := d.status(id)
			require.Equal(t, task.Failed, s.State)
			require.Equal(t, task.PoolUnavailable, s.Err.Code)
			require.Equal(t, "a", s.Err.PoolID)
			require.Contains(t, s.Err.Message, "use a smaller one")
			require.Equal(t, time.Minute, s.Err.RetryAfter)
		}
		require.Zero(t, d.s.Backlog("a"))
		require.Equal(t, task.Queued, d.status("other").State)
		d.set(func() { d.state["a"] = residency.Absent; d.fails["a"] = nil })
		require.Contains(t, d.read("other"), "event: end")
	})
}

// LO-444, LO-503: an interactive task of another on-demand pool does not wait for the end of the lines that run, and they are done once their model is
// back, with the same bytes. A task of low priority waits for them.
func TestLinesMakeWayForAnotherModel(t *testing.T) {
	for name, c := range map[string]struct {
		change        []func(*task.Task)
		least, most   time.Duration // that the other pool's task waits
		interruptions float64
	}{
		"interactive": {nil, loadTime, loadTime + 3*time.Second, 1},
		"batch":       {[]func(*task.Task){batch}, 90 * time.Second, 2 * time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			denned(t, []string{"a", "b"}, func(t *testing.T, d *den) {
				for _, id := range []string{"l", "m"} {
					d.must(id, in("a"), ofBatch, tokens(5500)) // 55 s each
				}
				time.Sleep(10 * time.Second)
				d.must("i", append(c.change, in("b"))...)
				require.Contains(t, d.read("i"), "event: end")
				i := d.status("i")
				waited := i.StartedAt.Sub(i.AcceptedAt)
				require.GreaterOrEqual(t, waited, c.least)
				require.LessOrEqual(t, waited, c.most)
				time.Sleep(time.Hour)
				for _, id := range []string{"l", "m"} {
					require.Equal(t, written(id, 5500), d.answer(id).Transcript.Text)
				}
				require.InDelta(t, c.interruptions, testutil.ToFloat64(d.s.o.Metrics.yields.WithLabelValues("a")), 0)
			})
		})
	}
}

// LO-444: a line that made way waits for its model as long as that takes, also while it loads, and ends with its pool where that cannot be loaded.
func TestALineWaitsForItsModel(t *testing.T) {
	for _, fails := range []bool{false, true} {
		denned(t, []string{"a"}, func(t *testing.T, d *den) {
			d.must("l", in("a"), ofBatch, tokens(1000))
			time.Sleep(10 * time.Second)
			d.s.Hold("a", true)
			d.s.MakeWay("a")
			time.Sleep(time.Second)
			d.turn("a", residency.Loading) // as one that backs off is shown
			d.s.Hold("a", false)
			time.Sleep(10 * time.Minute)
			require.Equal(t, task.Running, d.status("l").State)
			if fails {
				d.set(func() { d.fails["a"] = task.Errorf(task.PoolUnavailable, "no card") })
				d.s.Wake("a")
				time.Sleep(time.Second)
				require.Equal(t, task.Failed, d.status("l").State)
				return
			}
			d.turn("a", residency.Loaded)
			time.Sleep(time.Minute)
			require.Equal(t, written("l", 1000), d.answer("l").Transcript.Text)
		})
	}
}
