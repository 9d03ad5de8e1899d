// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// LO-613: an answer counts once, when it begins, under the operation that took the request. A path that a client makes up is no label.
func TestAnswersAreCounted(t *testing.T) {
	var g *Gate
	begun := 0.0
	front := &dialect{name: "native", serve: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			w.WriteHeader(http.StatusAccepted)
			begun = testutil.ToFloat64(g.responses.WithLabelValues("none", "202"))
		}
		w.WriteHeader(http.StatusTeapot) // too late, or the first
	}}
	registry := prometheus.NewRegistry()
	g = newGate(t, map[string]Front{"/": front}, func(o *Options) { o.Registerer = registry })
	for _, path := range []string{"/stream", "/made-up/1", "/made-up/2"} {
		ask(g, http.MethodGet, path, "")
	}
	require.InDelta(t, 1, begun, 0, "the stream still goes on")
	require.InDelta(t, 1, testutil.ToFloat64(g.responses.WithLabelValues("none", "202")), 0)
	require.InDelta(t, 2, testutil.ToFloat64(g.responses.WithLabelValues("none", "418")), 0)
	n, err := testutil.GatherAndCount(registry, "llorch_http_responses_total")
	require.NoError(t, err)
	require.Equal(t, 2, n)
	_, err = New(Options{Auth: g.o.Auth, Fronts: g.o.Fronts, Registerer: registry})
	require.ErrorContains(t, err, "duplicate", "twice is a mistake in the wiring")
}
