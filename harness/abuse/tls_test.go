// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/cert"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// A daemon that speaks TLS: the command line runs a task on it, a stream comes token by token and its connection carries the next request, links are https, and a stop is clean.
// LO-640
func TestADaemonThatSpeaksTLS(t *testing.T) {
	t.Parallel()
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	exe := built(t)
	require.NoError(t, process.Build(t.Context(), "../..", filepath.Dir(exe)+"/", "./cmd/llama-orch"))
	dir := t.TempDir()
	certFile, _, err := cert.Write(dir, "box")
	require.NoError(t, err)
	model, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
tls: {cert: cert.pem, key: key.pem}
auth: {optional_on_loopback: true}
pools:
  - {id: only, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, pace: 40, provisioning: {mode: builtin}}
`, model), 0o600))
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	env := map[string]string{provision.EnvEngineLibs: libs}
	d, err := daemon.Start(t.Context(), l, daemon.Options{Config: config, Options: process.Options{Exe: exe, Args: []string{"--no-self-test"}, Env: process.Env(dir, env)}})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	url := strings.Replace(d.URL, "http:", "https:", 1)
	run := func(args ...string) (string, int) {
		p, err := l.Start(process.Options{Name: "llama-orch", Exe: filepath.Join(filepath.Dir(exe), "llama-orch"), Args: args, Env: append(process.Env(t.TempDir(), nil), "LLORCH_ADDR="+url)})
		require.NoError(t, err)
		code, err := p.Exit()
		require.NoError(t, err)
		return p.Output(), code
	}
	text, err := os.ReadFile(certFile)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(text))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	d.Client.Close()
	for ready := false; !ready; {
		answer, err := client.Get(url + "/readyz")
		require.NoError(t, err)
		ready = answer.StatusCode == http.StatusOK
		require.NoError(t, answer.Body.Close())
		require.False(t, d.Ended())
	}

	said, code := run("--ca", certFile, "run", "--model", "m", "--seed", "7", "--max-tokens", "12", "Write a haiku about snow.")
	require.Zero(t, code, said)
	require.NotEmpty(t, said)
	_, code = run("pools")
	require.Equal(t, 3, code, "its certificate is nobody's that the system knows")

	post := func(path, body string) *http.Response {
		answer, err := client.Post(url+path, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		return answer
	}
	for range 2 { // both on one connection
		stream := post("/v1/chat/completions", `{"model":"m","stream":true,"max_tokens":12,"messages":[{"role":"user","content":"Write a haiku."}]}`)
		require.Equal(t, http.StatusOK, stream.StatusCode)
		events := 0
		for lines := bufio.NewScanner(stream.Body); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "data: ") {
				events++
			}
		}
		require.Greater(t, events, 5)
		require.NoError(t, stream.Body.Close())
	}
	stored := post("/v1/artifacts", `{"kind":"plan","content":"a plan"}`)
	body, err := io.ReadAll(stored.Body)
	require.NoError(t, err)
	require.NoError(t, stored.Body.Close())
	require.Contains(t, string(body), `"url":"https://`)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.pem"), []byte("no key"), 0o600))
	out, err := l.Start(process.Options{Name: "check", Exe: exe, Args: []string{"check", "--config", config}, Env: process.Env(dir, env)})
	require.NoError(t, err)
	code, err = out.Exit()
	require.NoError(t, err)
	require.Equal(t, 2, code)
	require.Contains(t, out.Output(), "cannot be used together")
	code, err = d.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
}
