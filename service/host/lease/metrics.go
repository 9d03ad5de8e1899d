// SPDX-License-Identifier: GPL-3.0-or-later

package lease

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/llama-orch/llama-orch/service/task"
)

// Metrics are the series of the daemons that share a record (LO-722). Without a Keeper they are those of one that is alone.
type Metrics struct {
	hosts     *prometheus.GaugeVec
	takeovers prometheus.Counter
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		hosts: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "llorch_hosts", Help: "Daemons that share this one's record, with this one, by whether they are up or gone."}, []string{"state"}),
		takeovers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "llorch_takeovers_total", Help: "Queues of pools that this daemon took from one that was gone.",
		}),
	}
	r.MustRegister(m.hosts, m.takeovers)
	m.saw([]task.Host{{Up: true}})
	return m
}

// saw counts the daemons.
func (m *Metrics) saw(all []task.Host) {
	up := 0
	for _, h := range all {
		if h.Up {
			up++
		}
	}
	m.hosts.WithLabelValues("up").Set(float64(up))
	m.hosts.WithLabelValues("gone").Set(float64(len(all) - up))
}
