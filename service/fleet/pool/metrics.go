// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the package's series. `kv_cache_usage_ratio` is not among them: the sessions know how full the KV of a replica is.
type metrics struct {
	restarts *prometheus.CounterVec
}

var (
	stateDesc = prometheus.NewDesc("llorch_replica_state", "1 for the state the replica is in, 0 for the others.",
		[]string{"pool_id", "replica_id", "state"}, nil)
	modelDesc = prometheus.NewDesc("model_state", "1 for the state of the model's life cycle, 0 for the other.",
		[]string{"model_id", "state"}, nil)
)

func newMetrics(to prometheus.Registerer, of *Manager) (*metrics, error) {
	m := &metrics{
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "llorch_worker_restarts_total",
			Help: "Times a replica lost its worker, or could not start one, and tried again.",
		}, []string{"pool_id", "replica_id", "reason"}),
	}
	if to == nil {
		return m, nil
	}
	if err := errors.Join(to.Register(m.restarts), to.Register(states{of})); err != nil {
		return nil, fmt.Errorf("register the pools' metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) lost(r *replica, why reason) {
	m.restarts.WithLabelValues(r.spec.ID, r.id, string(why)).Inc()
}

// states reads the states at each scrape: replicas come and go with the configuration.
type states struct{ m *Manager }

func (s states) Describe(to chan<- *prometheus.Desc) {
	to <- stateDesc
	to <- modelDesc
}

func (s states) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, on bool, labels ...string) {
		value := 0.0
		if on {
			value = 1
		}
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	now, models := s.m.layout.Load(), map[string]bool{}
	if now == nil {
		return
	}
	for _, id := range now.ids {
		g := now.pools[id]
		for _, r := range g.replicas {
			is := r.info().State
			for _, state := range States() {
				gauge(stateDesc, state == is, id, r.id, string(state))
			}
		}
		if model := g.spec.ModelID; !models[model] { // a model that the catalog does not have is active
			models[model] = true
			retired := s.m.opts.Models.Retired(g.spec.ModelRef)
			gauge(modelDesc, !retired, model, "Active")
			gauge(modelDesc, retired, model, "Retired")
		}
	}
}
