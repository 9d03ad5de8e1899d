// SPDX-License-Identifier: GPL-3.0-or-later

// Package meter has a ledger's part of the metrics contract.
package meter

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are a ledger's (ORCH-3028).
type Metrics struct {
	Commits  prometheus.Counter
	Ops      *prometheus.CounterVec
	commitMS prometheus.Histogram
	batch    prometheus.Histogram
	Errors   prometheus.Counter
	bytes    prometheus.GaugeFunc
}

// New registers a ledger's metrics. Bytes is what it takes on the disk.
func New(r prometheus.Registerer, bytes func() float64) (*Metrics, error) {
	m := &Metrics{
		Commits: prometheus.NewCounter(prometheus.CounterOpts{Name: "llorch_ledger_commits_total", Help: "Commits of the ledger."}),
		Ops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "llorch_ledger_ops_total", Help: "Operations that the ledger committed, by what they did.",
		}, []string{"op"}),
		commitMS: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "llorch_ledger_commit_ms", Help: "Milliseconds that a commit of the ledger took.",
			Buckets: []float64{0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000},
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "llorch_ledger_batch_size", Help: "Operations that shared one commit of the ledger.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512},
		}),
		Errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "llorch_ledger_errors_total", Help: "Operations that the ledger could not write.",
		}),
		bytes: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "llorch_ledger_bytes", Help: "Bytes that the ledger takes on the disk, with its log of writes.",
		}, bytes),
	}
	var failed error
	for _, c := range m.all() {
		failed = errors.Join(failed, r.Register(c))
	}
	if failed != nil {
		return nil, fmt.Errorf("register the ledger's metrics: %w", failed)
	}
	return m, nil
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.Commits, m.Ops, m.commitMS, m.batch, m.Errors, m.bytes}
}

// Unregister takes them off the registry, so that the ledger can be opened again in this process.
func (m *Metrics) Unregister(r prometheus.Registerer) {
	for _, c := range m.all() {
		r.Unregister(c)
	}
}

// Committed counts a commit of so many operations.
func (m *Metrics) Committed(ops int, took time.Duration) {
	m.Commits.Inc()
	m.commitMS.Observe(float64(took) / float64(time.Millisecond))
	m.batch.Observe(float64(ops))
}
