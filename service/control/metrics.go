// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
)

// FolderMetrics are the gauges of the data folder's file system (LO-613). They are read when they are asked for.
func FolderMetrics(dir string) prometheus.Collector { return folderMetrics(dir) }

type folderMetrics string

var folderDesc = prometheus.NewDesc("llorch_data_folder_bytes", "The file system of the data folder: what is free, and what it has.", []string{"kind"}, nil)

// Describe implements prometheus.Collector.
func (folderMetrics) Describe(to chan<- *prometheus.Desc) { to <- folderDesc }

// Collect implements prometheus.Collector. It tells nothing where the file system does not.
func (dir folderMetrics) Collect(to chan<- prometheus.Metric) {
	free, size, err := fetch.Disk(string(dir))
	if err != nil {
		return
	}
	to <- prometheus.MustNewConstMetric(folderDesc, prometheus.GaugeValue, float64(free), "free")
	to <- prometheus.MustNewConstMetric(folderDesc, prometheus.GaugeValue, float64(size), "size")
}

// budgetMetrics tell how much of their budgets the API tokens have taken (LO-613).
type budgetMetrics struct{ *Sessions }

var budgetDesc = prometheus.NewDesc("llorch_budget_used_ratio", "Share of an API token's budget that is spent in this window, or reserved.",
	[]string{observe.LabelClient, "resource"}, nil)

// Describe implements prometheus.Collector.
func (budgetMetrics) Describe(to chan<- *prometheus.Desc) { to <- budgetDesc }

// Collect implements prometheus.Collector.
func (m budgetMetrics) Collect(to chan<- prometheus.Metric) {
	for client, used := range m.budgets.Used() {
		for resource, ratio := range used {
			to <- prometheus.MustNewConstMetric(budgetDesc, prometheus.GaugeValue, ratio, client, resource)
		}
	}
}

// reloads say when the configuration was last read, and what came of it (LO-613).
type reloads struct{ ok, at prometheus.Gauge }

// newReloads begins with the configuration of the start, which is in force.
func newReloads(r prometheus.Registerer, now time.Time) reloads {
	m := reloads{
		ok: prometheus.NewGauge(prometheus.GaugeOpts{Name: "llorch_config_last_reload_successful", Help: "1 if the configuration, when it was last read, came into force."}),
		at: prometheus.NewGauge(prometheus.GaugeOpts{Name: "llorch_config_last_reload_seconds", Help: "When the configuration was last read, in seconds since 1970."}),
	}
	if r != nil {
		r.MustRegister(m.ok, m.at)
	}
	m.read(nil, now)
	return m
}

func (m reloads) read(err error, now time.Time) {
	m.ok.Set(1)
	if err != nil {
		m.ok.Set(0)
	}
	m.at.Set(float64(now.UnixMilli()) / 1000)
}
