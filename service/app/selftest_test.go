// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"bytes"
	"context"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/observe"
)

// lockedBuffer is a log that a test reads while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// The tasks of the self-test go the way of every task, to an engine, and the metrics and the log follow.
// ORCH-3049
func TestSelfTest(t *testing.T) {
	fake := httptest.NewServer(fakeengine.New(fakeengine.Options{}))
	t.Cleanup(fake.Close)
	var out, shown lockedBuffer
	log, err := observe.NewLogger(observe.Options{Out: &out})
	require.NoError(t, err)
	c, err := config.Parse("c.yaml", []byte(`
bind_addr: 127.0.0.1:0
data_dir: `+t.TempDir()+`
auth: {optional_on_loopback: true}
pools:
  - {id: only, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["`+fake.URL+`"]}}
`), func(string) string { return "" })
	require.NoError(t, err)
	a, err := New(Options{Config: c, Log: log, SelfTest: true, Out: &shown})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		require.NoError(t, a.Stop(ctx))
	})
	require.Eventually(t, func() bool { return strings.HasSuffix(shown.String(), "\n\n") }, time.Minute, 5*time.Millisecond)
	require.Contains(t, shown.String(), "only       m      passed")
	require.Contains(t, out.String(), `"msg":"self-test passed"`)
	require.Contains(t, out.String(), `"actor":"self-test"`)
	require.NotContains(t, out.String(), `Hello"`)
	r := a.selfTest.Result("only")
	require.Equal(t, "passed", r.State, r.Detail)
	require.Regexp(t, `^\d+ tokens decoded in \d+ ms, one canceled at event \d+-[0-9a-f]{8}; metrics and log followed$`, r.Detail)
}
