// SPDX-License-Identifier: GPL-3.0-or-later

package opaque_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/opaque"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token  = "the-token-of-the-server"
	key    = "the-key-of-the-engine"
	window = 1 << 10
	most   = 64 << 10
)

// lab is a server with the front, a line of tasks without a queue, and a pool's server.
type lab struct {
	*testing.T

	url       string // of the front's server
	engine    *httptest.Server
	transport *http.Transport

	mu     sync.Mutex
	asked  []task.Request
	hold   chan struct{} // a request waits in the line until it is closed; nil: it does not
	refuse error
	cancel context.CancelCauseFunc // ends the run of the last request
	ended  chan error              // what the passages returned
	sent   int
	routes map[string][]string // models by path
}

// Takes implements opaque.Line.
func (l *lab) Takes(path, model string) bool {
	models, ok := l.routes[path]
	if model == "" {
		return ok
	}
	return slices.Contains(models, model)
}

// Pass implements opaque.Line.
func (l *lab) Pass(ctx context.Context, q task.Request, p opaque.Passage) error {
	l.mu.Lock()
	l.asked = append(l.asked, q)
	refuse, hold := l.refuse, l.hold
	run, cancel := context.WithCancelCause(ctx)
	l.cancel = cancel
	l.mu.Unlock()
	defer cancel(nil)
	if refuse != nil {
		return refuse
	}
	p.Queued(task.Admission{TaskID: "task-1", QueuePosition: 3})
	if hold != nil {
		select {
		case <-hold:
		case <-run.Done():
			return context.Cause(run)
		}
	}
	at, err := url.Parse(l.engine.URL + "/base")
	require.NoError(l, err)
	err = p.Serve(run, opaque.Engine{ReplicaID: "speech-0", URL: at, Key: key, Transport: l.transport}, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sent++
	}, func() {})
	l.ended <- err
	if e, ok := errors.AsType[*task.Error](context.Cause(run)); ok {
		return e
	}
	if _, typed := errors.AsType[*task.Error](err); err != nil && !typed {
		return task.Errorf(task.WorkerReset, "the server was lost").Retry(0).Because(err)
	}
	return err
}

// native is the front of what is no pool's.
type native struct{}

func (native) Route(r *http.Request) gate.Route {
	if r.URL.Path == "/v1/rerank" || r.URL.Path == "/v1/tasks" {
		return gate.Route{Operation: "native"}
	}
	return gate.Route{}
}

func (native) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		native{}.Refuse(w, r, err)
		return
	}
	_, _ = io.WriteString(w, "native "+string(body))
}

func (native) Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	w.WriteHeader(gate.Refuse(err).Status)
	_, _ = io.WriteString(w, "native "+err.Error())
}

func setup(t *testing.T, engine http.HandlerFunc) *lab {
	l := &lab{
		T: t, engine: httptest.NewServer(engine), transport: &http.Transport{DisableCompression: true}, ended: make(chan error, 100),
		routes: map[string][]string{"/v1/audio/speech": {"speech"}, "/v1/images/edits": {"draw", "paint"}, "/v1/rerank": {"ranks"}, "/sdapi/v1/options": {"draw"}},
	}
	auth, err := gate.NewAuth(gate.AuthOptions{Token: token})
	require.NoError(t, err)
	front := opaque.New(opaque.Options{
		Line: l, Else: native{}, Window: window, Body: most,
		Refuse: func(w http.ResponseWriter, _ *http.Request, err error) {
			refusal := gate.Refuse(err)
			refusal.SetHeaders(w.Header())
			w.WriteHeader(refusal.Status)
			_ = json.NewEncoder(w).Encode(refusal.Envelope)
		},
	})
	g, err := gate.New(gate.Options{Auth: auth, Fronts: map[string]gate.Front{"/": front}, MaxBody: 2 * window})
	require.NoError(t, err)
	server := httptest.NewServer(g)
	l.url = server.URL
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		server.Close()
		l.transport.CloseIdleConnections()
		l.engine.Close()
	})
	return l
}

// ask sends a request with the token.
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

// last is the last request that came to the line.
func (l *lab) last() task.Request {
	l.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.NotEmpty(l, l.asked)
	return l.asked[len(l.asked)-1]
}

// LO-467: a request goes on as it was sent, without the caller's credentials, and the answer comes back with its status and its headers.
func TestARequestIsPassedOn(t *testing.T) {
	var got *http.Request
	var body string
	l := setup(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		w.Header().Set("Content-Type", "audio/mpeg")
		w.Header().Set("X-Task-Id", "the-engines")
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "sound")
	})
	res := l.ask(t.Context(), http.MethodPost, "/v1/audio/speech?voice=a%2Fb", strings.NewReader(`{"model":"speech","input":"rain"}`),
		"Content-Type", "application/json", "X-Api-Key", token, "Cookie", "a=b", "X-Priority", "batch", "X-Deadline-Ms", "1500", "X-Custom", "kept", gate.CorrelationHeader, "mine")
	require.Equal(t, "sound", l.read(res))
	require.Equal(t, http.StatusTeapot, res.StatusCode)
	require.Equal(t, "/base/v1/audio/speech?voice=a%2Fb", got.URL.RequestURI())
	require.JSONEq(t, `{"model":"speech","input":"rain"}`, body)
	require.Equal(t, []string{"Bearer " + key}, got.Header.Values("Authorization"))
	require.Equal(t, int64(len(body)), got.ContentLength)
	for _, name := range []string{"X-Api-Key", "Cookie", "X-Priority", "X-Deadline-Ms", gate.CorrelationHeader} {
		require.NotContains(t, got.Header, name)
	}
	require.Equal(t, "kept", got.Header.Get("X-Custom"))
	for name, value := range map[string]string{
		"Content-Type": "audio/mpeg", "X-Durable": "no", "X-Task-Id": "task-1", "X-Queue-Position": "3", gate.ReplicaHeader: "speech-0",
		gate.CorrelationHeader: "mine", "X-Request-Id": "mine", "Set-Cookie": "", "Access-Control-Allow-Origin": "",
	} {
		require.Equal(t, value, res.Header.Get(name), name)
	}
	q := l.last()
	require.Equal(t, task.Opaque, q.Workload)
	require.Equal(t, []any{"speech", "/v1/audio/speech", task.Batch, 1500 * time.Millisecond, "mine"}, []any{q.ModelRef, q.Path, q.Priority, q.Deadline, q.CorrelationID})
	require.Contains(t, q.Actor, "token:")
	require.NoError(t, <-l.ended)

	require.Equal(t, "sound", l.read(l.ask(t.Context(), http.MethodGet, "/sdapi/v1/options?model=draw", http.NoBody)))
	require.Equal(t, "draw", l.last().ModelRef)
	require.Equal(t, http.MethodGet, got.Method)
}

// form makes a form in which the model stands before or behind a file.
func form(t *testing.T, model string, behind bool, file []byte) (body *bytes.Buffer, kind string) {
	t.Helper()
	body = &bytes.Buffer{}
	w := multipart.NewWriter(body)
	field := func() {
		if model != "" {
			require.NoError(t, w.WriteField("model", model))
		}
	}
	if !behind {
		field()
	}
	part, err := w.CreateFormFile("file", "a.wav")
	require.NoError(t, err)
	_, err = part.Write(file)
	require.NoError(t, err)
	if behind {
		field()
	}
	require.NoError(t, w.Close())
	return body, w.FormDataContentType()
}

// LO-468: the model is found in a JSON, in a form, or in the query, as far as the body was read.
func TestTheModelIsFound(t *testing.T) {
	l := setup(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})
	small, large := []byte("RIFF"), bytes.Repeat([]byte("x"), 8*window)
	for name, c := range map[string]struct {
		model  string
		behind bool
		file   []byte
		found  string
	}{
		"before a small file":  {"draw", false, small, "draw"},
		"behind a small file":  {"draw", true, small, "draw"},
		"before a large file":  {"draw", false, large, "draw"},
		"behind a large file":  {"draw", true, large, ""},
		"none":                 {"", true, small, ""},
		"none in a large form": {"", true, large, ""},
	} {
		body, kind := form(t, c.model, c.behind, c.file)
		want := body.String()
		require.Equal(t, want, l.read(l.ask(t.Context(), http.MethodPost, "/v1/images/edits", body, "Content-Type", kind)), name)
		require.Equal(t, c.found, l.last().ModelRef, name)
		require.NoError(t, <-l.ended)
	}
	l.mu.Lock()
	require.Positive(t, l.sent, "what was not read before is told of")
	l.mu.Unlock()
	for body, found := range map[string]string{
		`{"input":{"model":"other"},"model":"paint"}`: "paint", `{"model":"draw","model":"paint"}`: "paint", `{"model":7}`: "", `["model","paint"]`: "", `{"model":"paint"`: "paint", `no JSON`: "", ``: "",
	} {
		l.read(l.ask(t.Context(), http.MethodPost, "/v1/images/edits", strings.NewReader(body), "Content-Type", "application/json; charset=utf-8"))
		require.Equal(t, found, l.last().ModelRef, body)
	}
	l.read(l.ask(t.Context(), http.MethodPost, "/v1/images/edits?model=draw", strings.NewReader("model=paint&n=1"), "Content-Type", "application/x-www-form-urlencoded"))
	require.Equal(t, "paint", l.last().ModelRef)
	l.read(l.ask(t.Context(), http.MethodPost, "/v1/images/edits?model=draw", strings.NewReader("x")))
	require.Equal(t, "draw", l.last().ModelRef)
}

// LO-468
func FuzzModel(f *testing.F) {
	f.Add([]byte(`{"model":"a"}`), "application/json")
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\na\r\n--b--\r\n"), "multipart/form-data; boundary=b")
	f.Add([]byte("model=a"), "application/x-www-form-urlencoded")
	f.Fuzz(func(t *testing.T, body []byte, kind string) {
		line := &taker{}
		front := opaque.New(opaque.Options{Line: line, Else: native{}, Refuse: func(http.ResponseWriter, *http.Request, error) {}, Window: window})
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/audio/x", bytes.NewReader(body))
		r.Header.Set("Content-Type", kind)
		front.ServeHTTP(httptest.NewRecorder(), r)
		require.LessOrEqual(t, len(line.model), 4096)
	})
}

// taker takes note of a model.
type taker struct{ model string }

func (*taker) Takes(string, string) bool { return true }
func (l *taker) Pass(_ context.Context, q task.Request, _ opaque.Passage) error {
	l.model = q.ModelRef
	return task.Errorf(task.NotFound, "no")
}

// LO-468: what is no pool's goes where it went before, with its whole body; a rerank by its model.
func TestWhatIsNoPools(t *testing.T) {
	l := setup(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "passed") })
	for _, c := range []struct{ target, body, answer string }{
		{"/v1/tasks", `{"model":"ranks"}`, `native {"model":"ranks"}`},
		{"/v1/rerank", `{"model":"other"}`, `native {"model":"other"}`},
		{"/v1/rerank", `{"model":"ranks"}`, "passed"},
		{"/v1/rerank", `{"model":"other","x":"` + strings.Repeat("x", window) + `"}`, `native {"model":"other","x":"` + strings.Repeat("x", window) + `"}`},
	} {
		require.Equal(t, c.answer, l.read(l.ask(t.Context(), http.MethodPost, c.target, strings.NewReader(c.body), "Content-Type", "application/json")), c.target)
	}
	require.Equal(t, http.StatusRequestEntityTooLarge, l.ask(t.Context(), http.MethodPost, "/v1/rerank", strings.NewReader(strings.Repeat("x", 3*window))).StatusCode, "the other front's bound holds")
}

// LO-467: what the line or the front refuses has the dialect's shape, and its figures.
func TestRefusals(t *testing.T) {
	l := setup(t, func(http.ResponseWriter, *http.Request) { t.Error("the server was asked") })
	l.refuse = task.Errorf(task.AdmissionReject, "full").Retry(1500 * time.Millisecond)
	for _, c := range []struct {
		method, body string
		header       []string
		status       int
		says         string
	}{
		{"POST", "{}", nil, 429, "full"},
		{"POST", "{}", []string{"Authorization", "Bearer wrong"}, 401, "token"},
		{"DELETE", "", nil, 405, "only GET and POST"},
		{"POST", "{}", []string{"X-Priority", "urgent"}, 400, "interactive or batch"},
		{"POST", "{}", []string{"X-Deadline-Ms", "0"}, 400, "X-Deadline-Ms"},
		{"POST", "{}", []string{"X-Deadline-Ms", "soon"}, 400, "X-Deadline-Ms"},
		{"POST", strings.Repeat("x", most+1), nil, 413, "larger"},
	} {
		res := l.ask(t.Context(), c.method, "/v1/audio/speech", strings.NewReader(c.body), c.header...)
		require.Equal(t, c.status, res.StatusCode, c.says)
		e := l.envelope(res)
		require.Contains(t, e.Message, c.says)
		if c.status == 429 {
			require.Equal(t, "2", res.Header.Get("Retry-After"))
			require.Equal(t, "1500", res.Header.Get("X-Backoff-Ms"))
		}
	}
}

// LO-467: a server that breaks off before its answer is 503; behind that the connection breaks, and nobody takes the answer for whole.
func TestAServerBreaksOff(t *testing.T) {
	l := setup(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.RawQuery == "half" {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler)
	})
	res := l.ask(t.Context(), http.MethodPost, "/v1/audio/speech", strings.NewReader("{}"))
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.True(t, l.envelope(res).Retriable)
	require.Error(t, <-l.ended)
	res = l.ask(t.Context(), http.MethodPost, "/v1/audio/speech?half", strings.NewReader("{}"))
	require.Equal(t, http.StatusOK, res.StatusCode)
	_, err := io.ReadAll(res.Body)
	require.Error(t, err)
	require.Error(t, <-l.ended)
}

// LO-467: each piece of an answer goes on as it comes. A client that goes, or a cancel, ends the server's work, also while it waits for the client to
// send the rest of a body, or to take the answer.
func TestARequestIsCutShort(t *testing.T) {
	gone := make(chan struct{}, 10)
	begun := make(chan struct{}, 10)
	l := setup(t, func(w http.ResponseWriter, r *http.Request) {
		defer func() { gone <- struct{}{} }()
		begun <- struct{}{}
		if r.URL.RawQuery != "body" {
			_, _ = io.Copy(io.Discard, r.Body)
		} else if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		for piece := bytes.Repeat([]byte("x"), 64<<10); r.Context().Err() == nil; {
			if r.URL.RawQuery == "silent" {
				<-r.Context().Done()
				return
			}
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	canceled := task.Errorf(task.Canceled, "the task was canceled")
	for _, query := range []string{"silent", "loud", "body"} {
		for _, leaves := range []bool{true, false} {
			ctx, leave := context.WithCancel(t.Context())
			body, hangUp := io.Reader(strings.NewReader("{}")), func() {}
			if query == "body" { // its end never comes
				in, out := io.Pipe()
				go func() { _, _ = out.Write(bytes.Repeat([]byte("x"), 2*window)) }()
				hangUp = func() { _ = in.Close() } // the client's transport waits for it
				body = in
			}
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+"/v1/audio/speech?"+query, body)
			require.NoError(t, err)
			r.Header.Set("Authorization", "Bearer "+token)
			answered := make(chan *http.Response, 1)
			go func() {
				res, err := http.DefaultTransport.RoundTrip(r)
				if err != nil {
					res = nil
				}
				answered <- res
			}()
			<-begun
			if query == "loud" { // nobody reads the answer, so a write waits for the client
				res := <-answered
				require.NotNil(t, res)
				require.Equal(t, http.StatusOK, res.StatusCode)
				answered <- res
			}
			if leaves {
				leave()
			} else {
				l.mu.Lock()
				l.cancel(canceled)
				l.mu.Unlock()
			}
			require.Error(t, <-l.ended, query)
			<-gone
			hangUp()
			res := <-answered
			if res != nil {
				if query != "loud" {
					require.False(t, leaves)
					require.Equal(t, http.StatusConflict, res.StatusCode, "a cancel before the answer is told")
				}
				_ = res.Body.Close()
			}
			leave()
		}
	}
}
