// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	startedFrame = "id: 0-aaaaaaaa\nevent: started\ndata: {}\n\n"
	tokenFrame   = "id: 1-bbbbbbbb\nevent: token\ndata: {\"t\":\"x\",\"i\":0}\n\n"
	endFrame     = "id: 2-cccccccc\nevent: end\ndata: {}\n\n"
)

// overSocket serves a stream on a real socket, with a tick that the test gives.
func overSocket(t *testing.T, s Stream, change ...func(*Options)) (server *httptest.Server, tick chan time.Time) {
	tick = make(chan time.Time)
	f := setup(t, append([]func(*Options){func(o *Options) {
		o.Ticker = func() (<-chan time.Time, func()) { return tick, func() {} }
	}}, change...)...)
	f.tasks.subscribe = func(string, string) (Stream, error) { return s, nil }
	server = httptest.NewUnstartedServer(f.handler)
	server.Listener = Listener(server.Listener)
	server.Config.ConnContext = ConnContext
	server.Start()
	t.Cleanup(server.Close)
	return server, tick
}

func open(t *testing.T, ctx context.Context, server *httptest.Server) *http.Response {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/tasks/t1/stream", nil)
	require.NoError(t, err)
	res, err := server.Client().Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// ORCH-2002, OC-CTRL-2023
func TestStreamOrderAndHeaders(t *testing.T) {
	s := newFakeStream(io.EOF, startedFrame, tokenFrame, "", endFrame)
	s.metrics = task.Metrics{Phase: task.PhaseDecode, OnTimeProbability: 1}
	server, tick := overSocket(t, s)
	go func() { tick <- time.Time{} }() // joined by the stream, which ends only after it took the tick
	res := open(t, context.Background(), server)
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	require.Equal(t, "no", res.Header.Get("X-Accel-Buffering"))
	require.NotEmpty(t, res.Header.Get(correlationHeader))
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	metrics := "event: metrics\ndata: {\"phase\":\"decode\",\"queue_depth\":0,\"queue_position\":0,\"predicted_start_ms\":0,\"on_time_probability\":1,\"kv_warmth\":false}\n\n"
	require.Equal(t, startedFrame+metrics+tokenFrame+endFrame, string(body), "unchanged figures are sent once")
	<-s.closed
	require.Equal(t, 3, s.written)
}

// ORCH-2002
func TestNothingFollowsTheTerminalEvent(t *testing.T) {
	s := newFakeStream(io.EOF, startedFrame+tokenFrame+endFrame)
	s.metrics, s.ended = task.Metrics{Phase: task.PhaseDecode}, true
	server, _ := overSocket(t, s)
	body, err := io.ReadAll(open(t, context.Background(), server).Body)
	require.NoError(t, err)
	require.Equal(t, startedFrame+tokenFrame+endFrame, string(body))
}

// ORCH-2002
func TestAnIdleStreamIsKeptAlive(t *testing.T) {
	steps := make([]string, 0, keepAliveTicks+1)
	for range keepAliveTicks {
		steps = append(steps, "")
	}
	s := newFakeStream(io.EOF, append(steps, endFrame)...)
	server, tick := overSocket(t, s)
	res := open(t, context.Background(), server)
	for range keepAliveTicks {
		tick <- time.Time{}
	}
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, ": keep-alive\n\n"+endFrame, string(body))
}

// LO-201
func TestResumePointReachesTheLog(t *testing.T) {
	f := setup(t)
	var asked []string
	f.tasks.subscribe = func(id, after string) (Stream, error) {
		asked = append(asked, id+" "+after)
		return newFakeStream(io.EOF), nil
	}
	f.do("GET", "/v1/tasks/t1/stream", "")
	f.do("GET", "/v1/tasks/t1/stream?after=3-0a1b2c3d", "")
	f.do("GET", "/v1/tasks/t1/stream", "", "Last-Event-ID", "4-0a1b2c3d")
	f.do("GET", "/v1/tasks/t1/stream?after=5-0a1b2c3d", "", "Last-Event-ID", "5-0a1b2c3d")
	require.Equal(t, []string{"t1 ", "t1 3-0a1b2c3d", "t1 4-0a1b2c3d", "t1 5-0a1b2c3d"}, asked)
}

// OC-CTRL-2034
func TestErrorsBeforeTheStreamUseTheStatusAndStreamErrorsDoNot(t *testing.T) {
	f := setup(t)
	f.tasks.subscribe = func(string, string) (Stream, error) { return nil, task.Errorf(task.NotFound, "there is no task") }
	require.Equal(t, gen.ErrorCodeNOTFOUND, envelope(t, f.do("GET", "/v1/tasks/t1/stream", "")).Code)

	f.tasks.subscribe = func(string, string) (Stream, error) { return nil, task.Errorf(task.WorkerReset, "other bytes") }
	res := f.do("GET", "/v1/tasks/t1/stream", "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "event: error\ndata: {\"code\":\"WORKER_RESET\",\"message\":\"other bytes\",\"retriable\":true}\n\n", string(body))
}

// OC-CTRL-2034
func TestAPanicInAStreamBreaksItOff(t *testing.T) {
	server, _ := overSocket(t, panicStream{newFakeStream(nil)})
	res := open(t, context.Background(), server)
	require.Equal(t, http.StatusOK, res.StatusCode)
	_, err := io.ReadAll(res.Body)
	require.Error(t, err, "a client must not take it for whole")
}

type panicStream struct{ *fakeStream }

func (panicStream) Next(context.Context, <-chan time.Time) ([]byte, error) { panic("boom") }

// ORCH-2002
func TestAClientThatLeavesClosesItsSubscription(t *testing.T) {
	s := newFakeStream(nil, startedFrame)
	server, _ := overSocket(t, s)
	ctx, leave := context.WithCancel(context.Background())
	res := open(t, ctx, server)
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "id: 0-aaaaaaaa\n", line)
	leave()
	<-s.closed
}

// ORCH-3026
func TestAClientThatStopsReadingIsLetGo(t *testing.T) {
	s := &endless{fakeStream: newFakeStream(nil), frames: []byte(strings.Repeat(tokenFrame, 1000))}
	server, _ := overSocket(t, s, func(o *Options) { o.WriteTimeout = 50 * time.Millisecond })
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET /v1/tasks/t1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	require.NoError(t, err)
	<-s.closed
	require.Equal(t, s.nexts, s.written, "a failed write is reported as well")
}

// endless always has more.
type endless struct {
	*fakeStream
	frames []byte
	nexts  int
}

func (s *endless) Next(context.Context, <-chan time.Time) ([]byte, error) {
	s.nexts++
	return s.frames, nil
}

// A connection that carried a stream must serve the next request, however long the stream's last write is past.
//
// ORCH-2002
func TestTheWriteDeadlineEndsWithTheStream(t *testing.T) {
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	f := setup(t)
	f.tasks.subscribe = func(string, string) (Stream, error) { return newFakeStream(io.EOF, startedFrame), nil }
	r := httptest.NewRequest(http.MethodGet, "/v1/tasks/t1/stream", nil)
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "localhost"
	f.handler.ServeHTTP(w, r)
	require.GreaterOrEqual(t, len(w.set), 3)
	require.False(t, w.set[0].IsZero())
	require.True(t, w.set[len(w.set)-1].IsZero())
}

type deadlines struct {
	*httptest.ResponseRecorder
	set []time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}

// OC-CTRL-2026
func TestATokenCostsNoAllocation(t *testing.T) {
	out := sink()
	frames := []byte(tokenFrame)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if err := out.write(frames); err != nil {
			panic(err)
		}
	}))
}

func BenchmarkStreamWrite(b *testing.B) {
	out := sink()
	frames := []byte(tokenFrame)
	b.ReportAllocs()
	for b.Loop() {
		if err := out.write(frames); err != nil {
			b.Fatal(err)
		}
	}
}

func sink() *sse {
	w := &recorder{ResponseWriter: discard{}}
	return &sse{w: w, control: http.NewResponseController(w), timeout: time.Minute}
}

type discard struct{}

func (discard) Header() http.Header              { return nil }
func (discard) Write(b []byte) (int, error)      { return len(b), nil }
func (discard) WriteHeader(int)                  {}
func (discard) Flush()                           {}
func (discard) SetWriteDeadline(time.Time) error { return nil }
