// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"cmp"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// newResponses registers the count of answers, of the metrics contract (ORCH-3028). Without a registerer nobody reads it.
func newResponses(r prometheus.Registerer) (*prometheus.CounterVec, error) {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "llorch_http_responses_total", Help: "Answers by the operation that took the request, and by HTTP status (LO-613).",
	}, []string{"route", "code"})
	if r == nil {
		return c, nil
	}
	return c, r.Register(c)
}

// answered counts an answer as it begins: a stream may go on for an hour. An operation's name comes from a front's own list, never from a client.
func (g *Gate) answered(route Route, status int) {
	g.responses.WithLabelValues(cmp.Or(route.Operation, "none"), strconv.Itoa(status)).Inc()
}
