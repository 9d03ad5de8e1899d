// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// A pool whose queue stands still has a Ready replica, and yet neither its health nor the readiness of the whole may say that
// all is well.
// LO-601
func TestAQueueThatStandsStillShowsInHealthAndReadiness(t *testing.T) {
	fake := fakeengine.New(fakeengine.Options{})
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	var s *scheduler.Scheduler
	pools, err := pool.New(pool.Options{
		Specs:  []pool.Spec{{ID: "default", Engine: "llamacpp", ModelID: "m", Mode: pool.External, URLs: []string{server.URL}}},
		Kinds:  EngineKinds(),
		RunDir: filepath.Join(t.TempDir(), "run"), Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
		OnChange: func(id string) { s.Wake(id) },
	})
	require.NoError(t, err)
	book, err := sqlite.Open(sqlite.Options{Path: filepath.Join(t.TempDir(), sqlite.FileName)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, book.Close()) })
	f := NewFleet(NewSetup(config.Config{Pools: []config.Pool{{ID: "default", Engine: "llamacpp"}}}), pools, NewCards(zap.NewNop(), config.Energy{}), nil, time.Now)
	registry := prometheus.NewRegistry()
	s = scheduler.New(scheduler.Options{
		Pools:    []scheduler.Pool{{ID: "default", Engine: "llamacpp", Capacity: 4, Policy: queue.Reject, Wall: time.Hour, Idle: time.Hour}},
		Replicas: replicas{f}, Ledger: book, Narrator: observe.NewNarrator(zap.NewNop()), Metrics: scheduler.NewMetrics(registry),
		Log: zap.NewNop(), Now: time.Now, StuckAfter: 40 * time.Millisecond,
	})
	require.NoError(t, pools.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, pools.Stop(context.Background())) })
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, s.Stop(t.Context())) }) // its context has ended, so nothing is waited for
	v := views{f, s, book, nil, Hosts{}}
	soon := func(what func() bool) { require.Eventually(t, what, time.Minute, time.Millisecond) }
	soon(func() bool { return v.Ready(t.Context()) == nil })
	require.Empty(t, v.Pools()[0].LastError)

	fake.SetScript(fakeengine.Script{Stepped: true, Tokens: 1})
	for _, id := range []string{"hangs", "waits"} {
		_, err := s.Enqueue(t.Context(), task.Task{
			ID: id, PoolID: "default", Engine: "llamacpp", Prompt: "p", AcceptedAt: time.Now(), Determinism: task.Strict,
			Request: task.Request{ID: id, Priority: task.Interactive, Workload: task.Completion, MaxTokens: 1},
		})
		require.NoError(t, err)
	}
	soon(func() bool { return s.Stuck("default") })
	require.True(t, task.HasCode(v.Ready(t.Context()), task.PoolUnready), "%v", v.Ready(t.Context()))
	health, err := v.Health("default")
	require.NoError(t, err)
	require.Contains(t, health.Pool.LastError, "stands still")

	fake.Release(2)
	soon(func() bool { return v.Ready(t.Context()) == nil })
	require.Empty(t, v.Pools()[0].LastError)
}
