// SPDX-License-Identifier: GPL-3.0-or-later

//go:build llamaserver

package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// LO-473: the model of a session is unloaded, and the turn behind that finds the session's KV again, on another process of a real llama-server. A strict turn has
// the answer that it would have had without.
func TestATurnBehindAnUnloadFindsItsKV(t *testing.T) {
	server, err := provision.LocateLlamaServer()
	require.NoError(t, err)
	model, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `bind_addr: 127.0.0.1:0
data_dir: data
auth: {optional_on_loopback: true}
sessions: {kv_bytes: 100000000}
pools:
- {id: p, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, lifecycle: on_demand, provisioning: {mode: binary, path: %q}}
`, model, server), 0o600))
	c, err := config.Load(path, func(string) string { return "" })
	require.NoError(t, err)
	a, err := New(Options{Config: c, Log: zap.NewNop(), Env: func(string) string { return "" }})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		stop(t, a)
	})
	caller := client.New("http://"+a.Addr(), "")
	defer caller.Close()

	turn := func(session, determinism, prompt string) (text string, cached int) {
		t.Helper()
		body := map[string]any{"model_ref": "m", "prompt": prompt, "seed": 7, "max_tokens": 20, "determinism": determinism}
		if session != "" {
			body["session_id"] = session
		}
		raw, err := json.Marshal(body)
		require.NoError(t, err)
		admitted, err := caller.Submit(t.Context(), raw)
		require.NoError(t, err)
		stream, err := caller.Open(t.Context(), admitted.TaskID)
		require.NoError(t, err)
		defer stream.Close()
		require.NoError(t, stream.Rest())
		require.NotNil(t, stream.Log.End, "%+v", stream.Log)
		return stream.Log.Text(), stream.Log.End.Receipt.TokensCached
	}
	unload := func() {
		t.Helper()
		_, err := caller.Post(t.Context(), "/v1/pools/p/unload", nil, http.StatusAccepted)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return a.pools.Infos("p")[0].State == pool.Stopped }, time.Minute, 10*time.Millisecond)
	}
	files := func() int {
		all, err := os.ReadDir(filepath.Join(dir, "data", "kv"))
		require.NoError(t, err)
		return len(all)
	}
	begin := "Write a haiku about rain containing \"seven\".\n\n"
	for determinism, session := range map[string]string{"strict": uuid.NewString(), "best_effort": uuid.NewString()} {
		first, _ := turn(session, determinism, begin+begin)
		next := begin + begin + first + "\n\n" + begin
		unload()
		require.Equal(t, 1, files())
		text, cached := turn(session, determinism, next)
		require.Positive(t, cached, determinism)
		require.Zero(t, files(), "what was restored is in the slot")
		unload()
		require.Equal(t, 1, files())
		gone, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://"+a.Addr()+"/v1/sessions/"+session, http.NoBody)
		require.NoError(t, err)
		answer, err := http.DefaultClient.Do(gone)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Less(t, answer.StatusCode, 300)
		require.Zero(t, files(), "it goes with its session")
		if determinism == "strict" {
			cold, none := turn("", determinism, next)
			require.Zero(t, none)
			require.Equal(t, cold, text)
			unload()
		}
	}
}
