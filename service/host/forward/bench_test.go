// SPDX-License-Identifier: GPL-3.0-or-later

package forward

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// BenchmarkPassedOnToken is a token on its way through another daemon, beside one through a plain reverse proxy. The sender flushes each.
func BenchmarkPassedOnToken(b *testing.B) {
	const tokens = 1000
	frame := event(1, "token")
	sender := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		control := http.NewResponseController(w)
		for range tokens {
			_, _ = io.WriteString(w, frame)
			_ = control.Flush()
		}
		_, _ = io.WriteString(w, event(2, "end"))
	}))
	defer sender.Close()
	to, err := url.Parse(sender.URL)
	require.NoError(b, err)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	f := New(Options{
		Self: "a", Name: "attic", Hosts: &rig{hosts: []task.Host{{ID: "a", Up: true}, {ID: "b", Up: true, Address: sender.URL}}}, PoolOf: func(string) (string, bool) { return "", false },
		Holder: func(context.Context, string) (string, error) { return "b", nil }, Transport: transport, Within: time.Minute, Lease: time.Minute, Patience: time.Minute, Log: zap.NewNop(),
	})
	for _, way := range []struct {
		name    string
		handler http.Handler
	}{
		{"proxy", &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to) }}},
		{"forward", f.Before(here{})},
	} {
		b.Run(way.name, func(b *testing.B) {
			server := httptest.NewServer(way.handler)
			defer server.Close()
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			b.ReportAllocs()
			for b.Loop() {
				res, err := client.Get(server.URL + "/v1/tasks/x/stream")
				require.NoError(b, err)
				text, err := io.ReadAll(res.Body)
				require.NoError(b, err)
				require.NoError(b, res.Body.Close())
				require.Equal(b, tokens+1, strings.Count(string(text), "id: "))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/tokens, "ns/token")
		})
	}
}
