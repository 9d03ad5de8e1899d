// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the package's series. `kv_cache_usage_ratio` is not among them: the engines' API does not tell it.
type metrics struct {
	states   *prometheus.GaugeVec
	restarts *prometheus.CounterVec
	models   *prometheus.GaugeVec
}

func newMetrics(to prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		states: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "llorch_replica_state", Help: "1 for the state the replica is in, 0 for the others.",
		}, []string{"pool_id", "replica_id", "state"}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "llorch_worker_restarts_total",
			Help: "Times a replica lost its worker, or could not start one, and tried again.",
		}, []string{"pool_id", "replica_id", "reason"}),
		models: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "model_state", Help: "1 for the state of the model's life cycle, 0 for the other.",
		}, []string{"model_id", "state"}),
	}
	if to == nil {
		return m, nil
	}
	if err := errors.Join(to.Register(m.states), to.Register(m.restarts), to.Register(m.models)); err != nil {
		return nil, fmt.Errorf("register the pools' metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) state(poolID, replicaID string, now State) {
	for _, s := range States() {
		value := 0.0
		if s == now {
			value = 1
		}
		m.states.WithLabelValues(poolID, replicaID, string(s)).Set(value)
	}
}

// model shows a configured model, which is active: the catalog's life cycle begins with it.
func (m *metrics) model(id string) {
	m.models.WithLabelValues(id, "Active").Set(1)
	m.models.WithLabelValues(id, "Retired").Set(0)
}
