// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/process"
)

// metered is an engine that tells its load.
type metered struct {
	engine.Engine
	load engine.Load
	err  error
}

func (m *metered) Load(context.Context) (engine.Load, error) { return m.load, m.err }

// LO-454: what is not ours is told from what is, and what is not told any more is not known.
func TestAnEnginesLoadIsShownAsItTellsIt(t *testing.T) {
	m := &metered{load: engine.Load{Running: 5, Waiting: 2, KV: 0.5}}
	w := &worker{engine: m}
	w.active.Store(3)
	w.meter(t.Context())
	require.Equal(t, &Load{Load: m.load, Others: 4}, w.load.Load())
	w.active.Store(9)
	w.meter(t.Context())
	require.Zero(t, w.load.Load().Others, "it has not noticed them all yet")
	w.active.Store(0)
	w.proc = &process.Process{}
	w.meter(t.Context())
	require.Zero(t, w.load.Load().Others, "nobody else uses a worker of ours: what it still counts is a task that has just ended")
	m.err = errors.New("no metrics")
	w.meter(t.Context())
	require.Nil(t, w.load.Load())

	w = &worker{engine: &struct{ engine.Engine }{}}
	w.meter(t.Context())
	require.Nil(t, w.load.Load())
}

// shownLoad is a collector of one replica's load.
type shownLoad struct{ Info }

func (shownLoad) Describe(to chan<- *prometheus.Desc)   { states{}.Describe(to) }
func (s shownLoad) Collect(to chan<- prometheus.Metric) { loads(s.Info, to) }

// LO-454
func TestTheLoadHasItsSeries(t *testing.T) {
	i := Info{ID: "p-0", PoolID: "p", Engine: "vllm", EngineVersion: "vllm 1"}
	require.Zero(t, testutil.CollectAndCount(shownLoad{i}))
	i.Load = &Load{Load: engine.Load{Running: 5, Waiting: 2}}
	require.NoError(t, testutil.CollectAndCompare(shownLoad{i}, strings.NewReader(`
# HELP llorch_engine_requests_running Requests that the replica's engine computes, as it tells with each health check.
# TYPE llorch_engine_requests_running gauge
llorch_engine_requests_running{engine="vllm",engine_version="vllm 1",pool_id="p",replica_id="p-0"} 5
# HELP llorch_engine_requests_waiting Requests that wait in the replica's engine, as it tells with each health check.
# TYPE llorch_engine_requests_waiting gauge
llorch_engine_requests_waiting{engine="vllm",engine_version="vllm 1",pool_id="p",replica_id="p-0"} 2
`)))
	i.Load.Prefix, i.Load.PrefixQueries, i.Load.PrefixHits = true, 100, 60
	require.Equal(t, 4, testutil.CollectAndCount(shownLoad{i}))
}
