// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llama-orch/llama-orch/service/task"
)

// Metrics counts refusals (ORCH-3028).
type Metrics struct {
	refusals *prometheus.CounterVec
}

// NewMetrics registers admission's series.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tasks_rejected_total",
		Help: "Tasks refused at admission; reason is the error code in lower case.",
	}, []string{"engine", "reason"})}
	r.MustRegister(m.refusals)
	return m
}

func (m *Metrics) rejected(e *task.Error) {
	engine := e.Engine
	if engine == "" {
		engine = "none" // it was refused before a pool was chosen
	}
	m.refusals.WithLabelValues(engine, strings.ToLower(string(e.Code))).Inc()
}
