// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// fake is a server that answers with fixed text: for faults no engine has on demand.
func fake(t testing.TB, answers map[string]string) *llamacpp.Engine {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, answers[r.URL.Path])
	}))
	e := llamacpp.New(engine.Endpoint{URL: s.URL})
	t.Cleanup(func() { e.Close(); s.Close() })
	return e
}

const props = `{"build_info":"b1","total_slots":1,"default_generation_settings":{"n_ctx":256}}`

func token(s string) string {
	return fmt.Sprintf("data: {\"index\":0,\"content\":%q,\"tokens\":[1],\"stop\":false}\n\n", s)
}

const last = `data: {"content":"","stop":true,"stop_type":"eos","tokens_predicted":2,"tokens_evaluated":5,"timings":{"prompt_ms":1.5,"predicted_ms":2.5}}` + "\n\n"

// ORCH-3054
func TestBrokenStreams(t *testing.T) {
	for name, c := range map[string]struct {
		stream string
		text   string
		code   task.Code
		says   string
	}{
		"whole":                {token("a") + ": ping\n\n" + token("b") + last, "ab", "", ""},
		"ends early":           {token("a"), "a", task.WorkerReset, "unexpected EOF"},
		"ends in a frame":      {token("a") + `data: {"conte`, "a", task.WorkerReset, "unexpected EOF"},
		"empty":                {"", "", task.WorkerReset, "unexpected EOF"},
		"no JSON":              {token("a") + "data: nonsense\n\n", "a", task.WorkerReset, "frame"},
		"half JSON":            {"data: {\"content\":\"a\"\n\n", "", task.WorkerReset, "frame"},
		"content of a number":  {"data: {\"content\":1,\"stop\":false}\n\n", "", task.WorkerReset, "frame"},
		"no stop type":         {token("a") + `data: {"content":"","stop":true}` + "\n\n", "a", task.WorkerReset, "unknown reason"},
		"server error":         {token("a") + `data: {"error":{"code":500,"message":"boom","type":"server_error"}}` + "\n\n", "a", task.WorkerReset, "boom"},
		"refusal":              {`data: {"error":{"code":400,"message":"no","type":"invalid_request_error"}}` + "\n\n", "", task.InvalidParams, "refused the request: no"},
		"error without a code": {`data: {"error":"boom"}` + "\n\n", "", task.WorkerReset, "boom"},
		"text in the end":      {token("a") + strings.Replace(last, `"content":""`, `"content":"z"`, 1), "az", "", ""},
	} {
		e := fake(t, map[string]string{"/props": props, "/tokenize": `{"tokens":[1,2,3]}`, "/completion": c.stream})
		var b strings.Builder
		r, err := e.Generate(t.Context(), job(nil), collect(&b))
		require.Equal(t, c.text, b.String(), name)
		if c.code == "" {
			require.NoError(t, err, name)
			require.Equal(t, engine.Result{TokensIn: 5, TokensOut: 2, Prefill: 1500e3, Decode: 2500e3, Finish: task.FinishStop}, r)
			continue
		}
		require.True(t, task.HasCode(err, c.code), "%s: %v", name, err)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, c.code == task.WorkerReset, task.AsError(err).Retriable, name)
	}
}

// ORCH-3054
func TestRerank(t *testing.T) {
	e := fake(t, map[string]string{"/reranking": `{"results":[{"index":1,"relevance_score":0.9},{"index":0,"relevance_score":-3}],"usage":{"prompt_tokens":12}}`})
	raw, r, err := e.Rerank(t.Context(), engine.Job{Workload: task.Rerank, Prompt: "q", Inputs: []string{"a", "b"}})
	require.NoError(t, err)
	require.JSONEq(t, `{"scores":[-3,0.9]}`, string(raw))
	require.Equal(t, 12, r.TokensIn)
	for _, answer := range []string{`{"results":[]}`, `{"results":[{"index":0},{"index":0}]}`, `{"results":[{"index":7},{"index":0}]}`} {
		e := fake(t, map[string]string{"/reranking": answer})
		_, _, err := e.Rerank(t.Context(), engine.Job{Workload: task.Rerank, Prompt: "q", Inputs: []string{"a", "b"}})
		require.True(t, task.HasCode(err, task.WorkerReset), answer)
	}
}

// ORCH-3054
func TestAnswersThatAreNotALlamaServersAreRefused(t *testing.T) {
	e := fake(t, map[string]string{"/props": `{}`, "/slots": `[]`, "/embedding": `[{"index":4,"embedding":[[1]]}]`})
	_, err := e.Props(t.Context())
	require.True(t, task.HasCode(err, task.WorkerReset))
	_, err = e.Busy(t.Context())
	require.True(t, task.HasCode(err, task.WorkerReset))
	_, _, err = e.Embed(t.Context(), engine.Job{Workload: task.Embedding, Inputs: []string{"a"}})
	require.True(t, task.HasCode(err, task.WorkerReset))
}

// LO-805: a template that fails is refused, and an engine that is not there is an outage.
func TestATemplateThatFails(t *testing.T) {
	for status, code := range map[int]task.Code{500: task.InvalidParams, 400: task.InvalidParams, 503: task.WorkerReset, 502: task.WorkerReset} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"error":{"message":"no filter named 'nonsense'"}}`)
		}))
		e := llamacpp.New(engine.Endpoint{URL: s.URL})
		_, err := e.ApplyTemplate(t.Context(), []task.Message{{Role: "user", Content: "hello"}}, nil)
		require.True(t, task.HasCode(err, code), "%d: %v", status, err)
		require.Equal(t, code == task.InvalidParams, strings.Contains(task.AsError(err).Message, "nonsense"))
		e.Close()
		s.Close()
	}
}

// ORCH-3054
func BenchmarkGenerateToken(b *testing.B) {
	e := streamOf(b, props, `data: {"index":0,"content":" kernels","tokens":[983],"stop":false,"id_slot":-1,"tokens_predicted":1,"tokens_evaluated":22}`+"\n\n")
	b.ReportAllocs()
	b.ResetTimer()
	done := errors.New("enough")
	n := 0
	_, err := e.Generate(b.Context(), engine.Job{Prompt: "x", PromptTokens: 1}, func(task.Piece) error {
		if n++; n >= b.N {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) {
		b.Fatal(err)
	}
}

// streamOf is an engine whose stream of tokens never ends, with no server in between to be counted.
func streamOf(b *testing.B, props, frame string) *llamacpp.Engine {
	b.Helper()
	return llamacpp.New(engine.Endpoint{URL: "http://engine", Network: &httpsse.Network{
		Transport: transport{props},
		Dial: func(context.Context, *url.URL) (net.Conn, error) {
			return &connection{head: strings.NewReader("HTTP/1.1 200 OK\r\n\r\n"), body: endless{frame: []byte(frame)}}, nil
		},
	}})
}

// transport answers everything that is no stream: with the properties, or with a prompt.
type transport struct{ props string }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body := t.props
	if r.URL.Path != "/props" {
		body = `{"prompt":"p","tokens":[1]}`
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// connection is one to an engine that answers at once.
type connection struct {
	net.Conn
	head *strings.Reader
	body endless
}

func (c *connection) Read(b []byte) (int, error) {
	if c.head.Len() > 0 {
		return c.head.Read(b)
	}
	return c.body.Read(b)
}

func (*connection) Write(b []byte) (int, error) { return len(b), nil }
func (*connection) Close() error                { return nil }
func (*connection) SetDeadline(time.Time) error { return nil }

type endless struct {
	frame []byte
	at    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.frame[e.at:])
	e.at = (e.at + n) % len(e.frame)
	return n, nil
}
