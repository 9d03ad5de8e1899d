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
	"go.uber.org/zap"

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

// ORCH-3049: one task decoded, one cancelled, and metrics and log seen, of each pool; one that fails says why.
func TestSelfTest(t *testing.T) {
	good := httptest.NewServer(fakeengine.New(fakeengine.Options{}))
	t.Cleanup(good.Close)
	var out lockedBuffer
	log, err := observe.NewLogger(observe.Options{Out: &out})
	require.NoError(t, err)
	c, err := config.Parse("c.yaml", []byte(`
bind_addr: 127.0.0.1:0
data_dir: `+t.TempDir()+`
auth: {optional_on_loopback: true}
pools:
  - {id: good, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["`+good.URL+`"]}}
  - {id: down, model: {id: n, ref: y}, provisioning: {mode: external, urls: ["http://127.0.0.1:1"]}}
`), func(string) string { return "" })
	require.NoError(t, err)
	var shown lockedBuffer
	a, err := New(Options{Config: c, Log: log, SelfTest: true, Out: &shown})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		require.NoError(t, a.Stop(ctx))
	})
	require.Eventually(t, func() bool { return a.selfTest.result("good").State != "pending" }, time.Minute, 5*time.Millisecond)
	r := a.selfTest.result("good")
	require.Equal(t, "passed", r.State, r.Detail)
	require.Regexp(t, `^\d+ tokens decoded in \d+ ms, one cancelled at event \d+-[0-9a-f]{8}; metrics and log followed$`, r.Detail)
	require.Equal(t, "pending", a.selfTest.result("down").State)
	require.Empty(t, shown.String(), "a pool has no result yet")
	a.selfTest.show()
	table := strings.Split(shown.String(), "\n")
	require.Len(t, table, 6, "an empty line before and one behind")
	require.Regexp(t, `^SELF-TEST  MODEL  PRELOAD  DECODE   CANCEL   METRICS  LOG      RESULT$`, table[1])
	require.Regexp(t, `^good       m      passed   passed   passed   passed   passed   passed: \d+ tokens decoded`, table[2])
	require.Regexp(t, `^down       n      pending  pending  pending  pending  pending  pending: the pool is not Ready yet: .*127\.0\.0\.1:1`, table[3])
	require.Empty(t, table[4])
	require.Contains(t, out.String(), `"msg":"self-test passed"`)
	require.Contains(t, out.String(), `"actor":"self-test"`)
	require.NotContains(t, out.String(), selfTestPrompt+`"`)
}

// ORCH-3049: what does not follow is a failure.
func TestSelfTestMissesLines(t *testing.T) {
	e, log := newEar(zap.NewExample())
	say := func(line, actor string) { log.Info(line, zap.String("job_id", "a"), zap.String("actor", actor)) }
	require.Equal(t, "admission", e.missing([]string{"a"}))
	for _, line := range []string{"admission", "placement"} {
		say(line, selfTestActor)
	}
	say("stream_start", "localhost")
	require.Equal(t, "stream_start", e.missing([]string{"a"}))
	say("stream_start", selfTestActor)
	require.Equal(t, "stream_end", e.missing([]string{"a"}))
	say("cancel", selfTestActor)
	require.Empty(t, e.missing([]string{"a"}))
	require.Equal(t, "admission", e.missing([]string{"a", "b"}))
}

// ORCH-3049: the table comes by itself once every pool has its result, and the steps behind one that fails are skipped.
func TestSelfTestTableComesByItself(t *testing.T) {
	fake := fakeengine.New(fakeengine.Options{})
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	c, err := config.Parse("c.yaml", []byte(`
bind_addr: 127.0.0.1:0
data_dir: `+t.TempDir()+`
auth: {optional_on_loopback: true}
pools:
  - {id: only, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["`+server.URL+`"]}}
`), func(string) string { return "" })
	require.NoError(t, err)
	var shown lockedBuffer
	a, err := New(Options{Config: c, Log: zap.NewNop(), SelfTest: true, Out: &shown})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	require.Eventually(t, func() bool { return strings.HasSuffix(shown.String(), "\n\n") }, time.Minute, 5*time.Millisecond)
	require.Contains(t, shown.String(), "only       m      passed")
	require.Equal(t, 1, strings.Count(shown.String(), "SELF-TEST"))

	p, _ := a.operator.setup.pool("only")
	require.NoError(t, a.schedule.Stop(t.Context()))
	v, err := a.selfTest.examine(t.Context(), p)
	require.Error(t, err)
	require.Equal(t, "failed", v.State)
	var states []string
	for _, s := range v.Steps {
		states = append(states, s.State)
	}
	require.Equal(t, []string{"passed", "failed", "skipped", "skipped", "skipped"}, states)
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	require.NoError(t, a.Stop(ctx))
}
