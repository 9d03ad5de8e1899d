// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is an orchestrator with one pool, whose engine nobody runs.
func small(t *testing.T, dir, addr string) *App {
	c, err := config.Parse("c.yaml", []byte(`
bind_addr: `+addr+`
data_dir: `+dir+`
auth: {optional_on_loopback: true}
pools:
  - {id: down, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["http://127.0.0.1:1"]}}
`), func(string) string { return "" })
	require.NoError(t, err)
	a, err := New(Options{Config: c, Log: zap.NewNop(), SelfTest: true})
	require.NoError(t, err)
	return a
}

func stop(t *testing.T, a *App) {
	ctx, end := context.WithTimeout(context.Background(), 10*time.Second)
	defer end()
	require.NoError(t, a.Stop(ctx))
}

// Whatever comes first, and however often: only the first start counts, a stop before it makes it do nothing, and a stop gives the
// data folder back.
func TestStartsAndStopsInAnyOrder(t *testing.T) {
	dir := t.TempDir()
	a := small(t, dir, "127.0.0.1:0")
	stop(t, a)
	require.NoError(t, a.Start(t.Context()))
	require.Nil(t, a.listener, "it was over before it began")
	stop(t, a)

	a = small(t, dir, "127.0.0.1:0")
	for range 2 {
		require.NoError(t, a.Start(t.Context()))
	}
	answer, err := http.Get("http://" + a.Addr() + "/healthz")
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusOK, answer.StatusCode)
	http.DefaultClient.CloseIdleConnections()
	var stops sync.WaitGroup
	for range 3 {
		stops.Go(func() { stop(t, a) })
	}
	stops.Wait()
	stop(t, small(t, dir, "127.0.0.1:0"))
}

// A start that fails has given everything back when it returns, and so has New.
func TestWhatFailsGivesEverythingBack(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, taken.Close()) })
	dir := t.TempDir()
	a := small(t, dir, taken.Addr().String())
	require.ErrorContains(t, a.Start(t.Context()), "is taken by another program")
	other := small(t, dir, "127.0.0.1:0")
	_, err = New(Options{Config: other.o.Config, Log: zap.NewNop()})
	require.ErrorContains(t, err, "another orchestratord uses the data folder")
	stop(t, a)
	stop(t, other)
	stop(t, small(t, dir, "127.0.0.1:0"))
}

// LO-427: without a token nobody could be told apart from the page that a browser happens to show, so a server without one refuses to start.
func TestUpstreamNeedsAToken(t *testing.T) {
	for token, says := range map[string]string{"": "set LAB_TOKEN, or fronts.upstream to false", "a-token-of-the-lab": ""} {
		c, err := config.Parse("c.yaml", []byte(`
bind_addr: 127.0.0.1:0
data_dir: `+t.TempDir()+`
auth: {optional_on_loopback: true, token_env: LAB_TOKEN}
fronts: {upstream: true}
pools:
  - {id: down, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["http://127.0.0.1:1"]}}
`), func(name string) string { return map[string]string{"LAB_TOKEN": token}[name] })
		require.NoError(t, err)
		a, err := New(Options{Config: c, Log: zap.NewNop()})
		if says != "" {
			require.ErrorContains(t, err, says)
			continue
		}
		require.NoError(t, err)
		stop(t, a)
	}
}

// A stop does not wait longer than it is given for a start that hangs.
func TestAStopIsBounded(t *testing.T) {
	a := small(t, t.TempDir(), "127.0.0.1:0")
	give, err := a.take(t.Context())
	require.NoError(t, err)
	ctx, end := context.WithCancel(t.Context())
	end()
	require.ErrorIs(t, a.Stop(ctx), context.Canceled)
	give()
	stop(t, a)
}

// LO-613: what a scrape takes with as many pools as there may be, of two replicas each, and with more.
func BenchmarkMetrics(b *testing.B) {
	for _, n := range []int{32, 50} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var c config.Config
			for from := 0; from < n; from += 32 { // a file has 32 at most
				var text strings.Builder
				fmt.Fprintf(&text, "bind_addr: 127.0.0.1:0\ndata_dir: %s\nauth: {optional_on_loopback: true}\npools:\n", b.TempDir())
				for i := from; i < min(from+32, n); i++ {
					fmt.Fprintf(&text, "  - {id: p%d, model: {id: m%d, ref: x}, provisioning: {mode: external, urls: [\"http://127.0.0.1:%d\", \"http://127.0.0.1:%d\"]}}\n", i, i, 2*i+1, 2*i+2)
				}
				part, err := config.Parse("c.yaml", []byte(text.String()), func(string) string { return "" })
				require.NoError(b, err)
				pools := c.Pools
				c = part
				c.Pools = append(pools, part.Pools...)
			}
			a, err := New(Options{Config: c, Log: zap.NewNop()})
			require.NoError(b, err)
			defer func() { require.NoError(b, a.Stop(context.Background())) }()
			for b.Loop() {
				w := httptest.NewRecorder()
				r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
				r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1"
				a.gate.ServeHTTP(w, r)
				require.Equal(b, http.StatusOK, w.Code)
				require.Greater(b, strings.Count(w.Body.String(), "llorch_replica_state{"), 15*n)
			}
		})
	}
}
