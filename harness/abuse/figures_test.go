// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/tape"
	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/sdk"
)

// serveOn starts a daemon with one external engine.
func serveOn(t *testing.T, exe string, engine *fakeengine.Engine) (*daemon.Daemon, *sdk.Client) {
	t.Helper()
	fake := httptest.NewServer(engine)
	t.Cleanup(fake.Close)
	return serveWith(t, exe, fmt.Sprintf(`
  - {id: only, model: {id: m, ref: x}, sampler_profile: v1, provisioning: {mode: external, urls: ["%s"]}}
`, fake.URL), nil)
}

// serveWith starts a daemon with these pools. Its answers are read by the product's own client, which refuses what breaks the contract.
func serveWith(t *testing.T, exe, pools string, env map[string]string, args ...string) (*daemon.Daemon, *sdk.Client) {
	t.Helper()
	return serveIn(t, t.TempDir(), exe, pools, env, args...)
}

// serveIn does that in a folder, with its data in `state`.
func serveIn(t *testing.T, dir, exe, pools string, env map[string]string, args ...string) (*daemon.Daemon, *sdk.Client) {
	t.Helper()
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, []byte(`
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
sampler_profiles: {v1: {temperature: 0.8}}
pools:`+pools), 0o600))
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	d, err := daemon.Start(t.Context(), l, daemon.Options{Config: config, Options: process.Options{Exe: exe, Args: append([]string{"--no-self-test"}, args...), Env: process.Env(dir, env)}})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	c, err := sdk.New(sdk.Options{Addr: d.URL, HTTPClient: &http.Client{Transport: tape.Transport(&http.Transport{})}})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return d, c
}

// readable asks for the lists that a person looks at, and requires that they keep the contract.
func readable(t *testing.T, c *sdk.Client) {
	t.Helper()
	_, err := c.Pools(t.Context())
	require.NoError(t, err)
	_, err = c.PoolHealth(t.Context(), "only")
	require.NoError(t, err)
	_, err = c.Capabilities(t.Context())
	require.NoError(t, err)
	_, err = c.List(t.Context(), "", 50)
	require.NoError(t, err)
}

// What an engine says in the last frame of a run, and what then becomes of the run: it fails, and the next one does not.
// LO-801
func TestAnEnginesFiguresAreNotBelieved(t *testing.T) {
	exe := built(t)
	engine := fakeengine.New(fakeengine.Options{})
	d, c := serveOn(t, exe, engine)
	require.NoError(t, d.Answers(t.Context(), "/readyz"))
	outcome := func() string {
		admitted, err := d.Client.Submit(t.Context(), []byte(`{"model_ref":"m","workload":"completion","prompt":"a b c","max_tokens":4,"seed":1}`))
		require.NoError(t, err)
		s, err := d.Client.Open(t.Context(), admitted.TaskID)
		require.NoError(t, err)
		require.NoError(t, s.Rest())
		if s.Fail != nil {
			return s.Fail.Code
		}
		return "end"
	}
	for _, sent := range []struct {
		name   string
		figure float64
	}{
		{"tokens_evaluated", -1},
		{"tokens_evaluated", 1e12},
		{"tokens_evaluated", 1e30},
		{"tokens_predicted", -1},
		{"tokens_cached", -1},
		{"id_slot", 1e9},
		{"cache_n", -1},
		{"predicted_ms", -2},
		{"predicted_ms", 1e30},
		{"prompt_ms", -1},
	} {
		engine.SetScript(fakeengine.Script{Figures: map[string]float64{sent.name: sent.figure}})
		require.Equal(t, "WORKER_RESET", outcome(), "%s %v", sent.name, sent.figure)
		require.Contains(t, d.Output(), sent.name, "the log says why")
		engine.SetScript(fakeengine.Script{})
		require.Equal(t, "end", outcome(), "%s %v", sent.name, sent.figure)
		readable(t, c)
	}
}

// What an engine says of itself. It does not get ready, its pool can be looked at, and the reason is there.
// LO-801
func TestAnEngineThatCannotBe(t *testing.T) {
	exe := built(t)
	for says, engine := range map[string]fakeengine.Options{
		"n_ctx":       {Ctx: 1e12},
		"total_slots": {Slots: 1e6},
	} {
		d, c := serveOn(t, exe, fakeengine.New(engine))
		require.NoError(t, watch.Poll(t.Context(), "the reason", func() error {
			health, err := c.PoolHealth(t.Context(), "only")
			if err != nil {
				return watch.Never(err)
			}
			if r := health.Replicas[0]; !strings.Contains(r.LastError, says) {
				return fmt.Errorf("replica is %s: %s", r.State, r.LastError)
			}
			return nil
		}))
		readable(t, c)
		require.NoError(t, d.Answers(t.Context(), "/healthz"))
	}
}
