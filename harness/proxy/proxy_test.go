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

// settings is a file of deploy/proxy with the places of this test, each of which it must have once.
func settings(t *testing.T, file string, places map[string]string) string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/proxy/" + file)
	require.NoError(t, err)
	conf := string(text)
	for from, to := range places {
		require.Equal(t, 1, strings.Count(conf, from), from)
		conf = strings.Replace(conf, from, to, 1)
	}
	return conf
}

// serve starts a daemon with one slow pool, whose line has one place.
func serve(t *testing.T, dir string) *daemon.Daemon {
	t.Helper()
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
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
	return d
}

// start runs a proxy until it takes connections. At the end of the test it has to stop as it should.
func start(t *testing.T, o process.Options, at string) {
	t.Helper()
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	server, err := l.Start(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		code, err := server.Stop(syscall.SIGTERM)
		require.NoError(t, err)
		require.Zero(t, code)
	})
	ctx, stop := context.WithTimeout(t.Context(), watch.Patience)
	defer stop()
	require.NoError(t, watch.Poll(ctx, o.Name, func() error {
		if server.Ended() {
			return watch.Never(fmt.Errorf("it ended: %s", server.Tail(5)))
		}
		c, err := net.Dial("tcp", at)
		if err == nil {
			err = c.Close()
		}
		return err
	}))
}

// reach is a daemon through the proxy at an address, whose certificate a file has.
func reach(t *testing.T, at, certFile string, http2 bool) *through {
	t.Helper()
	trust, err := os.ReadFile(certFile)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(trust))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: http2}
	t.Cleanup(transport.CloseIdleConnections)
	return &through{url: "https://" + at, token: "sesame", client: &http.Client{Transport: transport}}
}

// through is a daemon behind a proxy.
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

// behave holds a daemon behind a proxy to what it is without one: streams come as they are written, signs of life too; they resume, refusals are what the daemon said, links are https, and the token
// is needed.
func behave(t *testing.T, d *daemon.Daemon, p *through) {
	t.Helper()
	_, err := d.Idle(t.Context(), "slow")
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
	require.Equal(t, http.StatusCreated, answer.StatusCode, "the proxy takes bodies as large as the daemon does")
	line := `{"custom_id":"ID","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("x", 1<<20) + `"}]}}` + "\n"
	file := "--part\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--part\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n" +
		strings.Repeat(line, 12) + "\r\n--part--\r\n"
	upload := p.ask(t, http.MethodPost, "/v1/files", file, "Content-Type", "multipart/form-data; boundary=part")
	said, err := io.ReadAll(upload.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, upload.StatusCode, "files are larger than other bodies: %s", said)
	p.token = ""
	answer, _ = p.text(t, http.MethodGet, "/v1/pools", "")
	require.Contains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, answer.StatusCode, "what a proxy forwards is no local call")
}

// The configuration of deploy/proxy, as it is there, in a real nginx.
//
// LO-641, LO-824
func TestADaemonBehindNginx(t *testing.T) {
	nginx, err := proxy.Nginx.Find("nginx")
	require.NoError(t, err)
	dir := t.TempDir()
	d := serve(t, dir)
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
`, user, dir, settings(t, "nginx.conf", map[string]string{
		"listen 443 ssl;": "listen " + at + " ssl;", "/etc/nginx/llm.pem": certFile, "/etc/nginx/llm.key": keyFile, "http://127.0.0.1:8080": d.URL, "llm.example.org": "localhost",
	})), 0o600))
	start(t, process.Options{Name: "nginx", Exe: nginx, Args: []string{"-p", dir, "-e", "stderr", "-c", conf}, Env: process.Env(dir, nil)}, at)
	behave(t, d, reach(t, at, certFile, false))
}

// The configuration of deploy/proxy in a real Caddy, which makes its certificate itself: here by its own authority, since no other knows a name of this machine. Clients speak HTTP/2 to it.
//
// LO-641, LO-824
func TestADaemonBehindCaddy(t *testing.T) {
	caddy, err := proxy.Caddy.Find("caddy")
	require.NoError(t, err)
	dir := t.TempDir()
	d := serve(t, dir)
	_, port, err := net.SplitHostPort(free(t))
	require.NoError(t, err)
	at := "localhost:" + port
	conf := filepath.Join(dir, "Caddyfile")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, "{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n\tstorage file_system %s/storage\n\tdefault_bind 127.0.0.1\n}\n%s", dir,
		settings(t, "Caddyfile", map[string]string{"llm.example.org {": at + " {", "127.0.0.1:8080": strings.TrimPrefix(d.URL, "http://")})), 0o600))
	start(t, process.Options{Name: "caddy", Exe: caddy, Args: []string{"run", "--config", conf, "--adapter", "caddyfile"}, Env: process.Env(dir, nil)}, "127.0.0.1:"+port)
	p := reach(t, at, filepath.Join(dir, "storage", "pki", "authorities", "local", "root.crt"), true)
	behave(t, d, p)
	require.Equal(t, 2, p.ask(t, http.MethodGet, "/healthz", "").ProtoMajor)
}
