// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-613: a wait counts once, however often a task is started. Each end counts for who submitted the task, and for the server itself if nobody did.
func TestWaitsAndClientsAreCounted(t *testing.T) {
	r := prometheus.NewRegistry()
	m := NewMetrics(r)
	one := task.Task{PoolID: "p", Request: task.Request{Priority: task.Interactive, Actor: "localhost"}}
	m.dispatched(one, Replica{}, 700*time.Millisecond, 1)
	m.dispatched(one, Replica{}, 9*time.Second, 2)
	m.finished(task.Record{Task: one, State: task.Completed, End: &task.End{TokensIn: 7, TokensOut: 3}}, "", time.Time{}, "")
	m.finished(task.Record{Task: task.Task{PoolID: "p"}, State: task.Failed, Err: task.Errorf(task.Internal, "x")}, "", time.Time{}, "")
	require.NoError(t, testutil.GatherAndCompare(r, strings.NewReader(`
# HELP llorch_client_tasks_total Tasks by who submitted them and by outcome (LO-613).
# TYPE llorch_client_tasks_total counter
llorch_client_tasks_total{client="localhost",outcome="completed"} 1
llorch_client_tasks_total{client="server",outcome="failed"} 1
`), "llorch_client_tasks_total"))
	require.InDelta(t, 7, testutil.ToFloat64(m.clientTokens.WithLabelValues("localhost", "in")), 0)
	require.InDelta(t, 3, testutil.ToFloat64(m.clientTokens.WithLabelValues("localhost", "out")), 0)
	families, err := r.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "llorch_queue_wait_ms" {
			h := f.GetMetric()[0].GetHistogram()
			require.EqualValues(t, 1, h.GetSampleCount())
			require.InDelta(t, 700, h.GetSampleSum(), 0)
			require.InDelta(t, 600_000, h.GetBucket()[len(h.GetBucket())-1].GetUpperBound(), 0, "ten minutes")
			return
		}
	}
	require.Fail(t, "no wait")
}
