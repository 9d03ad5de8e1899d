// SPDX-License-Identifier: GPL-3.0-or-later

package observe_test

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/observe"
)

// sentences makes a core that only collects the `human` fields.
func sentences(to *[]string) func(zapcore.Core) zapcore.Core {
	return func(zapcore.Core) zapcore.Core { return &collector{to: to} }
}

type collector struct{ to *[]string }

func (c *collector) Enabled(zapcore.Level) bool        { return true }
func (c *collector) With([]zapcore.Field) zapcore.Core { return c }
func (c *collector) Sync() error                       { return nil }
func (c *collector) Write(_ zapcore.Entry, fields []zapcore.Field) error {
	for _, f := range fields {
		if f.Key == "human" {
			*c.to = append(*c.to, f.String)
		}
	}
	return nil
}

func (c *collector) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}

// ORCH-3028
func TestRegistryHasRuntimeAndBuildInfo(t *testing.T) {
	r := observe.NewRegistry(zap.NewNop())
	require.NoError(t, observe.BuildInfo(r, "0.1.0", "abc", "go1.26"))
	require.Error(t, observe.BuildInfo(r, "0.1.0", "abc", "go1.26"), "twice is a mistake in the wiring")
	n, err := testutil.GatherAndCount(r, "llorch_build_info", "go_goroutines", "process_start_time_seconds")
	require.NoError(t, err)
	require.Equal(t, 3, n)
}

// ORCH-3028, LO-413
func TestContractsBucketsAndLabels(t *testing.T) {
	require.True(t, slices.IsSorted(observe.FirstTokenBuckets()))
	require.Len(t, observe.FirstTokenBuckets(), 19)
	require.True(t, slices.IsSorted(observe.DecodeBuckets()))
	require.Len(t, observe.DecodeBuckets(), 16)
	for _, all := range [][]float64{observe.FirstTokenBuckets(), observe.DecodeBuckets()} {
		require.InDelta(t, 600_000, all[len(all)-1], 0, "ten minutes")
	}
	require.Equal(t, []string{"engine", "engine_version", "pool_id", "priority"}, observe.PoolLabels())
	require.Equal(t, []string{"engine", "engine_version", "pool_id", "replica_id", "reason"}, observe.ReplicaLabels(observe.LabelReason))
}

// LO-803: a collector that panics keeps no other from being shown.
func TestACollectorThatPanics(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	r := observe.NewRegistry(zap.New(core))
	wrong := prometheus.NewGauge(prometheus.GaugeOpts{Name: "wrong"})
	r.MustRegister(stumbling{wrong})
	require.NoError(t, r.Register(prometheus.NewGauge(prometheus.GaugeOpts{Name: "right"})))
	n, err := testutil.GatherAndCount(r, "wrong", "right")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, 1, logs.FilterMessageSnippet("the reading of metrics panicked").Len())
	require.True(t, r.Unregister(wrong), "it is known as itself")
}

type stumbling struct{ prometheus.Collector }

func (stumbling) Collect(chan<- prometheus.Metric) { panic("index out of range") }
