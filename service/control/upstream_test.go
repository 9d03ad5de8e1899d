// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/front/upstream"
	"github.com/llama-orch/llama-orch/service/task"
)

// wide is a pool with a fake engine of two slots.
func wide(t *testing.T, more ...string) (*fakeengine.Engine, string) {
	fake := fakeengine.New(fakeengine.Options{Slots: 2})
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	return fake, external("wide", server.URL, append([]string{", slots: 2"}, more...)...)
}

func (o *operated) upstream() *Upstream {
	u := NewUpstream(o.operator.Fleet, o.schedule, zap.NewNop())
	o.Cleanup(u.Close)
	return u
}

// post sends a completion through, and returns the answer once it has begun.
func post(ctx context.Context, t *testing.T, e upstream.Engine) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL.String()+"/completion", strings.NewReader(`{"prompt":"p","stream":true,"n_predict":9}`))
	require.NoError(t, err)
	res, err := e.Transport.RoundTrip(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// LO-427: a POST takes a slot, as a task does. Where none is free, or tasks wait, it is refused, and told when to try again.
func TestUpstreamTakesSlots(t *testing.T) {
	fake, p := wide(t)
	o := operate(t, p)
	o.readies("wide")
	u := o.upstream()
	first, err := u.Reach("wide", http.MethodPost, "/completion")
	require.NoError(t, err)
	require.Equal(t, "wide-0", first.ReplicaID)
	second, err := u.Reach("wide", http.MethodPost, "/completion")
	require.NoError(t, err)
	require.Equal(t, 2, o.pools.Infos("wide")[0].Active)
	_, err = u.Reach("wide", http.MethodPost, "/completion")
	require.True(t, task.HasCode(err, task.ReplicaExhausted), "%v", err)
	require.Equal(t, "wide", task.AsError(err).PoolID)
	require.True(t, task.AsError(err).Retriable)
	require.GreaterOrEqual(t, task.AsError(err).RetryAfter, time.Second)
	require.LessOrEqual(t, task.AsError(err).RetryAfter, time.Minute)
	look, err := u.Reach("wide", http.MethodGet, "/slots")
	require.NoError(t, err, "to look needs no slot")
	look.Done(true)

	o.enqueueBestEffort("waits", "wide")
	first.Done(true)
	o.soon(func() bool { return o.state("waits") == task.Completed })
	second.Done(true)
	o.soon(func() bool { return o.pools.Infos("wide")[0].Active == 0 })

	u.depth = func(string) (int, int) { return 0, 1 }
	u.wait = func(string, task.Priority) time.Duration { return time.Hour }
	_, err = u.Reach("wide", http.MethodPost, "/completion")
	require.True(t, task.HasCode(err, task.ReplicaExhausted), "%v", err)
	require.ErrorContains(t, err, "tasks wait for pool 'wide'")
	require.Equal(t, time.Minute, task.AsError(err).RetryAfter)
	o.soon(func() bool { return fake.State().Busy == 0 })
}

func (o *operated) enqueueBestEffort(id, pool string) {
	_, err := o.schedule.Enqueue(o.Context(), task.Task{
		ID: id, PoolID: pool, Engine: "llamacpp", Prompt: "p", AcceptedAt: time.Now(), Determinism: task.BestEffort,
		Request: task.Request{ID: id, Priority: task.Interactive, Workload: task.Completion, MaxTokens: 1},
	})
	require.NoError(o, err)
}

// LO-427, ORCH-3026: the slot of a client that has gone is given back once the engine is idle. An engine elsewhere that does not get idle stays: what is busy there
// may be others' requests.
func TestASlotIsIdleBeforeItIsGivenBack(t *testing.T) {
	fake, p := wide(t)
	o := operate(t, p)
	o.readies("wide")
	u := o.upstream()
	fake.SetScript(fakeengine.Script{Stepped: true})
	e, err := u.Reach("wide", http.MethodPost, "/completion")
	require.NoError(t, err)
	ctx, leave := context.WithCancel(t.Context())
	within, stop := e.Bound(ctx)
	defer stop()
	go fake.Release(1)
	_, err = bufio.NewReader(post(within, t, e).Body).ReadString('\n')
	require.NoError(t, err)
	_, err = fake.Wait(t.Context(), func(s fakeengine.State) bool { return s.Busy == 1 }) // the probe's slot may have been on its way back
	require.NoError(t, err)
	leave()
	e.Done(false)
	require.Zero(t, fake.State().Busy)
	require.Zero(t, o.pools.Infos("wide")[0].Active)
	require.Zero(t, o.pools.Infos("wide")[0].Restarts)

	fake.SetScript(fakeengine.Script{Stepped: true, IgnoreCancel: true})
	e, err = u.Reach("wide", http.MethodPost, "/completion")
	require.NoError(t, err)
	ctx, leave = context.WithCancel(t.Context())
	go fake.Release(1)
	_, err = bufio.NewReader(post(ctx, t, e).Body).ReadString('\n')
	require.NoError(t, err)
	leave()
	e.Done(false)
	require.Equal(t, 1, fake.State().Busy)
	require.Zero(t, o.pools.Infos("wide")[0].Active)
	require.Zero(t, o.pools.Infos("wide")[0].Restarts)
	fake.FreeSlots()
}

// LO-427: a request does not hold its slot for longer than a task may.
func TestUpstreamIsBounded(t *testing.T) {
	fake, p := wide(t, ", timeouts: {wall: 100ms, prefill: 100ms, idle: 100ms}")
	o := operate(t, p)
	o.readies("wide")
	fake.SetScript(fakeengine.Script{Stepped: true})
	e, err := o.upstream().Reach("wide", http.MethodPost, "/completion")
	require.NoError(t, err)
	ctx, stop := e.Bound(t.Context())
	defer stop()
	go fake.Release(1)
	_, err = io.ReadAll(post(ctx, t, e).Body)
	require.Error(t, err)
	require.True(t, task.HasCode(context.Cause(ctx), task.DecodeTimeout), "%v", context.Cause(ctx))
	e.Done(false)
}

// LO-427: strict pools, pools that are not loaded or not there, and what would change the engine are refused, with what to do.
func TestUpstreamRefuses(t *testing.T) {
	_, p := wide(t)
	_, single := engineOf(t)
	model := filepath.Join(t.TempDir(), "m.gguf")
	require.NoError(t, os.WriteFile(model, []byte("GGUF"), 0o600))
	o := operate(t, p, external("single", single),
		"  - {id: later, model: {id: later, ref: \"file:"+model+"\"}, device: cpu, lifecycle: on_demand, slots: 2, provisioning: {mode: binary, path: /bin/false}}\n",
		external("down", "http://127.0.0.1:1", ", slots: 2"))
	o.readies("wide")
	o.readies("single")
	u := o.upstream()
	for _, c := range []struct {
		pool, method, path string
		code               task.Code
		says               string
	}{
		{"wid", "GET", "/props", task.NotFound, "did you mean wide?"},
		{"single", "GET", "/props", task.PolicyDenied, "pool 'single': its engine has one slot, so its tasks are strict"},
		{"single", "POST", "/completion", task.PolicyDenied, "start the engine with two slots or more"},
		{"later", "GET", "/props", task.PoolUnready, "`llama-orch pool load later` does"},
		{"down", "GET", "/props", task.PoolUnready, "down"},
		{"wide", "POST", "/props", task.PolicyDenied, "POST /props is not passed through"},
		{"wide", "POST", "/slots/0", task.PolicyDenied, "not passed through"},
		{"wide", "POST", "/lora-adapters", task.PolicyDenied, "not passed through"},
		{"wide", "POST", "/models/unload", task.PolicyDenied, "not passed through"},
		{"wide", "GET", "/cors-proxy", task.PolicyDenied, "not passed through"},
		{"wide", "POST", "/tools", task.PolicyDenied, "not passed through"},
	} {
		_, err := u.Reach(c.pool, c.method, c.path)
		require.True(t, task.HasCode(err, c.code), "%s %s: %v", c.pool, c.path, err)
		require.ErrorContains(t, err, c.says)
	}
	_, err := u.serving(config.Pool{ID: "own", Provisioning: config.Provisioning{Mode: config.ModeBuiltin}})
	require.True(t, task.HasCode(err, task.PolicyDenied), "%v", err)
	require.ErrorContains(t, err, "the built-in worker has one always")
	for _, path := range []string{"/", "/props", "/slots", "/metrics", "/lora-adapters", "/models"} {
		e, err := u.Reach("wide", http.MethodGet, path)
		require.NoError(t, err, path)
		e.Done(true)
	}
	require.Zero(t, o.pools.Infos("wide")[0].Active)
}
