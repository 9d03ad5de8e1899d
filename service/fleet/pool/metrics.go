// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llama-orch/llama-orch/service/observe"
)

// metrics are the package's series. `kv_cache_usage_ratio` is not among them: the sessions know how full the KV of a replica is.
type metrics struct {
	restarts *prometheus.CounterVec
}

var (
	stateDesc = prometheus.NewDesc("llorch_replica_state", "1 for the state the replica is in, 0 for the others.",
		[]string{"pool_id", "replica_id", "state"}, nil)
	runningDesc = prometheus.NewDesc("llorch_engine_requests_running", "Requests that the replica's engine computes, as it tells with each health check.", observe.ReplicaLabels(), nil)
	waitingDesc = prometheus.NewDesc("llorch_engine_requests_waiting", "Requests that wait in the replica's engine, as it tells with each health check.", observe.ReplicaLabels(), nil)
	queriesDesc = prometheus.NewDesc("llorch_engine_prefix_cache_queries_total", "Tokens that the replica's engine has looked up in its prefix cache.", observe.ReplicaLabels(), nil)
	hitsDesc    = prometheus.NewDesc("llorch_engine_prefix_cache_hits_total", "Tokens that the replica's engine has found in its prefix cache.", observe.ReplicaLabels(), nil)
	infoDesc    = prometheus.NewDesc("llorch_pool_info", "Always 1; the labels say which model and engine a pool has (LO-613).", []string{"pool_id", "model_id", "engine"}, nil)
	modelDesc   = prometheus.NewDesc("model_state", "1 for the state of the model's life cycle, 0 for the other.",
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
	to <- infoDesc
	to <- modelDesc
	for _, d := range []*prometheus.Desc{runningDesc, waitingDesc, queriesDesc, hitsDesc} {
		to <- d
	}
}

// stateSeries are a replica's series of states, with 0 and with 1. They are made once, since a scrape of many pools would mostly make these.
type stateSeries struct {
	once sync.Once
	of   map[State][2]prometheus.Metric
}

func (s *stateSeries) collect(poolID, replicaID string, is State, to chan<- prometheus.Metric) {
	s.once.Do(func() {
		s.of = map[State][2]prometheus.Metric{}
		for _, state := range States() {
			var both [2]prometheus.Metric
			for value := range both {
				both[value] = prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, float64(value), poolID, replicaID, string(state))
			}
			s.of[state] = both
		}
	})
	for state, both := range s.of {
		if state == is {
			to <- both[1]
		} else {
			to <- both[0]
		}
	}
}

// loads tell how busy a replica's engine is, as far as it tells (LO-454).
func loads(r Info, to chan<- prometheus.Metric) {
	if r.Load == nil {
		return
	}
	tell := func(d *prometheus.Desc, kind prometheus.ValueType, value float64) {
		to <- prometheus.MustNewConstMetric(d, kind, value, r.Engine, r.EngineVersion, r.PoolID, r.ID)
	}
	tell(runningDesc, prometheus.GaugeValue, float64(r.Load.Running))
	tell(waitingDesc, prometheus.GaugeValue, float64(r.Load.Waiting))
	if r.Load.Prefix {
		tell(queriesDesc, prometheus.CounterValue, r.Load.PrefixQueries)
		tell(hitsDesc, prometheus.CounterValue, r.Load.PrefixHits)
	}
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
		gauge(infoDesc, true, id, g.spec.ModelID, g.spec.Engine)
		for _, r := range g.replicas {
			info := r.info()
			loads(info, to)
			r.states.collect(id, r.id, info.State, to)
		}
		if model := g.spec.ModelID; !models[model] { // a model that the catalog does not have is active
			models[model] = true
			retired := s.m.opts.Models.Retired(g.spec.ModelRef)
			gauge(modelDesc, !retired, model, "Active")
			gauge(modelDesc, retired, model, "Retired")
		}
	}
}
