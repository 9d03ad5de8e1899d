// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ lifecycle.Service = (*Operator)(nil)

// operated is an orchestrator without its API, whose file can be changed.
type operated struct {
	*testing.T
	operator *Operator
	schedule *scheduler.Scheduler
	pools    *pool.Manager
	path     string
}

const operatedHead = "bind_addr: 127.0.0.1:0\ndata_dir: data\nauth: {optional_on_loopback: true}\n"

func operate(t *testing.T, pools ...string) *operated {
	dir := t.TempDir()
	o := &operated{T: t, path: filepath.Join(dir, "c.yaml")}
	registry := prometheus.NewRegistry()
	o.write(operatedHead, pools...)
	env := func(name string) string { return map[string]string{"LLORCH_API_TOKEN": "the-right-token-1234"}[name] }
	c, err := config.Load(o.path, env)
	require.NoError(t, err)
	setup, cards := NewSetup(c), NewCards(zap.NewNop(), config.Energy{})
	rules, err := policy.New(policy.Options{Rules: PolicyRules(c), Log: zap.NewNop(), Registerer: registry})
	require.NoError(t, err)
	fetches, err := fetch.New(fetch.Settings{Client: rules.Client(policy.Download)})
	require.NoError(t, err)
	t.Cleanup(fetches.Close)
	shelf, err := OpenShelf(setup, catalog.Options{Dir: dir, Fetcher: Fetcher{Fetcher: fetches}, Log: zap.NewNop(), Registerer: registry, Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, shelf.Close()) })
	book, err := sqlite.Open(sqlite.Options{Path: filepath.Join(dir, sqlite.FileName)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, book.Close()) })
	engines := NewEngines(provision.Options{}, fetches, rules, shelf, zap.NewNop())
	options := pool.Options{
		Specs: PoolSpecs(c, "", engines), RunDir: filepath.Join(dir, "run"), Log: zap.NewNop(), Registerer: registry, Models: shelf, Kinds: EngineKinds(),
		OnChange: func(id string) { o.schedule.Wake(id) },
	}
	cards.Grant(&options)
	o.pools, err = pool.New(options)
	require.NoError(t, err)
	f := NewFleet(setup, o.pools, cards, shelf, time.Now)
	sessions, err := OpenSessions(f, book, registry, zap.NewNop())
	require.NoError(t, err)
	swaps := residency.New(residency.Options{
		Models: f.Models(zap.NewNop()), Rules: residency.Rules(c.Swap), Metrics: residency.NewMetrics(registry), Log: zap.NewNop(), Now: time.Now,
	})
	o.schedule = scheduler.New(scheduler.Options{
		Pools: SchedulerPools(c), Replicas: f.Replicas(), Residency: swaps, Ledger: book, Sessions: sessions,
		Narrator: observe.NewNarrator(zap.NewNop()), Metrics: scheduler.NewMetrics(registry), Log: zap.NewNop(), Now: time.Now,
	})
	swaps.Serve(o.schedule)
	o.operator = NewOperator(OperatorOptions{
		Fleet: f, Schedule: o.schedule, Residency: swaps, Policy: rules, Sessions: sessions, Log: zap.NewNop(), Env: env, Engines: engines,
	})
	require.NoError(t, o.pools.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, o.pools.Stop(context.Background())) })
	require.NoError(t, o.schedule.Start(t.Context()))
	require.NoError(t, swaps.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, swaps.Stop(context.Background())) })
	t.Cleanup(func() { require.NoError(t, o.schedule.Stop(t.Context())) }) // its context has ended, so nothing is waited for
	require.NoError(t, o.operator.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, o.operator.Stop(context.Background())) })
	return o
}

func (o *operated) write(head string, pools ...string) {
	require.NoError(o, os.WriteFile(o.path, []byte(head+"pools:\n"+strings.Join(pools, "")), 0o600))
}

// reload reads the file again.
func (o *operated) reload() api.ConfigChange {
	o.Helper()
	change, err := o.operator.ReloadConfig(o.Context())
	require.NoError(o, err)
	return change
}

func (o *operated) view() views { return views{o.operator.Fleet, o.schedule, writes{}, nil, Hosts{}} }

func (o *operated) soon(what func() bool) {
	o.Helper()
	require.Eventually(o, what, time.Minute, time.Millisecond)
}

func (o *operated) readies(id string) {
	o.Helper()
	o.soon(func() bool { h, err := o.view().Health(id); return err == nil && h.Pool.Ready })
}

// enqueue has a task wait or run in a pool.
func (o *operated) enqueue(id, pool string) {
	_, err := o.schedule.Enqueue(o.Context(), task.Task{
		ID: id, PoolID: pool, Engine: "llamacpp", Prompt: "p", AcceptedAt: time.Now(), Determinism: task.Strict,
		Request: task.Request{ID: id, Priority: task.Interactive, Workload: task.Completion, MaxTokens: 1},
	})
	require.NoError(o, err)
}

func (o *operated) state(id string) task.State {
	s, err := o.schedule.Get(o.Context(), id)
	require.NoError(o, err)
	return s.State
}

// engineOf is a fake engine that an external pool has.
func engineOf(t *testing.T) (*fakeengine.Engine, string) {
	fake := fakeengine.New(fakeengine.Options{})
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	return fake, server.URL
}

// external is a pool of the file.
func external(id, url string, more ...string) string {
	return fmt.Sprintf("  - {id: %s, model: {id: m-%s, ref: label-%s}, provisioning: {mode: external, urls: [%q]}%s}\n", id, id, id, url, strings.Join(more, ""))
}

// What only a restart can change is said each time, and does not get into force by reading the file twice.
// ORCH-2101
func TestWhatOnlyARestartChangesStaysAsItIs(t *testing.T) {
	_, url := engineOf(t)
	o := operate(t, external("a", url))
	o.readies("a")
	require.Equal(t, api.ConfigChange{}, o.reload())
	o.write(strings.Replace(operatedHead, "data_dir: data", "data_dir: other", 1), external("a", url, ", queue: {capacity: 7}, timeouts: {wall: 9m}"))
	for range 2 {
		change := o.reload()
		require.Empty(t, change.Changed)
		require.Equal(t, []string{"data_dir", "pools.a.queue.capacity", "pools.a.timeouts.wall"}, change.RestartRequired)
		require.Equal(t, 64, o.view().Pools()[0].Queue.Capacity)
	}
	o.write(operatedHead, external("a", url))
	require.Equal(t, api.ConfigChange{}, o.reload())
}

// ORCH-2101, LO-613
func TestAnInvalidFileChangesNothing(t *testing.T) {
	_, url := engineOf(t)
	o := operate(t, external("a", url))
	o.write(operatedHead, external("b", url), "  - {id: c}\n")
	_, err := o.operator.ReloadConfig(t.Context())
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.ErrorContains(t, err, "nothing has changed")
	require.ErrorContains(t, err, "c.yaml:6:")
	require.Zero(t, testutil.ToFloat64(o.operator.reloads.ok), "LO-613")
	require.Len(t, o.view().Pools(), 1)
	require.Equal(t, "a", o.view().Pools()[0].ID)
	require.NoError(t, os.Remove(o.path))
	_, err = o.operator.ReloadConfig(t.Context())
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	o.write(operatedHead, external("a", url))
	before := testutil.ToFloat64(o.operator.reloads.at)
	o.reload()
	require.InDelta(t, 1, testutil.ToFloat64(o.operator.reloads.ok), 0)
	require.GreaterOrEqual(t, testutil.ToFloat64(o.operator.reloads.at), before)
}

// ORCH-2101
func TestARemovedPoolEndsItsTasksAndIsGone(t *testing.T) {
	fake, slow := engineOf(t)
	_, url := engineOf(t)
	o := operate(t, external("a", url), external("b", slow))
	o.readies("b")
	fake.SetScript(fakeengine.Script{Stepped: true, Tokens: 1})
	o.enqueue("runs", "b")
	o.enqueue("waits", "b")
	o.write(operatedHead, external("a", url))
	require.Equal(t, []string{"pools.b"}, o.reload().Changed)
	_, err := o.view().Health("b")
	require.True(t, task.HasCode(err, task.NotFound), "%v", err)
	_, err = o.operator.Reload(t.Context(), "b", "label-b")
	require.True(t, task.HasCode(err, task.NotFound), "%v", err)
	o.operator.tidy()
	require.Contains(t, o.pools.Pools(), "b", "it has tasks")

	// It comes back before it is gone, and what only a restart changes is still as it was.
	o.write(operatedHead, external("a", url), external("b", slow, ", queue: {capacity: 7}"))
	require.Equal(t, []string{"pools.b"}, o.reload().Changed)
	require.Equal(t, 64, o.view().Pools()[1].Queue.Capacity)
	require.Equal(t, []string{"pools.b.queue.capacity"}, o.reload().RestartRequired)
	o.write(operatedHead, external("a", url))
	o.reload()

	fake.Release(2)
	o.soon(func() bool { return o.state("runs") == task.Completed && o.state("waits") == task.Completed })
	o.soon(func() bool { return len(o.pools.Pools()) == 1 })
	fake.SetScript(fakeengine.Script{})
	o.write(operatedHead, external("a", url), external("b", slow, ", queue: {capacity: 7}"))
	o.reload()
	o.readies("b")
	require.Equal(t, 7, o.view().Pools()[1].Queue.Capacity, "a pool that was gone is new")
	o.enqueue("again", "b")
	o.soon(func() bool { return o.state("again") == task.Completed })
}

// A pool that is no longer configured still has its tasks: where it is on demand, its model has to be loaded for them.
// LO-503
func TestPoolsThatEndTheirTasksAreServed(t *testing.T) {
	s := NewSetup(config.Config{Pools: []config.Pool{{ID: "a"}, {ID: "b"}}})
	s.closing.Store(&[]config.Pool{{ID: "b"}, {ID: "gone"}})
	require.Equal(t, []config.Pool{{ID: "a"}, {ID: "b"}, {ID: "gone"}}, s.served())
	require.Len(t, s.config().Pools, 2)
}

// Nothing but its own ref can be done to engines that somebody else runs, and that brings them back from a drain.
// ORCH-2101, ORCH-2102
func TestAnExternalPoolComesBackFromADrain(t *testing.T) {
	_, url := engineOf(t)
	o := operate(t, external("a", url))
	o.readies("a")
	v, err := o.operator.Drain(t.Context(), "a", time.Second)
	require.NoError(t, err)
	require.Equal(t, api.DrainView{PoolID: "a", Draining: true, Deadline: time.Second}, v)
	o.soon(func() bool { return !o.view().Pools()[0].Ready && o.view().Pools()[0].Draining })
	_, err = o.operator.Drain(t.Context(), "a", 0)
	require.NoError(t, err, "it is drained already")
	_, err = o.operator.Reload(t.Context(), "a", "file:other.gguf")
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.ErrorContains(t, err, "label-a brings them back")
	r, err := o.operator.Reload(t.Context(), "a", "label-a")
	require.NoError(t, err)
	require.Equal(t, "m-a", r.Model.ID)
	o.readies("a")
	require.False(t, o.view().Pools()[0].Draining)
	_, err = o.operator.Drain(t.Context(), "attic", time.Second)
	require.True(t, task.HasCode(err, task.NotFound), "%v", err)
}

// LO-502
func TestAnExplanationIsOfThePoolsAsTheyAre(t *testing.T) {
	_, url := engineOf(t)
	loads, slow := engineOf(t)
	loads.SetHealth(fakeengine.Health{Loading: true}) // for good: one that is not there comes to be called failed
	o := operate(t, external("a", url), external("loads", slow), "  - {id: open, model: {id: m-open, ref: label}, provisioning: {mode: external}}\n")
	o.readies("a")
	e, err := o.operator.Explain(t.Context(), task.Request{ModelRef: "m-a", Workload: task.Completion})
	require.NoError(t, err)
	require.Equal(t, api.Explanation{PoolID: "a", ReplicaID: "a-0", Candidates: []api.CandidateView{
		{PoolID: "a", ReplicaID: "a-0", Chosen: true, Reasons: []string{"it is the only one that can take the task now"}},
	}}, e)
	e, err = o.operator.Explain(t.Context(), task.Request{ModelRef: "m-loads", Workload: task.Completion})
	require.NoError(t, err)
	require.Empty(t, e.PoolID, "a task would be refused, with POOL_UNREADY")
	require.Empty(t, e.ReplicaID)
	require.Regexp(t, "^pool 'loads' is loading", e.Candidates[0].Reasons[0])
	e, err = o.operator.Explain(t.Context(), task.Request{ModelRef: "m-open", Workload: task.Completion})
	require.NoError(t, err)
	require.Len(t, e.Candidates, 1)
	require.Contains(t, e.Candidates[0].Reasons[0], "no engine has registered with it")
	_, err = o.operator.Explain(t.Context(), task.Request{ModelRef: "nobody", Workload: task.Completion})
	require.True(t, task.HasCode(err, task.ModelNotFound), "%v", err)
}

// ORCH-2101
func TestAWorkerRegisters(t *testing.T) {
	_, url := engineOf(t)
	_, other := engineOf(t)
	o := operate(t, external("a", other), "  - {id: open, ctx: 128, model: {id: m, ref: label}, provisioning: {mode: external}}\n")
	require.Empty(t, o.view().Pools()[1].LastError)
	w := api.WorkerRegistration{WorkerID: "attic", PoolID: "open", URL: url, Engine: "llamacpp", EngineVersion: "v", ModelDigest: "sha256:aa", Fingerprint: "f", Slots: 1, Ctx: 256}
	for says, c := range map[string]struct {
		change func(*api.WorkerRegistration)
		code   task.Code
	}{
		"use one of a, open":             {func(w *api.WorkerRegistration) { w.PoolID = "attic" }, task.NotFound},
		"engines of kind llamacpp":       {func(w *api.WorkerRegistration) { w.Engine = "tgi" }, task.InvalidParams},
		"64 tokens is smaller than the ": {func(w *api.WorkerRegistration) { w.Ctx = 64 }, task.InvalidParams},
		"in pool 'a' already":            {func(w *api.WorkerRegistration) { w.URL = other }, task.Conflict},
	} {
		bad := w
		c.change(&bad)
		_, err := o.operator.Register(t.Context(), bad)
		require.True(t, task.HasCode(err, c.code), "%s: %v", says, err)
		require.ErrorContains(t, err, says)
	}
	for range 2 { // the second renews
		l, err := o.operator.Register(t.Context(), w)
		require.NoError(t, err)
		require.Equal(t, api.WorkerLease{WorkerID: "attic", ReplicaID: "open-attic", Lease: registrationLease}, l)
	}
	o.readies("open")
	o.enqueue("t", "open")
	o.soon(func() bool { return o.state("t") == task.Completed })
}

// A stop before the start makes that do nothing, and neither counts twice.
func TestTheOperatorStartsAndStopsInAnyOrder(t *testing.T) {
	_, url := engineOf(t)
	o := operate(t, external("a", url))
	require.NoError(t, o.operator.Start(t.Context()), "it runs already")
	for range 2 {
		require.NoError(t, o.operator.Stop(t.Context()))
	}
	require.NoError(t, o.operator.Start(t.Context()))
	never := NewOperator(OperatorOptions{Fleet: o.operator.Fleet, Log: zap.NewNop()})
	require.NoError(t, never.Stop(t.Context()))
	require.NoError(t, never.Start(t.Context()), "it has nothing to look after pools with, and would panic")
	require.NoError(t, never.Stop(t.Context()))
}

// LO-803: the look after the pools goes on where a part of it panics.
func TestTheLookAfterThePoolsOutlivesAPanic(t *testing.T) {
	_, a := engineOf(t)
	_, b := engineOf(t)
	o := operate(t, external("a", a), external("b", b))
	require.NoError(t, o.operator.Stop(t.Context()))
	core, logs := observer.New(zap.ErrorLevel)
	next := NewOperator(OperatorOptions{ // without engines: what looks for them panics
		Fleet: o.operator.Fleet, Schedule: o.schedule, Residency: o.operator.residency, Policy: o.operator.policy, Sessions: o.operator.sessions,
		Log: zap.New(core), Env: o.operator.env,
	})
	require.NoError(t, next.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, next.Stop(context.Background())) })
	o.soon(func() bool { return logs.FilterMessage(stumbled).Len() > 0 })
	next.mu.Lock()
	next.closing["b"] = next.file.Pools[1]
	next.file.Pools = next.file.Pools[:1]
	next.mu.Unlock()
	o.soon(func() bool { return len(o.pools.Pools()) == 1 })
}

// LO-502, LO-203: a replica whose engine broke off a task is not chosen, and the dry run says why, until the engine answers again.
func TestExplainShowsAReplicaInDoubt(t *testing.T) {
	fake, p := wide(t)
	o := operate(t, p)
	o.readies("wide")
	explained := func() string {
		e, err := o.operator.Explain(t.Context(), task.Request{ModelRef: "m-wide", Workload: task.Completion})
		require.NoError(t, err)
		require.Len(t, e.Candidates, 1)
		require.Equal(t, e.ReplicaID != "", e.Candidates[0].Chosen)
		return e.ReplicaID + ": " + strings.Join(e.Candidates[0].Reasons, "; ")
	}
	const free, doubted = "wide-0: it is the only one that can take the task now", ": its engine broke off a task, and gets none before it has answered again"
	require.Equal(t, free, explained())
	fake.SetHealth(fakeengine.Health{Loading: true})
	fake.SetScript(fakeengine.Script{Fault: fakeengine.Die, After: 0, Times: 1})
	o.enqueueBestEffort("breaks", "wide")
	o.soon(func() bool { return explained() == doubted })
	fake.SetHealth(fakeengine.Health{})
	o.soon(func() bool { return o.state("breaks") == task.Completed })
	require.Equal(t, free, explained())
}
