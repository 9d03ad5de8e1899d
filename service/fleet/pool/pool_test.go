// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"cmp"
	"context"
	"encoding/json"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/task"
)

// bound ends a test that hangs; no assertion depends on it.
const bound = time.Minute

// bundle is a Manager whose workers are this test binary.
type bundle struct {
	*testing.T
	m       *pool.Manager
	dir     string
	logs    *observer.ObservedLogs
	metrics *prometheus.Registry
	specs   []pool.Spec // with the model files that were made for them

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every OnChange
}

func setup(t *testing.T, change func(b *bundle, o *pool.Options), specs ...pool.Spec) *bundle {
	b := &bundle{T: t, dir: t.TempDir(), changed: make(chan struct{}), metrics: prometheus.NewRegistry()}
	core, logs := observer.New(zap.DebugLevel)
	b.logs = logs
	options := pool.Options{
		Specs: specs, WorkerExe: os.Args[0], RunDir: filepath.Join(b.dir, "run"), Log: zap.New(core), Registerer: b.metrics,
		Kinds:      kinds,
		BackoffMin: 5 * time.Millisecond, BackoffMax: time.Second, HealthInterval: 200 * time.Millisecond, StopGrace: bound,
		OnChange: func(string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			close(b.changed)
			b.changed = make(chan struct{})
		},
	}
	if change != nil {
		change(b, &options)
	}
	for i := range options.Specs {
		options.Specs[i].Engine = cmp.Or(options.Specs[i].Engine, llamacpp.Name)
		if s := &options.Specs[i]; s.Mode == pool.Builtin && s.ModelPath == "" && options.Models == nil {
			s.ModelPath = b.model(child{})
		}
	}
	b.specs = options.Specs
	var err error
	b.m, err = pool.New(options)
	require.NoError(t, err)
	require.NoError(t, b.m.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, b.m.Stop(context.Background())) })
	return b
}

// model writes a model file that makes its worker behave as told.
func (b *bundle) model(c child) string {
	data, err := json.Marshal(c)
	require.NoError(b, err)
	file, err := os.CreateTemp(b.dir, "model-*")
	require.NoError(b, err)
	_, err = file.Write(data)
	require.NoError(b, err)
	require.NoError(b, file.Close())
	return file.Name()
}

// await returns the pool's first replica as soon as ok holds for it.
func (b *bundle) await(poolID string, ok func(pool.Info) bool) pool.Info {
	b.Helper()
	timeout := time.After(bound)
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		if info := b.m.Infos(poolID)[0]; ok(info) {
			return info
		}
		select {
		case <-changed:
		case <-timeout:
			require.Fail(b, "the replica did not get there", "%+v", b.m.Infos(poolID)[0])
		}
	}
}

func is(states ...pool.State) func(pool.Info) bool {
	return func(i pool.Info) bool {
		return slices.Contains(states, i.State)
	}
}

func (b *bundle) lost(l *pool.Lease) {
	b.Helper()
	select {
	case <-l.Lost():
	case <-time.After(bound):
		require.Fail(b, "the lease was not lost")
	}
}

// gone waits until the process of the descriptor ended.
func gone(t *testing.T, fd int) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(bound.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		require.NoError(t, err)
		require.Equal(t, 1, n, "the process lives on")
		return
	}
}

func pidfd(t *testing.T, pid int) int {
	fd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

var plain = pool.Spec{ID: "p", Engine: "llamacpp", ModelID: "m", Device: "cpu", Ctx: 256, Mode: pool.Builtin}

// ORCH-3001, ORCH-3002, ORCH-3010, ORCH-1102
func TestReadyAfterTheProbeAndBackAfterAKill(t *testing.T) {
	b := setup(t, nil, plain)
	first := b.await("p", is(pool.Ready))
	require.Equal(t, "p-0", first.ID)
	require.Equal(t, "fake-1", first.EngineVersion)
	require.Equal(t, 256, first.Ctx)
	require.Equal(t, 1, first.Slots)
	require.Regexp(t, `^fp-[0-9a-f]{16}$`, first.Fingerprint)
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, first.ModelDigest)
	require.Equal(t, 1, b.logs.FilterMessageSnippet("decodes on the CPU").Len())
	ready := b.m.Engines("p")
	require.Len(t, ready, 1)
	n, err := ready[0].(engine.TokenCounter).CountTokens(t.Context(), "one two")
	require.NoError(t, err)
	require.Equal(t, 3, n)

	lease, err := b.m.Lease("p-0")
	require.NoError(t, err)
	require.NoError(t, unix.Kill(first.PID, unix.SIGKILL))
	b.lost(lease)
	lease.Release()
	again := b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 1 })
	require.NotEqual(t, first.PID, again.PID)
	require.Equal(t, first.Fingerprint, again.Fingerprint)
	require.Contains(t, again.LastError, "signal: killed")
	require.Equal(t, 0, again.Active)

	entries := b.logs.FilterMessage("replica is not ready").All()
	require.Len(t, entries, 1)
	require.Equal(t, "exited", entries[0].ContextMap()["reason"])
	require.NoError(t, testutil.GatherAndCompare(b.metrics, strings.NewReader(`
# HELP llorch_worker_restarts_total Times a replica lost its worker, or could not start one, and tried again.
# TYPE llorch_worker_restarts_total counter
llorch_worker_restarts_total{pool_id="p",reason="exited",replica_id="p-0"} 1
`), "llorch_worker_restarts_total"))
}

// ORCH-3001
func TestAWorkerInheritsLittleAndKnowsAKey(t *testing.T) {
	t.Setenv("LLORCH_API_TOKEN", "the daemon's secret")
	spec := plain
	spec.Pace, spec.Threads = 2.5, 3
	b := setup(t, nil, spec)
	info := b.await("p", is(pool.Ready))
	environment, arguments := info.LogTail[0], info.LogTail[1]
	require.NotContains(t, environment, "the daemon's secret")
	require.Contains(t, environment, "CUDA_VISIBLE_DEVICES= ")
	require.Regexp(t, `LLAMA_API_KEY=[A-Z2-7]{26}`, environment)
	require.Contains(t, arguments, "--threads 3 --ubatch 0 --pace 2.5 --workload completion --ctx 256")
}

// ORCH-3002
func TestACrashLoopBacksOffAndSaysWhy(t *testing.T) {
	b := setup(t, func(b *bundle, o *pool.Options) {
		o.Specs[0].ModelPath = b.model(child{Crash: "the tensor is missing"})
	}, plain)
	var waits []time.Duration
	for n := range 4 {
		info := b.await("p", func(i pool.Info) bool { return i.State == pool.Backoff && i.Restarts >= n })
		waits = append(waits, info.NextTry.Sub(info.Since))
		require.Contains(t, info.LastError, "the worker process ended (exit status 7); its last words: the tensor is missing")
		require.Equal(t, "the tensor is missing", info.LogTail[0])
		require.Zero(t, info.PID)
	}
	require.IsIncreasing(t, waits)
	_, err := b.m.Lease("p-0")
	require.True(t, task.HasCode(err, task.PoolUnready))
	require.True(t, task.AsError(err).Retriable)
	ok := len(b.m.Engines("p")) > 0
	require.False(t, ok)
}

// ORCH-3002
func TestNotReadyWithoutAnAnsweredProbe(t *testing.T) {
	for name, c := range map[string]child{
		"refused": {Script: fakeengine.Script{Fault: fakeengine.Refuse}},
		"cut":     {Script: fakeengine.Script{Fault: fakeengine.Die, After: 1}},
		"exit":    {Script: fakeengine.Script{Fault: fakeengine.Exit, After: 1}},
		"stalled": {Script: fakeengine.Script{Fault: fakeengine.Stall, After: 1}},
		"loading": {Health: fakeengine.Health{Loading: true}},
		"hanging": {Health: fakeengine.Health{Hang: true}},
		"unheard": {Silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			var fd int
			b := setup(t, func(b *bundle, o *pool.Options) {
				o.Specs[0].ModelPath = b.model(c)
				o.ProbeTimeout, o.LoadTimeout, o.BackoffMin = 300*time.Millisecond, 500*time.Millisecond, bound
			}, plain)
			if pid := b.await("p", func(i pool.Info) bool { return i.PID != 0 || i.State == pool.Backoff }).PID; pid != 0 {
				fd, _ = unix.PidfdOpen(pid, 0)
				defer func() { _ = unix.Close(fd) }()
			}
			info := b.await("p", is(pool.Backoff, pool.Ready))
			require.Equal(t, pool.Backoff, info.State)
			require.NotEmpty(t, info.LastError)
			require.Empty(t, info.Fingerprint)
			if fd > 0 {
				gone(t, fd)
			}
		})
	}
}

// ORCH-3002, ORCH-3054
func TestOtherWorkloadsAreProbedByAnAnswer(t *testing.T) {
	spec := plain
	spec.Workload = task.Embedding
	refuse := fakeengine.Script{Fault: fakeengine.Refuse} // of completions
	b := setup(t, func(b *bundle, o *pool.Options) { o.Specs[0].ModelPath = b.model(child{Script: refuse}) }, spec)
	b.await("p", is(pool.Ready))
}

// ORCH-3010
func TestLeasesCountSlots(t *testing.T) {
	b := setup(t, nil, plain)
	_, err := b.m.Lease("nobody")
	require.True(t, task.HasCode(err, task.PoolUnready))
	b.await("p", is(pool.Ready))
	var mu sync.Mutex
	var held []*pool.Lease
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			l, err := b.m.Lease("p-0")
			if err != nil {
				if !task.HasCode(err, task.ReplicaExhausted) {
					t.Error(err)
				}
				return
			}
			mu.Lock()
			held = append(held, l)
			mu.Unlock()
		})
	}
	wg.Wait()
	require.Len(t, held, 1)
	require.Equal(t, 1, held[0].Info().Active)
	require.Equal(t, 1, b.m.Infos("p")[0].Active)
	held[0].Release()
	held[0].Release()
	require.Equal(t, 0, b.m.Infos("p")[0].Active)
	next, err := b.m.Lease("p-0")
	require.NoError(t, err)
	next.Release()
}

// ORCH-3026
func TestReplaceKillsTheWorkerAndNotItsSuccessor(t *testing.T) {
	b := setup(t, func(b *bundle, o *pool.Options) {
		o.Specs[0].ModelPath = b.model(child{IgnoreTerm: true})
		o.StopGrace = time.Millisecond
	}, plain)
	first := b.await("p", is(pool.Ready))
	fd := pidfd(t, first.PID)
	lease, err := b.m.Lease("p-0")
	require.NoError(t, err)
	lease.Replace("its slot stayed busy after a cancel")
	b.lost(lease)
	gone(t, fd)
	second := b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 1 })
	require.Equal(t, "its slot stayed busy after a cancel", second.LastError)
	lease.Replace("again")
	lease.Release()
	require.Equal(t, 0, b.m.Infos("p")[0].Active)
	fresh, err := b.m.Lease("p-0")
	require.NoError(t, err)
	require.Equal(t, second.PID, fresh.Info().PID)
	fresh.Release()
}

// ORCH-3026: an external engine that stays busy is tried again where its tasks are strict. Where they are not, others may use it.
func TestAnExternalEngineThatStaysBusyIsTriedWhereItIsStrict(t *testing.T) {
	for slots, strict := range map[int]bool{1: true, 2: false} {
		server := httptest.NewServer(fakeengine.New(fakeengine.Options{Slots: slots, Ctx: 64}))
		t.Cleanup(server.Close)
		b := setup(t, nil, pool.Spec{ID: "x", ModelID: "m", Mode: pool.External, URLs: []string{server.URL}, Slots: slots})
		require.Equal(t, strict, b.await("x", is(pool.Ready)).Strict)
		lease, err := b.m.Lease("x-0")
		require.NoError(t, err)
		lease.Replace("its slot stayed busy after a cancel")
		if strict {
			b.lost(lease)
		}
		lease.Release()
		b.await("x", func(i pool.Info) bool {
			return i.State == pool.Ready && i.Restarts == map[bool]int{true: 1, false: 0}[strict]
		})
	}
}

// ORCH-3002
func TestAHungWorkerIsReplaced(t *testing.T) {
	b := setup(t, nil, plain)
	first := b.await("p", is(pool.Ready))
	require.NoError(t, unix.Kill(first.PID, unix.SIGSTOP))
	again := b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts > 0 })
	require.NotEqual(t, first.PID, again.PID)
	require.Contains(t, again.LastError, "stopped answering health checks")
}

// ORCH-3200, LO-427
func TestExternalEnginesComeAndGo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serve := func(l net.Listener) *httptest.Server {
		s := httptest.NewUnstartedServer(fakeengine.New(fakeengine.Options{Slots: 2, Ctx: 64}))
		s.Listener = l
		s.Start()
		return s
	}
	server := serve(listener)
	url := server.URL
	b := setup(t, nil, pool.Spec{ID: "x", ModelID: "m", ModelRef: "any label", Mode: pool.External, URLs: []string{url + "/"}, Slots: 3})
	info := b.await("x", is(pool.Ready))
	require.Equal(t, 2, info.Slots, "the engine has no more")
	require.Equal(t, 64, info.Ctx)
	require.Zero(t, info.PID)
	lease, err := b.m.Lease("x-0")
	require.NoError(t, err)
	reach, ok := b.m.Reach("x-0")
	require.True(t, ok)
	require.Equal(t, url, reach.URL)
	require.Equal(t, "x-0", reach.Replica.ID)
	require.Equal(t, reach.Endpoint, lease.Reach().Endpoint)
	server.Close()
	b.lost(lease)
	<-reach.Lost.Done()
	lease.Release()
	b.await("x", is(pool.Backoff))
	_, ok = b.m.Reach("x-0")
	require.False(t, ok)
	_, ok = b.m.Reach("y-0")
	require.False(t, ok)
	listener, err = net.Listen("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	server = serve(listener)
	defer server.Close()
	again := b.await("x", is(pool.Ready))
	require.Equal(t, info.Fingerprint, again.Fingerprint)
}

// ORCH-3200
func TestBinaryModeSpeaksLlamaServersFlags(t *testing.T) {
	spec := plain
	spec.Mode, spec.BinaryPath, spec.BinaryArgs = pool.Binary, os.Args[0], []string{asServer}
	b := setup(t, func(b *bundle, o *pool.Options) { o.Specs[0].ModelPath = b.model(child{}) }, spec)
	info := b.await("p", is(pool.Ready))
	require.Regexp(t, `-m \S+ --parallel 1 -t 1 .* --host 127.0.0.1 --port \d+ --cache-ram 0 --no-webui .* -c 256 --device none -ngl 0 `,
		info.LogTail[1])
}

// ORCH-1102, ORCH-3037, ORCH-3200
func TestWhatIsMissingIsNamed(t *testing.T) {
	with := func(change func(*pool.Spec)) pool.Spec {
		s := plain
		s.ModelPath = os.Args[0] // any file
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		spec pool.Spec
		says string
	}{
		"gpu":    {with(func(s *pool.Spec) { s.Device = "0" }), "device: cpu"},
		"model":  {with(func(s *pool.Spec) { s.ModelPath = "/nowhere/m.gguf" }), "correct `model.ref` (/nowhere/m.gguf)"},
		"digest": {with(func(s *pool.Spec) { s.ModelDigest = "sha256:00" }), "UNTRUSTED_ARTIFACT"},
		"libs":   {with(func(s *pool.Spec) { s.LibsDir = "/nowhere" }), "orchestratord libs"},
		"binary": {with(func(s *pool.Spec) { s.Mode, s.BinaryPath = pool.Binary, "no-such-server" }), "engine:llamaServer"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, func(_ *bundle, o *pool.Options) { o.BackoffMin = bound }, c.spec)
			info := b.await("p", is(pool.Failed))
			require.Contains(t, info.LastError, c.says)
			require.True(t, info.NextTry.After(info.Since))
			require.Empty(t, b.logs.FilterMessage("worker output").All(), "nothing was started")
		})
	}
}

// ORCH-3200, ORCH-3052
func TestSpecsThatCannotWorkAreRefused(t *testing.T) {
	for says, specs := range map[string][]pool.Spec{
		"one slot":             {{ID: "p", Mode: pool.Builtin, ModelPath: "m", Slots: 2}},
		"does not rerank":      {{ID: "p", Mode: pool.Builtin, ModelPath: "m", Workload: task.Rerank}},
		"`path`":               {{ID: "p", Mode: pool.Binary, ModelPath: "m"}},
		"its command":          {{ID: "p", Mode: pool.Container, ModelPath: "m"}},
		"builtin, binary":      {{ID: "p", Mode: "magic"}},
		"no model":             {{ID: "p", Mode: pool.Builtin}},
		"no id":                {{Mode: pool.Builtin}},
		"built-in worker does": {{ID: "p", Mode: pool.Builtin, ModelPath: "m", Device: "0,1", TensorSplit: []float64{1, 1}}},
		"needs the cards":      {{ID: "p", Mode: pool.Binary, BinaryPath: "s", ModelPath: "m", Device: "auto", TensorSplit: []float64{1, 1}}},
		"has 3 shares":         {{ID: "p", Mode: pool.Binary, BinaryPath: "s", ModelPath: "m", Device: "0,1", TensorSplit: []float64{1, 1, 1}}},
		"positive number":      {{ID: "p", Mode: pool.Binary, BinaryPath: "s", ModelPath: "m", Device: "0,1", TensorSplit: []float64{1, 0}}},
		"of kind \"other\"":    {{ID: "p", Engine: "other", Mode: pool.External}},
		"not started here":     {{ID: "p", Engine: "theirs", Mode: pool.Builtin, ModelPath: "m"}},
		"is configured twice":  {{ID: "p", Mode: pool.Builtin, ModelPath: "m"}, {ID: "p", Mode: pool.Builtin, ModelPath: "m"}},
	} {
		for i := range specs {
			specs[i].Engine = cmp.Or(specs[i].Engine, llamacpp.Name)
		}
		theirs := llamacpp.Kind()
		theirs.Name, theirs.Start = "theirs", nil
		_, err := pool.New(pool.Options{Specs: specs, WorkerExe: "w", Kinds: append(kinds[:1:1], theirs)})
		require.ErrorContains(t, err, says)
	}
}

// ORCH-3001
func TestStopEndsWorkersThatDoNotWantTo(t *testing.T) {
	b := setup(t, func(b *bundle, o *pool.Options) {
		o.Specs[0].ModelPath = b.model(child{IgnoreTerm: true})
	}, plain)
	fd := pidfd(t, b.await("p", is(pool.Ready)).PID)
	lease, err := b.m.Lease("p-0")
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel() // no time at all: StopGrace is longer than the test may take
	require.ErrorIs(t, b.m.Stop(ended), context.Canceled)
	gone(t, fd)
	b.lost(lease)
	lease.Release()
	require.Equal(t, pool.Stopped, b.m.Infos("p")[0].State)
	require.NoError(t, b.m.Start(t.Context()), "a start after the stop does nothing")
	require.Equal(t, pool.Stopped, b.m.Infos("p")[0].State)
	left, err := filepath.Glob(filepath.Join(b.dir, "run", "*.json"))
	require.NoError(t, err)
	require.Empty(t, left)
	_, err = b.m.Lease("p-0")
	require.True(t, task.HasCode(err, task.PoolUnready))
}

// ORCH-3001
func TestStartAndStopAtAnyMoment(t *testing.T) {
	for i := range 12 {
		b := setup(t, nil, pool.Spec{ID: "p", Mode: pool.Builtin, Ctx: 256, Replicas: 3})
		seen := 0
		b.await("p", func(info pool.Info) bool { seen++; return seen > i || info.State == pool.Ready }) // a little later every time
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _ = b.m.Stop(context.Background()) })
		}
		wg.Wait()
		for _, info := range b.m.Infos("p") {
			require.Equal(t, pool.Stopped, info.State)
			require.Zero(t, info.PID)
		}
	}
}
