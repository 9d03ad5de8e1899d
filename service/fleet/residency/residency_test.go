// SPDX-License-Identifier: GPL-3.0-or-later

package residency

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// box is a card, the models on it, and the tasks that wait for them.
type box struct {
	mu      sync.Mutex
	free    int64
	pools   map[string]Tenant
	demand  map[string]Demand
	held    map[string]bool
	gaveUp  map[string]*task.Error
	fails   map[string]*task.Error
	madeWay []string // pools whose lines were told to
	done    []string // loads and unloads, in their order
	busy    bool     // a task got in before each unload

	looks int    // so many looks at the memory panic
	wrong string // the load of this pool panics
}

func newBox(free int64, pools ...Tenant) *box {
	b := &box{free: free, pools: map[string]Tenant{}, demand: map[string]Demand{}, held: map[string]bool{}, gaveUp: map[string]*task.Error{}, fails: map[string]*task.Error{}}
	for _, t := range pools {
		b.pools[t.ID], b.demand[t.ID] = t, Demand{}
	}
	return b
}

func (b *box) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

func (b *box) Memory() ([]vram.Room, []Tenant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.looks--; b.looks >= 0 {
		panic("index out of range")
	}
	return []vram.Room{{Card: 0, Free: b.free}}, slices.Collect(maps.Values(b.pools))
}

func (b *box) Load(id string) {
	b.set(func() {
		if id == b.wrong {
			panic("index out of range")
		}
		b.done = append(b.done, "load "+id)
	})
}

func (b *box) Unload(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.busy {
		return task.Errorf(task.ReplicaExhausted, "a task runs on it")
	}
	b.done = append(b.done, "unload "+id)
	return nil
}

func (b *box) LoadTime(string) time.Duration   { return 10 * time.Second }
func (b *box) Fetching(string) (float64, bool) { return 0, false }
func (b *box) Failed(id string) *task.Error    { return b.fails[id] }
func (b *box) Hold(id string, hold bool)       { b.set(func() { b.held[id] = hold }) }
func (b *box) MakeWay(id string)               { b.set(func() { b.madeWay = append(b.madeWay, id) }) }
func (b *box) GiveUp(id string, e *task.Error) { b.set(func() { b.gaveUp[id] = e }) }

func (b *box) Demand(id string) (Demand, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d, ok := b.demand[id]
	return d, ok
}

// manage makes a Manager for the box at noon.
func (b *box) manage() *Manager {
	m := New(Options{Models: b, Rules: rules, Metrics: NewMetrics(prometheus.NewRegistry()), Log: zap.NewNop(), Now: func() time.Time { return noon }})
	m.Serve(b)
	return m
}

// asks lets an interactive task come for a pool.
func (b *box) asks(id string, at time.Time) {
	b.set(func() { b.demand[id] = Demand{Interactive: at, Waiting: 1} })
}

// active says when a pool's last task ended.
func (b *box) active(id string, at time.Time) {
	b.set(func() { b.demand[id] = Demand{ActiveAt: at} })
}

func in(id string, state State) Tenant {
	t := Tenant{ID: id, State: state, Wants: []Want{{Bytes: 8}}}
	if state == Loaded {
		t.Holds = []vram.Share{{Card: 0, Bytes: 8}}
	}
	return t
}

// LO-502, LO-503: what an explanation says would be evicted is what is evicted when the task comes: the model that was idle for longest,
// whatever its name, and none that has tasks and has just been loaded.
func TestAnExplanationNamesTheEvictionThatHappens(t *testing.T) {
	b := newBox(2, in("a", Loaded), in("b", Loaded), in("new", Absent))
	m := b.manage()
	m.look(ago(time.Hour))
	b.active("a", ago(time.Minute))
	b.active("b", ago(2*time.Minute))
	require.Equal(t, []string{"b"}, m.Evictions("new"))
	b.asks("new", noon)
	m.look(noon)
	require.Equal(t, []string{"unload b"}, b.done)
}

// LO-502, LO-503
func TestPropertyExplanationsAgreeWithThePlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBox(rapid.Int64Range(0, 8).Draw(t, "free"), in("new", Absent))
		seconds := func(name string) time.Duration {
			return time.Duration(rapid.IntRange(0, 60).Draw(t, name)) * time.Second
		}
		for i := range rapid.IntRange(1, 5).Draw(t, "pools") {
			id := fmt.Sprint("p", i)
			b.pools[id] = in(id, rapid.SampledFrom([]State{Loaded, Loaded, Loaded, Loading, Leaving}).Draw(t, "state"))
			d := Demand{ActiveAt: ago(seconds("active"))}
			if rapid.Bool().Draw(t, "waits") {
				d.Batch, d.Waiting = ago(seconds("came")), 1
			}
			if d.Running = rapid.IntRange(0, 2).Draw(t, "running"); d.Running > 0 {
				d.ActiveAt = noon
			}
			b.demand[id] = d
		}
		came := time.Duration(0)
		if rapid.Bool().Draw(t, "waits for long") {
			came = seconds("for")
			b.demand["new"] = Demand{Interactive: ago(came), Waiting: 1}
		}
		m := b.manage()
		m.remember(onlyPools(m.snapshot(ago(seconds("turn")))), ago(time.Minute))
		would := m.Evictions("new")
		b.demand["new"] = Demand{Interactive: ago(came), Waiting: 1}
		m.look(noon)
		var did []string
		for _, what := range b.done {
			if what != "load new" {
				did = append(did, what[len("unload "):])
			}
		}
		slices.Sort(would)
		slices.Sort(did)
		require.Equal(t, would, did)
	})
}

func onlyPools(_ []vram.Room, pools []seen) []seen { return pools }

// LO-503: from the request until it shows, a model counts as being on its way, so that it is not asked for twice; if it never
// shows, it is asked for again.
func TestARequestCountsUntilItShows(t *testing.T) {
	b := newBox(8, in("a", Absent))
	m := b.manage()
	b.asks("a", noon)
	m.look(noon)
	m.look(noon.Add(askedFor - 1))
	require.Equal(t, []string{"load a"}, b.done)
	_, loading := m.Loading("a", noon)
	require.True(t, loading)
	require.Equal(t, 9*time.Second, m.Wait("a", noon.Add(askedFor-1).Add(time.Second)))
	m.o.Now = func() time.Time { return noon.Add(askedFor) }
	m.look(noon.Add(askedFor))
	require.Equal(t, []string{"load a", "load a"}, b.done)
	b.pools["a"] = in("a", Loaded)
	m.look(noon.Add(askedFor + 1))
	require.Zero(t, m.Wait("a", noon.Add(askedFor+2)))
	require.InDelta(t, 2000, testutil.ToFloat64(m.o.Metrics.lostMS), 1)
	require.Equal(t, 2.0, testutil.ToFloat64(m.o.Metrics.swaps))
}

// LO-503: a pool that has to go starts no further task; one that is no longer configured is not kept from its last tasks.
func TestPoolsAreHeldWhileTheyHaveToGo(t *testing.T) {
	b := newBox(0, in("a", Loaded), in("new", Absent))
	m := b.manage()
	m.look(ago(time.Hour))
	b.demand["a"] = Demand{Batch: ago(time.Minute), Waiting: 1, Running: 1}
	b.asks("new", ago(time.Minute))
	m.look(noon)
	require.True(t, b.held["a"])
	require.Empty(t, b.done, "a task runs on it")
	b.demand["a"], b.busy = Demand{Batch: ago(time.Minute), Waiting: 1}, true
	m.look(noon)
	require.True(t, b.held["a"])
	require.Empty(t, b.done, "a task got in before")
	b.busy = false
	delete(b.pools, "a")
	m.look(noon)
	require.False(t, b.held["a"])
	require.NotContains(t, m.residents, "a")
}

// LO-444: where an interactive task waits, the lines of the pool that has to go are told at each look: one may have started before the pool was held.
func TestLinesMakeWayForAnotherPoolsInteractiveTask(t *testing.T) {
	for name, c := range map[string]struct {
		demand Demand
		want   []string
	}{
		"interactive": {Demand{Interactive: ago(time.Minute), Waiting: 1}, []string{"a", "a"}},
		"batch":       {Demand{Batch: ago(time.Hour), Waiting: 1}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(0, in("a", Loaded), in("new", Absent))
			m := b.manage()
			m.look(ago(time.Hour))
			b.demand["a"] = Demand{Batch: ago(time.Minute), Waiting: 1, Running: 1}
			b.demand["new"] = c.demand
			m.look(noon)
			m.look(noon)
			require.True(t, b.held["a"])
			require.Equal(t, c.want, b.madeWay)
		})
	}
}

// LO-503: who waits for a model that cannot be loaded is told; where nobody waits, nobody is.
func TestTasksOfAModelThatFailedAreGivenUp(t *testing.T) {
	b := newBox(8, in("a", Loading), in("b", Loading))
	why := task.Errorf(task.PoolUnavailable, "it is too large")
	b.fails["a"], b.fails["b"] = why, why
	b.asks("a", noon)
	b.manage().look(noon)
	require.Equal(t, map[string]*task.Error{"a": why}, b.gaveUp)
}

// LO-803: a look that panics is taken again, and one pool that cannot be loaded without a panic keeps no other from being loaded.
func TestAPanicOfTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(16, in("a", Absent), in("b", Absent))
		b.looks, b.wrong = 2, "a"
		b.asks("a", noon)
		b.asks("b", noon)
		m := b.manage()
		core, logs := observer.New(zap.ErrorLevel)
		m.o.Log = zap.New(core)
		require.NoError(t, m.Start(t.Context()))
		time.Sleep(lookEvery)
		synctest.Wait()
		require.Equal(t, []string{"load b"}, b.done)
		require.Equal(t, 2, logs.FilterMessageSnippet("the plan of loads panicked").Len())
		require.Equal(t, "a", logs.FilterMessageSnippet("the work for an on-demand pool panicked").All()[0].ContextMap()["pool_id"])
		b.set(func() { b.wrong = "" })
		time.Sleep(lookEvery)
		synctest.Wait()
		require.Contains(t, b.done, "load a")
		require.NoError(t, m.Stop(t.Context()))
	})
}

// LO-503: start and stop in any order; between them it looks once a second, and at once when it is woken.
func TestStartsAndStopsInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := newBox(8, in("a", Absent))
		m := stopped.manage()
		require.NoError(t, m.Stop(t.Context()))
		require.NoError(t, m.Start(t.Context()))
		stopped.asks("a", noon)
		m.Wake()
		time.Sleep(time.Minute)
		require.Empty(t, stopped.done, "it was stopped before it began")

		b := newBox(8, in("a", Absent), in("b", Absent))
		m = b.manage()
		require.NoError(t, m.Start(t.Context()))
		require.NoError(t, m.Start(t.Context()))
		synctest.Wait()
		b.asks("a", noon)
		m.Wake()
		synctest.Wait()
		require.Equal(t, []string{"load a"}, b.done)
		b.set(func() { b.free = 16 })
		b.asks("b", noon)
		time.Sleep(lookEvery)
		synctest.Wait()
		require.Equal(t, []string{"load a", "load b"}, b.done)
		require.NoError(t, m.Stop(t.Context()))
		require.NoError(t, m.Stop(t.Context()))
		require.NoError(t, m.Start(t.Context()))
		b.set(func() { b.pools["a"] = in("a", Loaded) })
		time.Sleep(time.Minute)
		require.Len(t, b.done, 2)
	})
}

// LO-607: the page says which models came and went, and why.
func TestSwapsAreRememberedWithTheirReasons(t *testing.T) {
	b := newBox(0, in("old", Loaded), in("new", Absent))
	m := b.manage()
	m.look(ago(time.Hour))
	b.asks("new", ago(time.Minute))
	m.look(noon)
	require.Equal(t, []string{"unload old"}, b.done)
	b.pools["old"], b.free = in("old", Absent), 8
	m.look(noon.Add(time.Second))
	var told []string
	for _, s := range m.Swaps() {
		told = append(told, fmt.Sprint(s.In, " ", s.PoolID, ": ", s.Why))
	}
	require.Equal(t, []string{"true new: 1 task waits for it", "false old: makes room for new, for which 1 task waits"}, told, "the newest first")
	require.Equal(t, "nobody has used it for a while", whyOut("old", nil))
	require.Equal(t, "2 tasks wait", waits(2))
	for range 2 * maxSwaps {
		m.note(task.Swap{PoolID: "x"})
	}
	require.Len(t, m.Swaps(), maxSwaps)
}
