// SPDX-License-Identifier: GPL-3.0-or-later

package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// event is one of a log.
func event(n int, kind string) string {
	return fmt.Sprintf("id: %d-aa\nevent: %s\ndata: {\"t\":\"%d\"}\n\n", n, kind, n)
}

// sender is a daemon that answers each request for a stream with the next of its answers.
type sender struct {
	*httptest.Server

	mu      sync.Mutex
	asked   []string // what each request had as Last-Event-ID
	answers []func(w http.ResponseWriter, r *http.Request)
}

func newSender(t *testing.T, answers ...func(w http.ResponseWriter, r *http.Request)) *sender {
	s := &sender{answers: answers}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *sender) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Header.Get("Last-Event-ID"))
	answer := s.answers[0]
	s.answers = s.answers[1:]
	s.mu.Unlock()
	answer(w, r)
}

func (s *sender) Route(*http.Request) gate.Route { return gate.Route{} }
func (s *sender) Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), gate.Refuse(err).Status)
}

// sends writes a stream, and then breaks it off, or ends it.
func sends(text string, whole bool) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
		if !whole {
			panic(http.ErrAbortHandler)
		}
	}
}

// hijacks writes a stream as the native front does: to the connection itself.
func hijacks(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		if !r.Close {
			panic("another request may follow")
		}
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(text), text)
		_ = conn.Close()
	}
}

func refuses(status int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", status) }
}

// through is a daemon, a, through which a stream is read that b sends, beside c.
type through struct {
	t       *testing.T
	a       *sender
	b, c    *sender
	mu      sync.Mutex
	holders []string // what the database says, one after the other; the last stays. "!": it does not say
	url     string
}

func (x *through) Hosts() []task.Host {
	return []task.Host{{ID: "a", Up: true}, {ID: "b", Name: "b", Up: true, Address: x.b.URL}, {ID: "c", Name: "c", Up: true, Address: x.c.URL}}
}
func (x *through) Refusal(string) error { return nil }
func (x *through) MaySend(string) bool  { return true }

func (x *through) holder(context.Context, string) (string, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.holders[0]
	if len(x.holders) > 1 {
		x.holders = x.holders[1:]
	}
	if now == "!" {
		return "", errors.New("it is away")
	}
	return now, nil
}

func newThrough(t *testing.T, a, b, c *sender, holders ...string) *through {
	x := &through{t: t, a: a, b: b, c: c, holders: holders}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	f := New(Options{
		Self: "a", Name: "attic", Hosts: x, PoolOf: func(string) (string, bool) { return "", false }, Holder: x.holder, Transport: transport, Within: time.Minute,
		Lease: 100 * time.Millisecond, Patience: 2 * time.Second, Log: zap.NewNop(),
	})
	server := httptest.NewServer(f.Before(a))
	t.Cleanup(server.Close)
	x.url = server.URL
	return x
}

// read reads the stream of a task, without what is said while it waits.
func (x *through) read(headers ...string) (string, error) {
	r, err := http.NewRequestWithContext(x.t.Context(), http.MethodGet, x.url+"/v1/tasks/x/stream", nil)
	require.NoError(x.t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	res, err := client.Do(r)
	require.NoError(x.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return strings.ReplaceAll(string(text), ": the host of this task has gone; waiting for another one to take it over\n\n", ""), err
}

// LO-720, LO-720.2: an event that was cut is not passed on, and the stream goes on behind the last whole one: here, where this daemon has taken the task over.
func TestAStreamGoesOnHere(t *testing.T) {
	a := newSender(t, hijacks(event(2, "token")+event(3, "end")))
	b := newSender(t, sends("event: metrics\ndata: {}\n\n"+event(1, "token")+"id: 2-aa\nevent: to", false))
	got, err := newThrough(t, a, b, newSender(t), "b", "!", "!", "a").read("Last-Event-ID", "0-aa")
	require.NoError(t, err)
	require.Equal(t, "event: metrics\ndata: {}\n\n"+event(1, "token")+event(2, "token")+event(3, "end"), got)
	require.Equal(t, []string{"0-aa"}, b.asked)
	require.Equal(t, []string{"1-aa"}, a.asked)
}

// LO-720: the daemon that has the task now may need a moment; a stream whose reader had no event yet begins where the reader wanted it to.
func TestAStreamGoesOnAtAThirdDaemon(t *testing.T) {
	b := newSender(t, sends("id: 1-a", false))
	c := newSender(t, refuses(http.StatusServiceUnavailable), refuses(http.StatusNotFound), sends(event(8, "token"), false), sends(event(9, "error"), true))
	got, err := newThrough(t, newSender(t), b, c, "b", "c").read("Last-Event-ID", "7-aa")
	require.NoError(t, err)
	require.Equal(t, event(8, "token")+event(9, "error"), got)
	require.Equal(t, []string{"7-aa", "7-aa", "7-aa", "8-aa"}, c.asked)
}

// LO-720: a daemon that stops ends its streams and not their tasks. Any other error of a stream alone is for its reader.
func TestAStreamThatItsDaemonGivesUpGoesOn(t *testing.T) {
	const aside = "id: 999999999999999999-aa\nevent: error\ndata: {\"code\":%q}\n\n"
	lost := event(1, "token") + fmt.Sprintf(aside, "WORKER_RESET")
	got, err := newThrough(t, newSender(t), newSender(t, sends(lost, true)), newSender(t), "b").read()
	require.NoError(t, err)
	require.Equal(t, lost, got)

	b := newSender(t, sends(event(1, "token")+fmt.Sprintf(aside, "SHUTTING_DOWN"), true), sends(event(2, "end"), true))
	got, err = newThrough(t, newSender(t), b, newSender(t), "b").read()
	require.NoError(t, err)
	require.Equal(t, event(1, "token")+event(2, "end"), got)
	require.Equal(t, []string{"", "1-aa"}, b.asked)
}

// LO-720.2: a daemon that hangs says nothing, and another one has the task by then.
func TestAStreamThatIsSilentGoesOnWhereTheTaskIs(t *testing.T) {
	over := make(chan struct{})
	defer close(over)
	b := newSender(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, event(1, "token"))
		_ = http.NewResponseController(w).Flush()
		<-over
	})
	c := newSender(t, sends(event(2, "end"), true))
	got, err := newThrough(t, newSender(t), b, c, "b", "b", "c").read()
	require.NoError(t, err)
	require.Equal(t, event(1, "token")+event(2, "end"), got)
}

// LO-720.1: where nobody takes the task, the stream breaks off, as it would without this daemon in between.
func TestAStreamThatNobodyTakesBreaksOff(t *testing.T) {
	b := newSender(t, sends(event(1, "token"), false))
	got, err := newThrough(t, newSender(t), b, newSender(t), "b", "!").read()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, event(1, "token"), got)

	b = newSender(t, sends(event(1, "token"), false))
	a := newSender(t, refuses(http.StatusNotFound))
	got, err = newThrough(t, a, b, newSender(t), "b", "").read()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "it is forgotten")
	require.Equal(t, event(1, "token"), got)
}

// LO-720.1: a daemon that answers and breaks off at once, again and again, is not asked without a pause, nor for ever.
func TestAStreamThatBreaksOffAtOnceIsNotAskedForEver(t *testing.T) {
	answers := []func(http.ResponseWriter, *http.Request){sends(event(1, "token"), false)}
	for range 100 {
		answers = append(answers, sends(": hello\n\n", false))
	}
	b := newSender(t, answers...)
	got, err := newThrough(t, newSender(t), b, newSender(t), "b").read()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Contains(t, got, event(1, "token"))
	b.mu.Lock()
	defer b.mu.Unlock()
	require.LessOrEqual(t, len(b.asked), 2+int(2*time.Second/tryEvery))
}
