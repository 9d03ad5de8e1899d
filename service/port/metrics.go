// SPDX-License-Identifier: GPL-3.0-or-later

package port

import "github.com/prometheus/client_golang/prometheus"

// Metric says when the certificate in use expires, and 0 where there is none.
func (p *Pair) Metric() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "llorch_tls_not_after_seconds", Help: "When the certificate in use expires, in seconds since 1970. 0 without TLS.",
	}, func() float64 {
		if p == nil {
			return 0
		}
		return float64(p.Dates().To.Unix())
	})
}
