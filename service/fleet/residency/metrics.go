// SPDX-License-Identifier: GPL-3.0-or-later

package residency

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llama-orch/llama-orch/service/observe"
)

// Metrics are the residency's series of the metrics contract (ORCH-3028).
type Metrics struct {
	swaps  *prometheus.CounterVec
	lostMS *prometheus.CounterVec
}

// NewMetrics registers the residency's series.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		swaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "llorch_swaps_total", Help: "On-demand pools loaded and unloaded.",
		}, []string{observe.LabelPoolID, "direction"}),
		lostMS: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "llorch_swap_lost_ms_total", Help: "Milliseconds in which tasks waited for a model that was not in memory.",
		}, []string{observe.LabelPoolID}),
	}
	r.MustRegister(m.swaps, m.lostMS)
	return m
}

func (m *Metrics) loaded(poolID string)   { m.swaps.WithLabelValues(poolID, "in").Inc() }
func (m *Metrics) unloaded(poolID string) { m.swaps.WithLabelValues(poolID, "out").Inc() }

func (m *Metrics) lost(poolID string, d time.Duration) {
	m.lostMS.WithLabelValues(poolID).Add(float64(d) / float64(time.Millisecond))
}
