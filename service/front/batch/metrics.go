// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llama-orch/llama-orch/service/task"
)

// metrics are the batches' part of the metrics contract (ORCH-3028).
type metrics struct {
	ended *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, open func() task.LineCounts) (*metrics, error) {
	m := &metrics{ended: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "llorch_batch_lines_ended_total", Help: "Lines of batches whose end the feeder saw.",
	}, []string{"front", "outcome"})}
	if err := errors.Join(r.Register(m.ended), r.Register(openCollector(open))); err != nil {
		return nil, fmt.Errorf("register the metrics of batches: %w", err)
	}
	return m, nil
}

// openCollector counts the lines that have not ended, at each scrape.
type openCollector func() task.LineCounts

var openLinesDesc = prometheus.NewDesc("llorch_batch_lines", "Lines of batches that have not ended: in the ledger, or as tasks.", []string{"state"}, nil)

// Describe implements prometheus.Collector.
func (openCollector) Describe(to chan<- *prometheus.Desc) { to <- openLinesDesc }

// Collect implements prometheus.Collector.
func (c openCollector) Collect(to chan<- prometheus.Metric) {
	counts := c()
	to <- prometheus.MustNewConstMetric(openLinesDesc, prometheus.GaugeValue, float64(counts.Waiting), string(task.LineWaits))
	to <- prometheus.MustNewConstMetric(openLinesDesc, prometheus.GaugeValue, float64(counts.Fed), string(task.LineFed))
}
