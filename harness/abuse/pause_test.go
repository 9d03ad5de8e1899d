// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

const (
	patience = 4 * time.Second // that the pools of these tests have with an engine
	stopped  = 6 * time.Second // for so long the daemon is stopped
)

// haiku is the bundled model.
func haiku(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	return path
}

// The daemon is stopped for longer than it waits for an engine, and goes on. No task fails of that, no engine is given up, and no client
// loses its answer.
// LO-836
func TestADaemonThatWasStopped(t *testing.T) {
	t.Parallel()
	exe := built(t)
	for name, tokens := range map[string]int{"before the first token": 0, "between two tokens": 2} {
		t.Run(name, func(t *testing.T) {
			engine := fakeengine.New(fakeengine.Options{})
			fake := httptest.NewServer(engine)
			t.Cleanup(fake.Close)
			d, _ := serveWith(t, exe, fmt.Sprintf(`
  - {id: only, model: {id: m, ref: x}, sampler_profile: v1, timeouts: {wall: %s, prefill: %[1]s, idle: %[1]s}, provisioning: {mode: external, urls: ["%s"]}}
`, patience, fake.URL), nil)
			require.NoError(t, d.Answers(t.Context(), "/readyz"))
			before := engine.State().TokensSent
			engine.SetScript(fakeengine.Script{Stepped: true})
			admitted, err := d.Client.Submit(t.Context(), task(tokens+2))
			require.NoError(t, err)
			engine.Release(tokens)
			_, err = engine.Wait(t.Context(), func(s fakeengine.State) bool { return s.Busy == 1 && s.TokensSent == before+tokens })
			require.NoError(t, err)
			require.NoError(t, d.Signal(syscall.SIGSTOP))
			time.Sleep(stopped) // this is what the test is about
			require.NoError(t, d.Signal(syscall.SIGCONT))
			engine.Release(2)
			s, err := d.Client.Open(t.Context(), admitted.TaskID)
			require.NoError(t, err)
			require.NoError(t, s.Rest())
			require.NotNil(t, s.End, "%+v", s.Fail)
			require.Len(t, s.Tokens, tokens+2)
		})
	}
	t.Run("together with its worker", func(t *testing.T) {
		libs, err := provision.LocateEngineLibs()
		require.NoError(t, err)
		d, _ := serveWith(t, exe, fmt.Sprintf(`
  - {id: only, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, pace: 10, sampler_profile: v1, timeouts: {wall: 1m, prefill: %s, idle: %[2]s}, provisioning: {mode: builtin}}
`, haiku(t), patience), map[string]string{provision.EnvEngineLibs: libs})
		_, err = d.Idle(t.Context(), "only")
		require.NoError(t, err)
		workers := d.Workers()
		require.Len(t, workers, 1)
		admitted, err := d.Client.Submit(t.Context(), task(20))
		require.NoError(t, err)
		s, err := d.Client.Open(t.Context(), admitted.TaskID)
		require.NoError(t, err)
		for len(s.Tokens) < 2 {
			_, err := s.Next()
			require.NoError(t, err)
		}
		both := []int{d.Pid(), workers[0].Pid}
		for _, pid := range both {
			require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		}
		time.Sleep(stopped) // this is what the test is about
		for _, pid := range both {
			require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
		}
		require.NoError(t, s.Rest())
		require.NotNil(t, s.End, "%+v", s.Fail)
		require.Equal(t, workers, d.Workers())
	})
}

// How long an engine takes for a prompt, what it says meanwhile, and what becomes of the task.
// LO-836
func TestALongPrompt(t *testing.T) {
	t.Parallel()
	engine := fakeengine.New(fakeengine.Options{Ctx: 4096})
	fake := httptest.NewServer(engine)
	t.Cleanup(fake.Close)
	d, _ := serveWith(t, built(t), fmt.Sprintf(`
  - {id: only, model: {id: m, ref: x}, sampler_profile: v1, timeouts: {wall: 1m, prefill: 2s, idle: 500ms}, provisioning: {mode: external, urls: ["%s"]}}
`, fake.URL), nil)
	require.NoError(t, d.Answers(t.Context(), "/readyz"))
	for _, sent := range []struct {
		name   string
		words  int
		script fakeengine.Script
		says   string // the error; empty: there is none
	}{
		{"it reports progress for longer than the bound", 1000, fakeengine.Script{Progress: 9, IntervalMS: 300, Tokens: 1}, ""},
		{"it takes longer than the bound for a token, but not for the first", 3, fakeengine.Script{Progress: 1, IntervalMS: 1000, Tokens: 1}, ""},
		{"it reports progress, and then nothing", 1000, fakeengine.Script{Progress: 2, IntervalMS: 10, Fault: fakeengine.Stall}, "told of no progress with the prompt, for 2s"},
		{"it says nothing", 3, fakeengine.Script{Fault: fakeengine.Stall}, "told of no progress with the prompt, for 2s"},
		{"it begins, and then says nothing", 1000, fakeengine.Script{Progress: 2, IntervalMS: 10, Fault: fakeengine.Stall, After: 1}, "sent no token for 500ms"},
	} {
		engine.SetScript(sent.script)
		admitted, err := d.Client.Submit(t.Context(), fmt.Appendf(nil, `{"model_ref":"m","workload":"completion","prompt":%q,"max_tokens":4,"seed":1}`, strings.Repeat("a ", sent.words)))
		require.NoError(t, err, sent.name)
		s, err := d.Client.Open(t.Context(), admitted.TaskID)
		require.NoError(t, err, sent.name)
		require.NoError(t, s.Rest(), sent.name)
		if sent.says == "" {
			require.NotNil(t, s.End, "%s: %+v", sent.name, s.Fail)
			continue
		}
		require.NotNil(t, s.Fail, sent.name)
		require.Equal(t, "DECODE_TIMEOUT", s.Fail.Code, sent.name)
		require.True(t, s.Fail.Retriable, sent.name)
		require.Contains(t, s.Fail.Message, sent.says, sent.name)
	}
}
