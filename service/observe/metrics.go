// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
)

// The label names of the metrics contract (ORCH-3028, `.specs/metrics/otel-prom.md`).
const (
	LabelEngine        = "engine"
	LabelEngineVersion = "engine_version"
	LabelPoolID        = "pool_id"
	LabelReplicaID     = "replica_id"
	LabelPriority      = "priority"
	LabelReason        = "reason"
	LabelPolicy        = "policy"
	LabelOutcome       = "outcome"
	LabelPinned        = "pinned"
	LabelFallback      = "fallback"
	LabelDeterminism   = "determinism"
	LabelClient        = "client"
	LabelDirection     = "direction"
	LabelDevice        = "device"
)

// ClientServer is the client of tasks that nobody has submitted.
const ClientServer = "server"

// PoolLabels are the labels of a series by pool and priority: queue_depth and the latency histograms.
func PoolLabels() []string {
	return []string{LabelEngine, LabelEngineVersion, LabelPoolID, LabelPriority}
}

// ReplicaLabels are the labels of a series by replica: the token counters and kv_cache_usage_ratio. Some series have more labels behind
// them: tasks_started_total has priority, tasks_canceled_total has reason, vram_used_bytes has device.
func ReplicaLabels(more ...string) []string {
	return slices.Concat([]string{LabelEngine, LabelEngineVersion, LabelPoolID, LabelReplicaID}, more)
}

// FirstTokenBuckets are the buckets of latency_first_token_ms, in milliseconds. They reach up to ten minutes: an agent's prompt takes long, and a queue longer.
func FirstTokenBuckets() []float64 {
	return []float64{50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 10000, 20000, 30000, 60000, 120000, 300000, 600000}
}

// DecodeBuckets are the buckets of latency_decode_ms, in milliseconds.
func DecodeBuckets() []float64 {
	return []float64{250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000, 20000, 30000, 60000, 120000, 300000, 600000}
}

// Registry is a registry whose collectors may panic: it calls them from goroutines of its own. What such a collector has not said by then is
// missing from what is shown (LO-803).
type Registry struct {
	*prometheus.Registry
	log *zap.Logger
}

// NewRegistry makes the registry that /metrics shows. It has the collectors of the Go runtime and of the process.
func NewRegistry(log *zap.Logger) *Registry {
	r := &Registry{prometheus.NewRegistry(), log}
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Register is prometheus.Registerer's.
func (r *Registry) Register(c prometheus.Collector) error {
	return r.Registry.Register(contained{c, r.log})
}

// MustRegister is prometheus.Registerer's.
func (r *Registry) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		r.Registry.MustRegister(contained{c, r.log})
	}
}

type contained struct {
	prometheus.Collector
	log *zap.Logger
}

func (c contained) Collect(to chan<- prometheus.Metric) {
	_ = contain.Do(c.log, "the reading of metrics panicked: some of them are missing", func() { c.Collector.Collect(to) }) // the others are shown
}

// BuildInfo registers llorch_build_info. It is always 1, and its labels say which build is running.
func BuildInfo(r prometheus.Registerer, version, commit, goVersion string) error {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "llorch_build_info",
		Help:        "Always 1; the labels name the build of orchestratord that is running.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit, "go_version": goVersion},
	})
	g.Set(1)
	return r.Register(g)
}
