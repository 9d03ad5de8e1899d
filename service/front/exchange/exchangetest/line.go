// SPDX-License-Identifier: GPL-3.0-or-later

// Package exchangetest serves a front to its tests: on a real socket and behind a real gate, with a line of tasks whose events the
// test writes.
package exchangetest

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Line is a line of tasks with one task, t1. Every request gets that task. Others may have ended before.
type Line struct {
	Refusal error // of every submit
	Counted int   // tokens of every prompt; 0: nobody counted them
	// Again says that an earlier run of the orchestrator may have told more of the task.
	Again bool
	// OnCancel is called at each cancel.
	OnCancel func()

	mu       sync.Mutex
	records  map[string]task.Record // of other tasks
	state    task.State
	end      *task.End
	failure  *task.Error
	requests []task.Request
	canceled int
	log      *stream.Log
	attempt  *stream.Attempt
}

// New makes a line.
func New() *Line {
	l := &Line{state: task.Queued, records: map[string]task.Record{}, log: stream.New(task.Started{TaskID: "t1", Seed: 7, Determinism: task.Strict}, time.Now)}
	l.attempt = l.log.Begin()
	return l
}

// Submit implements exchange.Tasks.
func (l *Line) Submit(_ context.Context, r task.Request) (task.Admission, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, r)
	return task.Admission{TaskID: "t1", QueuePosition: 3, PromptTokens: l.Counted, AcceptedAt: Epoch}, l.Refusal
}

// Epoch is when every task was accepted. It ended a second later.
var Epoch = time.Unix(1699999999, 0).UTC()

// Record implements exchange.Tasks.
func (l *Line) Record(_ context.Context, id string) (task.Record, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r, ok := l.records[id]; ok {
		if r.Deleted != nil {
			return r, false, task.Errorf(task.Deleted, "it is deleted")
		}
		return r, false, nil
	}
	if id != "t1" || len(l.requests) == 0 {
		return task.Record{}, false, task.Errorf(task.NotFound, "there is no task %q", id)
	}
	r := task.Record{Task: task.Task{ID: "t1", Request: l.requests[len(l.requests)-1], AcceptedAt: Epoch}, State: l.state, End: l.end, Err: l.failure}
	r.Transcript, _ = l.log.Transcript()
	if r.State.Final() {
		r.FinishedAt = Epoch.Add(time.Second)
	}
	return r, l.Again, nil
}

// Delete implements exchange.Tasks.
func (l *Line) Delete(ctx context.Context, id, _ string) error {
	r, _, err := l.Record(ctx, id)
	if err != nil {
		return err
	}
	l.Keep(r.Erased(Epoch))
	return nil
}

// Deleted implements exchange.Tasks.
func (l *Line) Deleted(_ context.Context, ids []string) (deleted []string, _ error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if l.records[id].Deleted != nil {
			deleted = append(deleted, id)
		}
	}
	return deleted, nil
}

// Keep records a task that ended, or is deleted.
func (l *Line) Keep(r task.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[r.Task.ID] = r
}

// Starts has a replica run the task.
func (l *Line) Starts() { l.enters(task.Running, nil, nil) }

func (l *Line) enters(state task.State, end *task.End, failure *task.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state, l.end, l.failure = state, end, failure
}

// Events implements exchange.Tasks.
func (l *Line) Events(context.Context, string) (delivery.Events, error) {
	s, err := l.log.Subscribe("", 0)
	return events{s}, err
}

// Cancel implements exchange.Tasks.
func (l *Line) Cancel(context.Context, string) (task.CancelResult, error) {
	l.mu.Lock()
	l.canceled++
	l.mu.Unlock()
	if l.OnCancel != nil {
		l.OnCancel()
	}
	return task.CancelResult{}, nil
}

type events struct{ *stream.Subscription }

func (events) Metrics() (task.Metrics, bool) { return task.Metrics{}, false }

// Requests are those that were submitted.
func (l *Line) Requests() []task.Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]task.Request{}, l.requests...)
}

// Last is the request that was submitted last.
func (l *Line) Last() task.Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests[len(l.requests)-1]
}

// Cancels is how often the task was canceled.
func (l *Line) Cancels() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.canceled
}

// Says appends pieces to the answer.
func (l *Line) Says(t *testing.T, pieces ...task.Piece) {
	for _, p := range pieces {
		require.NoError(t, l.attempt.Append(p))
	}
}

// Ends ends the task.
func (l *Line) Ends(why task.FinishReason) {
	l.EndsWith(task.End{TokensIn: 5, TokensOut: 2, FinishReason: why, Receipt: task.Receipt{Seed: 7, Determinism: task.Strict, Fingerprint: "fp-1"}})
}

// Answers ends a task whose answer is no stream.
func (l *Line) Answers(result string) {
	l.EndsWith(task.End{TokensIn: 3, FinishReason: task.FinishResult, Result: json.RawMessage(result)})
}

// EndsWith ends the task so.
func (l *Line) EndsWith(end task.End) {
	l.log.End(end)
	l.enters(task.Completed, &end, nil)
	l.log.Date(Epoch.Add(time.Second))
	l.log.Publish()
}

// Detaches ends the readers of the task, which goes on in the next run of the orchestrator.
func (l *Line) Detaches() { l.log.Detach() }

// Fails ends the task with an error.
func (l *Line) Fails(e *task.Error) {
	l.log.Fail(e)
	state := task.Failed
	if e.Code == task.Canceled {
		state = task.StateCanceled
	}
	l.enters(state, nil, e)
	l.log.Date(Epoch.Add(time.Second))
	l.log.Publish()
}

// Text is a piece of an answer.
func Text(s string) task.Piece { return task.Piece{Kind: task.EventText, Text: s} }

// Reasoning is a piece of what a model thinks.
func Reasoning(s string) task.Piece { return task.Piece{Kind: task.EventReasoning, Text: s} }

// Call is a piece of call n of a tool. Id and name are in its first piece only.
func Call(n int, id, name, arguments string) task.Piece {
	return task.Piece{Kind: task.EventToolCall, Text: arguments, Call: task.CallPart{N: n, ID: id, Name: name}}
}

// Serve serves a front, and returns its URL. Change may change the options that it is made with. The HTTP server must have nothing to complain of.
func Serve(t testing.TB, l *Line, front func(o exchange.Options) gate.Front, change ...func(*exchange.Options)) string {
	streams := delivery.New(delivery.Options{})
	require.NoError(t, streams.Start(t.Context()))
	o := exchange.Options{
		Tasks: l, Streams: streams, Models: func() []exchange.Model { return []exchange.Model{{ID: "coder", Ctx: 4096}, {ID: "org/haiku"}} },
		Now: func() time.Time { return time.Unix(1700000000, 0) },
	}
	for _, c := range change {
		c(&o)
	}
	auth, err := gate.NewAuth(gate.AuthOptions{OptionalOnLoopback: true})
	require.NoError(t, err)
	g, err := gate.New(gate.Options{Auth: auth, Fronts: map[string]gate.Front{"/": front(o)}})
	require.NoError(t, err)
	core, complaints := observer.New(zap.DebugLevel)
	server := httptest.NewUnstartedServer(g)
	server.Config.ErrorLog = zap.NewStdLog(zap.New(core))
	server.Start()
	served := make(chan error, 1)
	go func() { served <- server.Config.Serve(streams.Listener()) }() // what follows on a stream's connection
	t.Cleanup(func() {
		defer func() { require.ErrorIs(t, <-served, net.ErrClosed) }()
		http.DefaultClient.CloseIdleConnections()
		ctx, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		_ = streams.Stop(ctx)
		server.Close()
		require.Empty(t, complaints.All())
	})
	return server.URL
}

// Post sends a JSON body.
func Post(t *testing.T, url, body string) *http.Response {
	t.Helper()
	return Do(t, http.MethodPost, url, body)
}

// Do sends a request.
func Do(t *testing.T, method, url, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// Read is all of a body.
func Read(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}
