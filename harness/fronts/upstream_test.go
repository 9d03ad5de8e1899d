// SPDX-License-Identifier: GPL-3.0-or-later

package fronts_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// One pool has the scripted engine with two slots, and the other one the built-in worker.
const throughConfig = `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
fronts: {upstream: true}
pools:
  - {id: coder, model: {id: coder, ref: "file:%[1]s"}, device: cpu, ctx: 4096, slots: 2, provisioning: {mode: binary, path: %[2]q, args: ["--script", %[3]q]}}
  - {id: strict, model: {id: haiku, ref: "file:%[1]s"}, device: cpu}
`

const throughToken = "a-token-of-the-suite"

// What the engine's own clients send passes through a real daemon to a real process of an engine, beside tasks.
//
// LO-427
func TestUpstream(t *testing.T) {
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..", "./harness/scripted/cmd/scripted")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	script, file := filepath.Join(lab.Dir, "script.json"), filepath.Join(lab.Dir, "c.yaml")
	data, err := json.Marshal(scripted.Script{Rules: []scripted.Rule{
		{Match: "wait", Play: []scripted.Step{{Text: "one "}, {Wait: true}, {Text: "two"}}},
		{Play: []scripted.Step{{Text: "Frogs wait."}}},
	}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(script, data, 0o600))
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, throughConfig, lab.Model, lab.Program("scripted"), script), 0o600))
	without, err := lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, nil)}})
	require.Error(t, err, "without a token it does not start")
	require.Nil(t, without)
	d, err := lab.Serve(t.Context(), daemon.Options{Config: file, Token: throughToken, Options: process.Options{
		Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, map[string]string{"LLORCH_API_TOKEN": throughToken}),
	}})
	require.NoError(t, err)
	b := through{box{t, d}}
	for _, pool := range []string{"coder", "strict"} {
		_, err := d.Idle(t.Context(), pool)
		require.NoError(t, err)
	}
	t.Run("its own routes", b.routes)
	t.Run("a stream, with a slot", b.stream)
	t.Run("what is refused", b.refused)
}

type through struct{ box }

func (b through) ask(ctx context.Context, method, path, body, token string) *http.Response {
	b.Helper()
	r, err := http.NewRequestWithContext(ctx, method, b.d.URL+path, strings.NewReader(body))
	require.NoError(b, err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(b, err)
	b.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func (b through) read(res *http.Response) string {
	b.Helper()
	text, err := io.ReadAll(res.Body)
	require.NoError(b, err)
	return string(text)
}

func (b through) routes(t *testing.T) {
	res := b.ask(t.Context(), http.MethodGet, "/upstream/coder/props", "", throughToken)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "coder-0", res.Header.Get("X-Replica-Id"))
	require.Contains(t, b.read(res), `"model_path":"scripted.gguf"`)
	res = b.ask(t.Context(), http.MethodPost, "/upstream/coder/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}]}`, throughToken)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Contains(t, b.read(res), "Frogs wait.")
	res = b.ask(t.Context(), http.MethodGet, "/upstream/coder/nowhere", "", throughToken)
	require.Equal(t, http.StatusNotFound, res.StatusCode)
	require.Contains(t, b.read(res), "File Not Found", "the engine says so, not the server")
}

// A stream comes piece by piece and holds a slot; a third request finds none, and a task waits. The client that goes gives its slot back.
func (b through) stream(t *testing.T) {
	const waits = `{"stream":true,"messages":[{"role":"user","content":"wait"}]}`
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for range 2 {
		in := bufio.NewScanner(b.ask(ctx, http.MethodPost, "/upstream/coder/v1/chat/completions", waits, throughToken).Body)
		for in.Scan() && !strings.Contains(in.Text(), "one ") {
		}
		require.NoError(t, in.Err())
	}
	res := b.ask(t.Context(), http.MethodPost, "/upstream/coder/v1/chat/completions", waits, throughToken)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Regexp(t, `^([1-9]|[1-5][0-9]|60)$`, res.Header.Get("Retry-After"))
	require.Contains(t, b.read(res), "REPLICA_EXHAUSTED")
	_, err := b.d.Client.Submit(t.Context(), []byte(`{"task_id":"behind","model_ref":"coder","prompt":"hi"}`))
	require.NoError(t, err)
	state := func() string {
		var status struct{ State string }
		require.NoError(t, json.Unmarshal([]byte(b.read(b.ask(t.Context(), http.MethodGet, "/v1/tasks/behind", "", throughToken))), &status))
		return status.State
	}
	require.Equal(t, "queued", state(), "the slots are taken")
	leave()
	require.NoError(t, watch.Poll(t.Context(), "the task to run in a slot that was given back", func() error {
		if s := state(); s != "completed" {
			return errors.New("it is " + s)
		}
		return nil
	}))
	_, err = b.d.Idle(t.Context(), "coder")
	require.NoError(t, err)
}

func (b through) refused(t *testing.T) {
	for _, c := range []struct {
		method, path, token string
		status              int
		says                string
	}{
		{"GET", "/upstream/coder/props", "", 401, "MISSING_TOKEN"},
		{"GET", "/upstream/coder/props", "wrong", 401, "BAD_TOKEN"},
		{"GET", "/upstream/strict/props", throughToken, 403, "pool 'strict': its engine has one slot"},
		{"POST", "/upstream/strict/completion", throughToken, 403, "POLICY_DENIED"},
		{"POST", "/upstream/coder/slots/0?action=erase", throughToken, 403, "not passed through"},
		{"GET", "/upstream/codr/props", throughToken, 404, "did you mean coder?"},
	} {
		res := b.ask(t.Context(), c.method, c.path, "", c.token)
		require.Equal(t, c.status, res.StatusCode, c.path)
		require.Contains(t, b.read(res), c.says)
	}
}
