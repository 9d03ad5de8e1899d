// SPDX-License-Identifier: GPL-3.0-or-later

package session

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the series of sessions.
type Metrics struct {
	registerer prometheus.Registerer
	turns      *prometheus.CounterVec
}

// NewMetrics registers the series of sessions.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{registerer: r, turns: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "llorch_session_turns_total", Help: "Turns that were done, by whether the engine took part of the prompt from the session's KV.",
	}, []string{"kv"})}
	r.MustRegister(m.turns)
	for _, kv := range []string{"warm", "cold"} {
		m.turns.WithLabelValues(kv) // shown as 0 from the start
	}
	return m
}

// watch registers the gauge that counts the sessions when it is read.
func (m *Metrics) watch(of *Manager) {
	m.registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "llorch_sessions", Help: "Sessions that are kept."}, of.count))
}

func (m *Metrics) turn(warm bool) {
	kv := "cold"
	if warm {
		kv = "warm"
	}
	m.turns.WithLabelValues(kv).Inc()
}
