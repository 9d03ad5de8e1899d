// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// reason says why an artifact was removed.
type reason string

const (
	forAge   reason = "age"
	forBytes reason = "bytes"
	forOwner reason = "deleted" // with its task, or by who stored it
)

// storeMetrics are the store's part of the metrics contract (ORCH-3028).
type storeMetrics struct {
	artifacts, bytes prometheus.GaugeFunc
	stored           *prometheus.CounterVec
	removed          *prometheus.CounterVec
	damaged          prometheus.Counter
}

func newStoreMetrics(r prometheus.Registerer, artifacts, bytes func() float64) (*storeMetrics, error) {
	m := &storeMetrics{
		artifacts: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "llorch_artifacts", Help: "Artifacts that are stored."}, artifacts),
		bytes: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "llorch_artifact_bytes", Help: "Bytes that the artifacts take on the disk.",
		}, bytes),
		stored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "llorch_artifacts_stored_total", Help: "Artifacts that were stored, the same bytes again too.",
		}, []string{"kind"}),
		removed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "llorch_artifacts_removed_total", Help: "Artifacts that were removed: too old, or too many bytes.",
		}, []string{"reason"}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "llorch_artifacts_damaged_total", Help: "Artifacts that were found not to be what their id says.",
		}),
	}
	if err := register(r, m.all()); err != nil {
		return nil, fmt.Errorf("register the artifact store's metrics: %w", err)
	}
	return m, nil
}

func (m *storeMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.artifacts, m.bytes, m.stored, m.removed, m.damaged}
}

func register(r prometheus.Registerer, all []prometheus.Collector) (failed error) {
	for _, c := range all {
		failed = errors.Join(failed, r.Register(c))
	}
	return failed
}
