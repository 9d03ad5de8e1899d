// SPDX-License-Identifier: GPL-3.0-or-later

package enginetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// FuzzOptions say whose answers are made up.
type FuzzOptions struct {
	New func(engine.Endpoint) engine.Engine
	// Calm are the answers, by their paths, of the questions that an adapter asks around a run. In half of the runs the made-up answer stands for these, too.
	Calm map[string]string
	// Seeds are answers to begin with: streams, and whole ones.
	Seeds []string
}

// Fuzz holds an adapter to what it has to do whatever its server answers (LO-861): an answer that can be, or a typed error, and of a stream whole runes.
func Fuzz(f *testing.F, o FuzzOptions) {
	for _, seed := range o.Seeds {
		f.Add([]byte(seed), true, true)
		f.Add([]byte(seed), false, true)
	}
	for _, seed := range o.Calm {
		f.Add([]byte(seed), false, true)
	}
	f.Add([]byte(`{"error":{"code":400,"message":"no","type":"invalid_request_error"}}`), true, false)
	f.Add([]byte(`{"error":"no","error_type":"validation"}`), true, false)
	f.Fuzz(func(t *testing.T, answer []byte, calm, well bool) {
		said := made{answer: answer, status: http.StatusOK}
		if !well {
			said.status = http.StatusInternalServerError
		}
		if calm {
			said.calm = o.Calm
		}
		e := o.New(engine.Endpoint{URL: "http://engine", Network: &httpsse.Network{Transport: said, Dial: said.dial}})
		if c, ok := e.(engine.Closer); ok {
			defer c.Close()
		}
		asked{t, e}.everything()
	})
}

// asked asks an engine for all that it can.
type asked struct {
	t *testing.T
	e engine.Engine
}

func (a asked) everything() {
	ctx := a.t.Context()
	a.typed(a.e.Health(ctx))
	p, err := a.e.Props(ctx)
	if a.typed(err); err == nil {
		require.NoError(a.t, engine.Believe(engine.Tokens("context", p.Ctx), engine.Slots("slots", p.Slots)))
		require.LessOrEqual(a.t, len(p.Build), engine.MaxBuild)
	}
	j := job(7, 8)
	j.Sampling.Stop = []string{"\n\n"}
	a.generates(j)
	if _, ok := a.e.(engine.Chatter); ok {
		j := job(7, 8)
		j.Prompt, j.Messages = "", []task.Message{{Role: task.RoleUser, Content: "What is the weather?"}}
		j.Chat = &task.Chat{Tools: []task.Tool{{Name: "weather", Parameters: json.RawMessage(`{"type":"object"}`)}}}
		j.CallID = func(n int) string { return fmt.Sprintf("call%05d", n) }
		a.generates(j)
	}
	a.answers()
	a.figures(ctx)
}

// generates runs a job whose stream is made up.
func (a asked) generates(j engine.Job) {
	emitted := 0
	r, err := a.e.Generate(a.t.Context(), j, func(p task.Piece) error {
		emitted++
		require.True(a.t, utf8.ValidString(p.Text), "%q", p.Text)
		return nil
	})
	if a.typed(err); err != nil {
		return
	}
	require.NotEmpty(a.t, r.Finish, "after %d pieces", emitted)
	a.believed(r)
}

// answers runs the jobs that have one answer.
func (a asked) answers() {
	for _, w := range []task.Workload{task.Embedding, task.Rerank} {
		if engine.FacesOf(a.e).Refuse(w, false) != nil {
			continue
		}
		raw, r, err := engine.Answer(a.t.Context(), a.e, engine.Job{Workload: w, Prompt: "rain", Inputs: []string{"a", "b"}})
		if a.typed(err); err == nil {
			require.True(a.t, json.Valid(raw), "%s", raw)
			a.believed(r)
		}
	}
}

// figures asks for what the faces tell.
func (a asked) figures(ctx context.Context) {
	if c, ok := a.e.(engine.TokenCounter); ok {
		n, err := c.CountTokens(ctx, "rain")
		a.counted(n, err)
	}
	messages := []task.Message{{Role: task.RoleUser, Content: "rain"}}
	if c, ok := a.e.(engine.ChatCounter); ok {
		n, err := c.CountChat(ctx, messages, nil)
		a.counted(n, err)
	}
	if c, ok := a.e.(engine.Templater); ok {
		_, err := c.ApplyTemplate(ctx, messages, nil)
		a.typed(err)
	}
	if c, ok := a.e.(engine.BusyCounter); ok {
		n, err := c.Busy(ctx)
		a.counted(n, err)
	}
	if c, ok := a.e.(engine.Meter); ok {
		if load, err := c.Load(ctx); err == nil {
			require.NoError(a.t, load.Believe())
		}
	}
	if c, ok := a.e.(engine.Keeper); ok {
		slots, err := c.Slots(ctx)
		a.typed(err)
		for _, s := range slots {
			require.NoError(a.t, engine.Believe(engine.Slots("slot", s.ID), engine.Figure{Name: "bytes", Value: float64(s.Bytes), Most: engine.MaxBytes}))
		}
	}
	if c, ok := a.e.(engine.Saver); ok {
		s, err := c.Save(ctx, 0, "a")
		if a.counted(s.Tokens, err); err == nil {
			a.typed(c.Restore(ctx, 0, s))
		}
	}
}

func (a asked) counted(n int, err error) {
	if a.typed(err); err == nil {
		require.NoError(a.t, engine.Believe(engine.Tokens("count", n)))
	}
}

func (a asked) believed(r engine.Result) {
	require.NoError(a.t, engine.Believe(engine.Tokens("in", r.TokensIn), engine.Tokens("out", r.TokensOut), engine.Tokens("cells", r.Cells), engine.Tokens("cached", r.Cached)))
	require.LessOrEqual(a.t, r.Cached, r.TokensIn)
	require.GreaterOrEqual(a.t, r.Slot, engine.NoSlot)
	for _, d := range []time.Duration{r.Prefill, r.Decode} {
		require.True(a.t, d >= 0 && d <= engine.MaxTime, "%s", d)
	}
}

// typed fails where an error is none that a caller can act on.
func (a asked) typed(err error) {
	if err == nil {
		return
	}
	for _, code := range []task.Code{task.InvalidParams, task.WorkerReset, task.PolicyDenied, task.NotImplemented} {
		if task.HasCode(err, code) {
			return
		}
	}
	require.Fail(a.t, "an error that no caller can act on", "%v", err)
}

// made is a server whose answers are made up.
type made struct {
	answer []byte
	status int
	calm   map[string]string
}

// to is what is answered at a path.
func (m made) to(path string) (status int, body []byte) {
	if text, ok := m.calm[path]; ok {
		return http.StatusOK, []byte(text)
	}
	return m.status, m.answer
}

// RoundTrip answers what is no stream.
func (m made) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := m.to(r.URL.Path)
	return &http.Response{StatusCode: status, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

func (m made) dial(context.Context, *url.URL) (net.Conn, error) {
	return &line{made: m, asked: make(chan struct{})}, nil
}

// line is a connection on which one request is answered, once it has come.
type line struct {
	net.Conn
	made
	asked chan struct{}
	rest  *bytes.Reader // once asked is closed
}

func (l *line) Write(b []byte) (int, error) {
	_, target, _ := strings.Cut(string(b), " ")
	path, _, _ := strings.Cut(target, " ")
	status, body := l.to(path)
	l.rest = bytes.NewReader(append(fmt.Appendf(nil, "HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n", status, len(body)), body...))
	close(l.asked)
	return len(b), nil
}

func (l *line) Read(b []byte) (int, error) {
	<-l.asked
	return l.rest.Read(b)
}

func (*line) Close() error                     { return nil }
func (*line) SetDeadline(time.Time) error      { return nil }
func (*line) SetWriteDeadline(time.Time) error { return nil }
