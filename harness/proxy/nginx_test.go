// SPDX-License-Identifier: GPL-3.0-or-later

package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/cert"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/proxy"
	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// free is a port that nobody has.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// settings is deploy/proxy/nginx.conf with the places of this test, each of which it must have.
func settings(t *testing.T, places map[string]string) string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/proxy/nginx.conf")
	require.NoError(t, err)
	conf := string(text)
	for from, to := range places {
		require.Equal(t, 1, strings.Count(conf, from), from)
		conf = strings.Replace(conf, from, to, 1)
	}
	return conf
}

// through is a daemon behind nginx.
type through struct {
	url, token string
	client     *http.Client
}

func (p *through) ask(t *testing.T, method, path, body string, fields ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
	require.NoError(t, err)
	if p.token != "" {
		r.Header.Set("Authorization", "Bearer "+p.token)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	answer, err := p.client.Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

func (p *through) text(t *testing.T, method, path, body string) (*http.Response, string) {
	t.Helper()
	answer := p.ask(t, method, path, body)
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer, string(text)
}

// next reads lines of a stream up to one that begins so, and returns it.
func next(t *testing.T, lines *bufio.Scanner, prefix string) string {
	t.Helper()
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), prefix) {
			return lines.Text()
		}
	}
	require.NoError(t, lines.Err())
	t.Fatalf("the stream ended before a line with %q", prefix)
	return ""
}

// The configuration of deploy/proxy, as it is there, in a real nginx: streams come as they are written, signs of life too; they resume, refusals are what the daemon said, links are https, and the token
// is needed.
// LO-641, LO-824
func TestADaemonBehindNginx(t *testing.T) {
	nginx, err := proxy.Nginx.Find("nginx")
	require.NoError(t, err)
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	dir := t.TempDir()
	lab, err := daemon.NewLab(t.Context(), dir, "../..")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	model, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
pools:
  - {id: slow, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, pace: 1.2, queue: {capacity: 1}, provisioning: {mode: builtin}}
`, model), 0o600))
	d, err := lab.Serve(t.Context(), daemon.Options{Config: config, Token: "sesame", Options: process.Options{
		Args: []string{"--no-self-test"}, Env: lab.Env(dir, map[string]string{provision.EnvEngineLibs: libs, "LLORCH_API_TOKEN": "sesame"}),
	}})
	require.NoError(t, err)
	t.Cleanup(d.Kill)

	certFile, keyFile, err := cert.Write(dir, "llm")
	require.NoError(t, err)
	at := free(t)
	user := ""
	if os.Geteuid() == 0 { // its workers may read this folder
		user = "user root;"
	}
	conf := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, `
daemon off; %[1]s worker_processes 1; pid %[2]s/nginx.pid; error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi; uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
%[3]s
}
`, user, dir, settings(t, map[string]string{
		"listen 443 ssl;": "listen " + at + " ssl;", "/etc/nginx/llm.pem": certFile, "/etc/nginx/llm.key": keyFile, "http://127.0.0.1:8080": d.URL, "llm.example.org": "localhost",
	})), 0o600))
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	server, err := l.Start(process.Options{Name: "nginx", Exe: nginx, Args: []string{"-p", dir, "-e", "stderr", "-c", conf}, Env: process.Env(dir, nil)})
	require.NoError(t, err)
	t.Cleanup(server.Kill)
	trust, err := os.ReadFile(certFile)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(trust))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	p := &through{url: "https://" + at, token: "sesame", client: &http.Client{Transport: transport}}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	require.NoError(t, watch.Poll(ctx, "nginx", func() error {
		if server.Ended() {
			return watch.Never(fmt.Errorf("nginx ended: %s", server.Tail(5)))
		}
		c, err := net.Dial("tcp", at)
		if err == nil {
			err = c.Close()
		}
		return err
	}))
	_, err = d.Idle(t.Context(), "slow")
	require.NoError(t, err)

	submit := func(id string) (*http.Response, string) {
		return p.text(t, http.MethodPost, "/v1/tasks", fmt.Sprintf(`{"task_id":%q,"model_ref":"m","prompt":"A haiku about \"seven\".\n\n","max_tokens":24,"seed":7}`, id))
	}
	answer, _ := submit("runs")
	require.Equal(t, http.StatusAccepted, answer.StatusCode)
	stream := p.ask(t, http.MethodGet, "/v1/tasks/runs/stream", "")
	lines := bufio.NewScanner(stream.Body)
	next(t, lines, "event: token")
	_, text := p.text(t, http.MethodGet, "/v1/tasks/runs", "")
	require.Contains(t, text, `"state":"running"`, "its first token came before its end")

	answer, _ = submit("waits")
	require.Equal(t, http.StatusAccepted, answer.StatusCode)
	waiting := bufio.NewScanner(p.ask(t, http.MethodGet, "/v1/tasks/waits/stream", "").Body)
	answer, text = submit("refused")
	require.Equal(t, http.StatusTooManyRequests, answer.StatusCode)
	require.NotEmpty(t, answer.Header.Get("Retry-After"))
	require.NotEmpty(t, answer.Header.Get("X-Correlation-Id"))
	var envelope struct{ Code string }
	require.NoError(t, json.Unmarshal([]byte(text), &envelope), text)
	require.NotEmpty(t, envelope.Code)

	next(t, waiting, ":") // a sign of life, while it waits
	last := strings.TrimPrefix(next(t, lines, "id: "), "id: ")
	require.NoError(t, stream.Body.Close())
	again := bufio.NewScanner(p.ask(t, http.MethodGet, "/v1/tasks/runs/stream", "", "Last-Event-ID", last).Body)
	require.NotEqual(t, last, strings.TrimPrefix(next(t, again, "id: "), "id: "), "it goes on behind that")
	next(t, again, "event: end")
	next(t, waiting, "event: token")
	answer, _ = p.text(t, http.MethodPost, "/v1/tasks/waits/cancel", "")
	require.Equal(t, http.StatusOK, answer.StatusCode)
	next(t, waiting, "event: error")

	answer, text = p.text(t, http.MethodPost, "/v1/artifacts", `{"kind":"plan","content":"a plan"}`)
	require.Equal(t, http.StatusCreated, answer.StatusCode, text)
	require.Contains(t, text, `"url":"`+p.url+"/v1/artifacts/")
	answer, _ = p.text(t, http.MethodPost, "/v1/artifacts", `{"kind":"plan","content":"`+strings.Repeat("x", 2<<20)+`"}`)
	require.Equal(t, http.StatusCreated, answer.StatusCode, "nginx takes bodies as large as the daemon does")
	p.token = ""
	answer, _ = p.text(t, http.MethodGet, "/v1/pools", "")
	require.Contains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, answer.StatusCode, "what a proxy forwards is no local call")
	code, err := server.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
}
