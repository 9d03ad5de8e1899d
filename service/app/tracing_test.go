// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/harness/collector"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/service/config"
)

// A chat of a client with a trace: the collector hears of all parts of its way in that trace, the engine hears of the trace, and the latencies have it as an exemplar.
//
// LO-628, LO-629, LO-630
func TestATaskIsTraced(t *testing.T) {
	spans := collector.New()
	at := httptest.NewServer(spans)
	t.Cleanup(at.Close)
	var mu sync.Mutex
	var heard []string
	engine := fakeengine.New(fakeengine.Options{})
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			mu.Lock()
			heard = append(heard, r.Header.Get("Traceparent"))
			mu.Unlock()
		}
		engine.ServeHTTP(w, r)
	}))
	t.Cleanup(fake.Close)
	c, err := config.Parse("c.yaml", []byte(`
bind_addr: 127.0.0.1:0
data_dir: `+t.TempDir()+`
auth: {optional_on_loopback: true}
tracing: {endpoint: "`+at.URL+`"}
pools:
  - {id: only, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["`+fake.URL+`"]}}
`), func(string) string { return "" })
	require.NoError(t, err)
	a, err := New(Options{Config: c, Log: zap.NewNop()})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			stop(t, a)
		}
	})
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	require.Eventually(t, func() bool {
		answer, err := client.Get("http://" + a.Addr() + "/readyz")
		return err == nil && answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
	}, time.Minute, 5*time.Millisecond)

	ask, err := http.NewRequest(http.MethodPost, "http://"+a.Addr()+"/v1/completions", strings.NewReader(`{"model":"m","prompt":"p","max_tokens":4,"stream":true}`))
	require.NoError(t, err)
	ask.Header.Set("Content-Type", "application/json")
	ask.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	answer, err := client.Do(ask)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode)
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
	}
	require.NoError(t, answer.Body.Close())

	scrape, err := http.NewRequest(http.MethodGet, "http://"+a.Addr()+"/metrics", http.NoBody)
	require.NoError(t, err)
	scrape.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	answer, err = client.Do(scrape)
	require.NoError(t, err)
	exemplars := 0
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if strings.Contains(lines.Text(), `# {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"}`) {
			exemplars++
		}
	}
	require.NoError(t, answer.Body.Close())
	require.Equal(t, 2, exemplars, "one of each latency")

	stop(t, a) // which sends what is left
	stopped = true
	mu.Lock()
	require.NotEmpty(t, heard)
	last := heard[len(heard)-1]
	mu.Unlock()
	names := map[string]int{}
	var whole string
	for _, s := range spans.Spans() {
		require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", s.Trace)
		names[s.Name]++
		if s.Name == "task" {
			whole = s.ID
			require.Equal(t, "00f067aa0ba902b7", s.Parent)
		}
	}
	require.Equal(t, map[string]int{"task": 1, "admission": 1, "queue": 1, "prefill": 1, "decode": 1, "delivery": 1}, names)
	require.Equal(t, "00-4bf92f3577b34da6a3ce929d0e0e4736-"+whole+"-01", last, "the engine hears of the task's span")
}
