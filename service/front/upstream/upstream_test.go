// SPDX-License-Identifier: GPL-3.0-or-later

package upstream_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/upstream"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token = "the-token-of-the-server"
	key   = "the-key-of-the-engine"
	page  = "https://page.example"
)

// lab is a server with the front, and an engine behind it.
type lab struct {
	*testing.T

	url       string // of the server
	engine    *httptest.Server
	transport *http.Transport
	logs      *observer.ObservedLogs
	lost      context.Context
	lose      context.CancelCauseFunc
	base      string // of the engine's URL: its path

	mu     sync.Mutex
	asked  []string
	done   chan bool // what the requests ended with
	refuse error
}

// Reach implements upstream.Engines.
func (l *lab) Reach(pool, method, path string) (upstream.Engine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, pool+" "+method+" "+path)
	if l.refuse != nil {
		return upstream.Engine{}, l.refuse
	}
	at, err := url.Parse(l.engine.URL + l.base)
	return upstream.Engine{
		ReplicaID: "coder-0", URL: at, Key: key, Transport: l.transport,
		Bound: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, end := context.WithCancelCause(ctx)
			stop := context.AfterFunc(l.lost, func() { end(context.Cause(l.lost)) })
			return ctx, func() { stop(); end(nil) }
		},
		Done: func(whole bool) { l.done <- whole },
	}, err
}

func setup(t *testing.T, engine http.HandlerFunc) *lab {
	l := &lab{T: t, engine: httptest.NewServer(engine), transport: &http.Transport{DisableCompression: true}, done: make(chan bool, 100)}
	l.lost, l.lose = context.WithCancelCause(context.Background())
	core, logs := observer.New(zap.DebugLevel)
	l.logs = logs
	auth, err := gate.NewAuth(gate.AuthOptions{Token: token, OptionalOnLoopback: true, Origins: []string{page}})
	require.NoError(t, err)
	front := upstream.New(upstream.Options{Engines: l, Log: zap.New(core)})
	g, err := gate.New(gate.Options{Auth: auth, Fronts: map[string]gate.Front{"/": front, upstream.Prefix: front}, MaxBody: 1 << 10})
	require.NoError(t, err)
	server := httptest.NewServer(g)
	l.url = server.URL
	t.Cleanup(func() {
		l.lose(nil)
		http.DefaultClient.CloseIdleConnections()
		server.Close()
		l.transport.CloseIdleConnections()
		l.engine.Close()
	})
	return l
}

// ask sends a request with the token, and follows nothing.
func (l *lab) ask(ctx context.Context, method, target string, body io.Reader, header ...string) *http.Response {
	l.Helper()
	r, err := http.NewRequestWithContext(ctx, method, l.url+target, body)
	require.NoError(l, err)
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(l, err)
	l.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func (l *lab) read(res *http.Response) string {
	l.Helper()
	b, err := io.ReadAll(res.Body)
	require.NoError(l, err)
	return string(b)
}

func (l *lab) envelope(res *http.Response) (e task.Envelope) {
	l.Helper()
	require.NoError(l, json.Unmarshal([]byte(l.read(res)), &e))
	return e
}

// LO-427: paths, queries and bodies reach the engine as they were sent, and neither do the token nor anything else of who the caller is.
func TestARequestPassesThrough(t *testing.T) {
	var got *http.Request
	var body string
	l := setup(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		w.Header().Set("X-Engine", "yes")
		w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin")+"*")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set(gate.CorrelationHeader, "the-engines")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})
	l.base = "/base/"
	res := l.ask(t.Context(), http.MethodPost, "/upstream/coder/v1/a%2Fb/?q=1&w=%26", strings.NewReader(`{"a":1}`), "X-Api-Key", token, "Cookie", "session=1",
		"Origin", page, "Referer", page, "Connection", "Upgrade, X-Hop", "Upgrade", "websocket", "X-Hop", "1", "Sec-WebSocket-Key", "x", "Sec-Fetch-Site", "cross-site",
		"X-Forwarded-For", "10.0.0.1", "Content-Type", "application/json", "X-Custom", "kept", gate.CorrelationHeader, "mine")
	require.Equal(t, "short and stout", l.read(res))
	require.Equal(t, http.StatusTeapot, res.StatusCode)
	require.Equal(t, "/base/v1/a%2Fb/?q=1&w=%26", got.URL.RequestURI())
	require.Equal(t, `{"a":1}`, body)
	require.Equal(t, strings.TrimPrefix(l.engine.URL, "http://"), got.Host)
	require.Equal(t, []string{"Bearer " + key}, got.Header.Values("Authorization"))
	for _, name := range []string{
		"X-Api-Key", "Cookie", "Origin", "Referer", "Connection", "Upgrade", "X-Hop", "Sec-Websocket-Key", "Sec-Fetch-Site", "X-Forwarded-For",
		gate.CorrelationHeader,
	} {
		require.NotContains(t, got.Header, name)
	}
	for name, values := range got.Header {
		require.NotContains(t, strings.Join(values, ""), token, name)
	}
	require.Equal(t, "kept", got.Header.Get("X-Custom"))
	require.Equal(t, "yes", res.Header.Get("X-Engine"))
	require.Equal(t, []string{"mine"}, res.Header.Values(gate.CorrelationHeader))
	require.Equal(t, "coder-0", res.Header.Get(upstream.ReplicaHeader))
	require.Equal(t, []string{page}, res.Header.Values("Access-Control-Allow-Origin"))
	for _, name := range []string{"Access-Control-Allow-Credentials", "Set-Cookie", "Keep-Alive"} {
		require.NotContains(t, res.Header, name)
	}
	require.True(t, <-l.done)
	require.Equal(t, []string{"coder POST /v1/a/b"}, l.asked)
	lines := l.logs.FilterMessage("a request was passed through to an engine").All()
	require.Len(t, lines, 1)
	require.Equal(t, zap.InfoLevel, lines[0].Level)
	said := lines[0].ContextMap()
	require.Equal(t, []any{"coder", "coder-0", "POST", "/v1/a/b/", int64(http.StatusTeapot), true, "mine"},
		[]any{said["pool_id"], said["replica_id"], said["method"], said["path"], said["status"], said["whole"], said["correlation_id"]})
	require.Contains(t, said["identity"], "token:")
}

// LO-427: the engine's own pages find their way, and a HEAD stays one.
func TestPaths(t *testing.T) {
	l := setup(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/base/moved":
			http.Redirect(w, r, "/base/new?a=b", http.StatusFound)
		case "/base/away":
			http.Redirect(w, r, "https://example.org/x", http.StatusFound)
		}
		w.Header().Set("X-Seen", r.Method+" "+r.URL.RequestURI())
	})
	l.base = "/base"
	for _, c := range []struct{ method, target, seen, location string }{
		{"GET", "/upstream/coder/", "GET /base/", ""},
		{"GET", "/upstream/coder/?x=1", "GET /base/?x=1", ""},
		{"HEAD", "/upstream/coder/props", "HEAD /base/props", ""},
		{"GET", "/upstream/%63oder/props/", "GET /base/props/", ""},
		{"POST", "/upstream/coder", "POST /base/", ""},
		{"GET", "/upstream/coder?x=1", "", "/upstream/coder/?x=1"},
		{"GET", "/upstream/coder/moved", "", "/upstream/coder/new?a=b"},
		{"GET", "/upstream/coder/away", "", "https://example.org/x"},
	} {
		res := l.ask(t.Context(), c.method, c.target, http.NoBody)
		require.Equal(t, c.location, res.Header.Get("Location"), c.target)
		if c.location == "" {
			require.Equal(t, c.seen, res.Header.Get("X-Seen"), c.target)
		}
		require.True(t, <-l.done)
	}
}

// LO-427: what cannot pass is refused before it gets to an engine.
func TestRefusals(t *testing.T) {
	l := setup(t, func(http.ResponseWriter, *http.Request) { t.Error("the engine was asked") })
	l.refuse = task.Errorf(task.ReplicaExhausted, "busy").Retry(1)
	for _, c := range []struct {
		method, target, body string
		header               []string
		status               int
		says                 string
	}{
		{"GET", "/upstream", "", nil, 404, "names no pool"},
		{"GET", "/upstream/", "", nil, 404, "names no pool"},
		{"DELETE", "/upstream/coder/x", "", nil, 405, "only GET and POST"},
		{"GET", "/upstream/coder/a/%2e%2e/b", "", nil, 400, "`..`"},
		{"GET", "/upstream/coder/..%2Fb", "", nil, 400, "`..`"},
		{"GET", "/upstream/coder/..%5Cb", "", nil, 400, "`..`"},
		{"POST", "/upstream/coder/x", strings.Repeat("x", 1025), nil, 413, "larger"},
		{"POST", "/upstream/coder/x", "no gzip", []string{"Content-Encoding", "gzip"}, 400, "gzip"},
		{"POST", "/upstream/coder/x", "", nil, 503, "busy"},
		{"GET", "/upstream/coder/x", "", []string{"Authorization", "Bearer wrong"}, 401, "token"},
	} {
		res := l.ask(t.Context(), c.method, c.target, strings.NewReader(c.body), c.header...)
		require.Equal(t, c.status, res.StatusCode, c.target)
		e := l.envelope(res)
		require.Contains(t, e.Message, c.says)
		if c.status == 503 {
			require.Equal(t, "1", res.Header.Get("Retry-After"))
		}
	}
	require.Equal(t, []string{"coder POST /x"}, l.asked)
	require.Empty(t, l.done)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.url+"/upstream/coder/", http.NoBody)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusUnauthorized, res.StatusCode, "callers on this machine need the token too")
	require.Equal(t, task.MissingToken, l.envelope(res).Code)
}

// LO-427: a body is decoded before it gets to the engine.
func TestABodyIsDecoded(t *testing.T) {
	l := setup(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Coding", r.Header.Get("Content-Encoding"))
		_, _ = io.Copy(w, r.Body)
	})
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte("plain"))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	res := l.ask(t.Context(), http.MethodPost, "/upstream/coder/x", &b, "Content-Encoding", "gzip")
	require.Equal(t, "plain", l.read(res))
	require.Empty(t, res.Header.Get("X-Coding"))
}

// LO-427: each piece goes on as it comes. A client that goes ends the engine's work, and gives its slot back.
func TestStreams(t *testing.T) {
	next, gone := make(chan string), make(chan struct{})
	l := setup(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that its client goes
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			select {
			case text := <-next:
				_, _ = io.WriteString(w, text+"\n")
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				close(gone)
				return
			}
		}
	})
	ctx, leave := context.WithCancel(t.Context())
	go func() { next <- "data: 0" }()
	res := l.ask(ctx, http.MethodPost, "/upstream/coder/v1/chat/completions", strings.NewReader("{}"))
	in := bufio.NewReader(res.Body)
	for _, text := range []string{"data: 0", "data: 1", "data: 2"} {
		if text != "data: 0" {
			next <- text // nothing behind it has been sent yet
		}
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, text+"\n", line)
	}
	require.Empty(t, l.done)
	leave()
	<-gone
	require.False(t, <-l.done)
}

// LO-427: an engine that fails is a typed error, and a stream that breaks off is no whole one.
func TestAnEngineThatFails(t *testing.T) {
	begun := make(chan struct{}, 10)
	l := setup(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that its client goes
		switch r.URL.Path {
		case "/cut":
			panic(http.ErrAbortHandler)
		case "/switch":
			w.Header().Set("Upgrade", "other")
			w.Header().Set("Connection", "Upgrade")
			w.WriteHeader(http.StatusSwitchingProtocols)
		case "/half":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/hang":
			begun <- struct{}{}
			<-r.Context().Done()
		}
	})
	for _, path := range []string{"/cut", "/switch"} {
		res := l.ask(t.Context(), http.MethodPost, "/upstream/coder"+path, strings.NewReader("{}"))
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		require.Equal(t, "1", res.Header.Get("Retry-After"))
		e := l.envelope(res)
		require.Equal(t, task.PoolUnavailable, e.Code)
		require.True(t, e.Retriable)
		require.False(t, <-l.done)
	}
	res := l.ask(t.Context(), http.MethodGet, "/upstream/coder/half", http.NoBody)
	_, err := io.ReadAll(res.Body)
	require.Error(t, err)
	require.False(t, <-l.done)
	go func() {
		<-begun
		l.lose(task.Errorf(task.PoolUnavailable, "the worker was lost"))
	}()
	res = l.ask(t.Context(), http.MethodPost, "/upstream/coder/hang", strings.NewReader("{}"))
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "the worker was lost", l.envelope(res).Message)
	require.False(t, <-l.done)
	for _, line := range l.logs.FilterMessage("a request was passed through to an engine").All() {
		require.Equal(t, false, line.ContextMap()["whole"])
	}
	require.Empty(t, l.logs.FilterLevelExact(zap.ErrorLevel).All())
}

// LO-427: an error of the policy about outbound calls, such as for an engine on another machine, gets to the client.
func TestThePolicysRefusal(t *testing.T) {
	l := setup(t, func(http.ResponseWriter, *http.Request) {})
	l.transport.Proxy = func(*http.Request) (*url.URL, error) { return nil, task.Errorf(task.PolicyDenied, "not there") }
	res := l.ask(t.Context(), http.MethodGet, "/upstream/coder/x", http.NoBody)
	require.Equal(t, http.StatusForbidden, res.StatusCode)
	require.Equal(t, "not there", l.envelope(res).Message)
	l.transport.Proxy = func(*http.Request) (*url.URL, error) { return nil, errors.New("other") }
	require.Equal(t, http.StatusServiceUnavailable, l.ask(t.Context(), http.MethodGet, "/upstream/coder/x", http.NoBody).StatusCode)
}
