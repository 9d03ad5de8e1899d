// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/task"
)

// dialect is a front that answers with its name, and refuses with it and the error's code.
type dialect struct {
	name  string
	route Route
	serve http.HandlerFunc // nil: it answers with its name
}

func (d *dialect) Route(*http.Request) Route { return d.route }

func (d *dialect) Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	refusal := Refuse(err)
	refusal.SetHeaders(w.Header())
	w.WriteHeader(refusal.Status)
	_, _ = io.WriteString(w, d.name+" "+string(refusal.Envelope.Code))
}

func (d *dialect) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if d.serve != nil {
		d.serve(w, r)
		return
	}
	_, _ = io.WriteString(w, d.name)
}

func newGate(t *testing.T, fronts map[string]Front, change ...func(*Options)) *Gate {
	auth, err := NewAuth(AuthOptions{Token: token, OptionalOnLoopback: true})
	require.NoError(t, err)
	o := Options{Auth: auth, Fronts: fronts}
	for _, c := range change {
		c(&o)
	}
	g, err := New(o)
	require.NoError(t, err)
	return g
}

// ask sends a request as from loopback, and returns the status and the answer.
func ask(g *Gate, method, target, body string, header ...string) (*http.Response, string) {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1:8080"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w.Result(), w.Body.String()
}

// LO-425: a front may have one path, such as /, and nothing that lies under it.
func TestAFrontMayHaveOnePath(t *testing.T) {
	g := newGate(t, map[string]Front{"/": &dialect{name: "native"}}, func(o *Options) { o.Exact = map[string]Front{"/": &dialect{name: "line"}} })
	for path, front := range map[string]string{"/": "line", "/?x=1": "line", "/v1/tasks": "native", "//": "line", "/x": "native"} {
		_, answer := ask(g, http.MethodGet, path, "")
		require.Equal(t, front, answer, path)
	}
	res, _ := ask(g, http.MethodHead, "/", "")
	require.Equal(t, http.StatusOK, res.StatusCode)
}

// ORCH-3095
func TestTheFrontThatIsMountedFurthestDownServes(t *testing.T) {
	fronts := map[string]Front{}
	for _, path := range []string{"/", "/v1/chat/completions", "/v1/messages", "/v1/messages/batches", "/api"} {
		fronts[path] = &dialect{name: path}
	}
	g := newGate(t, fronts)
	for path, front := range map[string]string{
		"/": "/", "/v1/tasks": "/", "/v1/chat": "/", "/v1/chat/completions": "/v1/chat/completions", "/v1/chat/completionsx": "/",
		"/v1/messages": "/v1/messages", "/v1/messages/": "/v1/messages", "/v1/messages/count_tokens": "/v1/messages",
		"/v1/messages/batches": "/v1/messages/batches", "/v1/messages/batches/x": "/v1/messages/batches", "/api/chat": "/api", "/apis": "/",
	} {
		_, body := ask(g, http.MethodGet, path, "")
		require.Equal(t, front, body, path)
	}
	_, err := New(Options{Auth: g.o.Auth, Fronts: map[string]Front{"/v1": fronts["/"]}})
	require.ErrorContains(t, err, "a front for / are needed")
	for _, path := range []string{"v1", "/v1/"} {
		_, err = New(Options{Auth: g.o.Auth, Fronts: map[string]Front{"/": fronts["/"], path: fronts["/"]}})
		require.ErrorContains(t, err, path)
	}
}

// Each dialect words the gate's refusals itself, and none of them can forget the check.
//
// AUTH-1001, AUTH-1003, AUTH-1008
func TestEveryFrontIsBehindTheSameCheck(t *testing.T) {
	g := newGate(t, map[string]Front{
		"/":       &dialect{name: "native"},
		"/other":  &dialect{name: "other"},
		"/open":   &dialect{name: "open", route: Route{Access: Anybody}},
		"/worker": &dialect{name: "worker", route: Route{Access: WithTokenAlways}},
	})
	for _, c := range []struct {
		path   string
		header []string
		status int
		body   string
	}{
		{"/v1", nil, 200, "native"},
		{"/other", []string{"Authorization", "Bearer wrong"}, 401, "other BAD_TOKEN"},
		{"/other", []string{"Origin", "https://evil.example"}, 403, "other POLICY_DENIED"},
		{"/open", []string{"Authorization", "Bearer wrong"}, 200, "open"},
		{"/worker", nil, 401, "worker MISSING_TOKEN"},
		{"/worker", []string{"Authorization", "Bearer " + token}, 200, "worker"},
	} {
		res, body := ask(g, http.MethodGet, c.path, "", c.header...)
		require.Equal(t, c.status, res.StatusCode, c.path)
		require.Equal(t, c.body, body)
		require.Equal(t, c.status == 401, res.Header.Get("WWW-Authenticate") == "Bearer")
		require.NotEmpty(t, res.Header.Get(CorrelationHeader))
	}
}

// OC-CTRL-2052, AUTH-1007
func TestAFrontKnowsWhoCalls(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	var got Call
	front := &dialect{route: Route{Operation: "Sing"}, serve: func(_ http.ResponseWriter, r *http.Request) { got = CallFrom(r.Context()) }}
	g := newGate(t, map[string]Front{"/": front}, func(o *Options) { o.Log = zap.New(core) })
	res, _ := ask(g, http.MethodGet, "/", "", CorrelationHeader, "mine")
	require.Equal(t, Call{CorrelationID: "mine", Identity: Localhost, Route: Route{Operation: "Sing"}}, got)
	require.Equal(t, "mine", res.Header.Get(CorrelationHeader))
	line := logs.FilterMessage("served a request").All()[0].ContextMap()
	require.Equal(t, "mine", line["correlation_id"])
	require.Equal(t, "Sing", line["operation"])
	require.Equal(t, Localhost, line["identity"])
	require.Zero(t, CallFrom(t.Context()))
}

// OC-CTRL-2030
func TestABodyIsBounded(t *testing.T) {
	var got []byte
	var err, again error
	front := &dialect{}
	front.serve = func(w http.ResponseWriter, r *http.Request) {
		if got, err = io.ReadAll(r.Body); err != nil {
			front.Refuse(w, r, err)
		}
		_, again = r.Body.Read(make([]byte, 1))
	}
	g := newGate(t, map[string]Front{"/": front}, func(o *Options) { o.MaxBody, o.ReadTimeout = 5, 50*time.Millisecond })
	_, _ = ask(g, http.MethodPost, "/", "12345")
	require.Equal(t, "12345", string(got))
	require.Equal(t, io.EOF, again)
	res, body := ask(g, http.MethodPost, "/", "123456")
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	require.Equal(t, " TOO_LARGE", body)
	require.Empty(t, got, "its length was enough to know")
	require.Equal(t, err, again, "how it ended stays so")

	server := httptest.NewServer(g)
	defer server.Close()
	for sent, want := range map[string]string{
		"Content-Length: 3\r\n\r\n12":                       "400 Bad Request",              // and then nothing
		"Transfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n": "413 Request Entity Too Large", // of a length that was not told
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		_, err = conn.Write([]byte("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + sent))
		require.NoError(t, err)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Contains(t, string(answer), want)
		require.NoError(t, conn.Close())
	}
}

// OC-CTRL-2034, OC-CTRL-2030
func TestAPanicIsAnErrorUntilTheResponseHasBegun(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	front := &dialect{name: "native"}
	g := newGate(t, map[string]Front{"/": front}, func(o *Options) { o.Log = zap.New(core) })
	front.serve = func(http.ResponseWriter, *http.Request) { panic("boom") }
	res, body := ask(g, http.MethodGet, "/", "")
	require.Equal(t, http.StatusInternalServerError, res.StatusCode)
	require.Equal(t, "native INTERNAL", body)
	require.Contains(t, logs.All()[0].ContextMap()["stack"], "gate_test.go")

	front.serve = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic("boom")
	}
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { ask(g, http.MethodGet, "/", "") })
	front.serve = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { ask(g, http.MethodGet, "/", "") })
	require.Equal(t, 2, logs.Len(), "who breaks off on purpose is not logged")
}

// A stream takes its connection over, whatever stands between.
//
// ORCH-2002
func TestAConnectionCanBeTakenOver(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	front := &dialect{serve: func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\nmine")
			_ = conn.Close()
		}
	}}
	g := newGate(t, map[string]Front{"/": front}, func(o *Options) { o.Log = zap.New(core) })
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		g.ServeHTTP(w, r)
	}))
	defer server.Close()
	res, err := server.Client().Get(server.URL)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "mine", string(body))
	<-done
	require.EqualValues(t, http.StatusOK, logs.FilterMessage("served a request").All()[0].ContextMap()["status"])
	_, _, err = http.NewResponseController(&recorder{ResponseWriter: httptest.NewRecorder()}).Hijack()
	require.ErrorIs(t, err, http.ErrNotSupported)
}

// OC-CTRL-2030
func TestTheTableHasEveryCode(t *testing.T) {
	require.Len(t, rules, len(task.Codes()))
	for _, code := range task.Codes() {
		require.NotZero(t, Refuse(&task.Error{Code: code}).Status, code)
	}
	require.True(t, StreamOnly(task.WorkerReset))
	require.False(t, StreamOnly(task.NotFound))
	for _, err := range []error{errors.New("disk"), &task.Error{Code: "UNHEARD_OF", Message: "secret"}} {
		r := Refuse(err)
		require.Equal(t, http.StatusInternalServerError, r.Status)
		require.Equal(t, task.Internal, r.Envelope.Code)
		require.NotContains(t, r.Envelope.Message, "secret")
	}
}

// ORCH-2007
func TestRetryAfterIsWholeSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{1: "1", time.Second: "1", time.Second + 1: "2", 1999 * time.Millisecond: "2", 0: ""} {
		h := http.Header{}
		Refuse(task.Errorf(task.PoolUnready, "loading").Retry(d)).SetHeaders(h)
		require.Equal(t, want, h.Get("Retry-After"), d)
		require.Empty(t, h.Get("X-Backoff-Ms"))
	}
	h := http.Header{}
	Refuse(task.Errorf(task.RateLimited, "slow").Retry(1250 * time.Millisecond)).SetHeaders(h)
	require.Equal(t, http.Header{"Link": {`</errors#RATE_LIMITED>; rel="help"`}, "Retry-After": {"2"}, "X-Backoff-Ms": {"1250"}}, h)
}
