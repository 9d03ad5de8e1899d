// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
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
	return f.serve(t), tick
}

// serve serves on a real socket, as a stream needs it.
func (f *fixture) serve(t *testing.T) *httptest.Server {
	server := httptest.NewServer(f.handler)
	t.Cleanup(func() {
		server.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		f.handler.EndStreams(ctx)
	})
	return server
}

// get asks for a path with headers, and returns the answer's body, too.
func get(t *testing.T, server *httptest.Server, path string, header ...string) (*http.Response, string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := server.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
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
	server := f.serve(t)
	get(t, server, "/v1/tasks/t1/stream")
	get(t, server, "/v1/tasks/t1/stream?after=3-0a1b2c3d")
	get(t, server, "/v1/tasks/t1/stream", "Last-Event-ID", "4-0a1b2c3d")
	get(t, server, "/v1/tasks/t1/stream?after=5-0a1b2c3d", "Last-Event-ID", "5-0a1b2c3d")
	require.Equal(t, []string{"t1 ", "t1 3-0a1b2c3d", "t1 4-0a1b2c3d", "t1 5-0a1b2c3d"}, asked)
}

// OC-CTRL-2034
func TestErrorsBeforeTheStreamUseTheStatusAndStreamErrorsDoNot(t *testing.T) {
	f := setup(t)
	f.tasks.subscribe = func(string, string) (Stream, error) { return nil, task.Errorf(task.NotFound, "there is no task") }
	require.Equal(t, gen.ErrorCodeNOTFOUND, envelope(t, f.do("GET", "/v1/tasks/t1/stream", "")).Code)

	f.tasks.subscribe = func(string, string) (Stream, error) { return nil, task.Errorf(task.WorkerReset, "other bytes") }
	res, body := get(t, f.serve(t), "/v1/tasks/t1/stream")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "event: error\ndata: {\"code\":\"WORKER_RESET\",\"message\":\"other bytes\",\"retriable\":true}\n\n", body)
}

// OC-CTRL-2034
func TestAPanicInAStreamBreaksItOff(t *testing.T) {
	server, _ := overSocket(t, panicStream{newFakeStream(nil)})
	res := open(t, context.Background(), server)
	require.Equal(t, http.StatusOK, res.StatusCode)
	_, err := io.ReadAll(res.Body)
	require.Error(t, err, "a client must not take it for whole")
}

// OC-CTRL-2034
func TestAPanicAtAStreamsEndEndsNothingElse(t *testing.T) {
	f := setup(t)
	f.tasks.subscribe = func(string, string) (Stream, error) {
		return panicAtEnd{newFakeStream(io.EOF, startedFrame, endFrame)}, nil
	}
	server := f.serve(t)
	for range 2 {
		_, body := get(t, server, "/v1/tasks/t1/stream")
		require.Equal(t, startedFrame+endFrame, body)
	}
}

type panicAtEnd struct{ *fakeStream }

func (panicAtEnd) Close() { panic("boom") }

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

// A stream is a response like any other to whoever reads HTTP by hand: it says that the connection ends with it, and so it does.
//
// ORCH-2002
func TestAStreamEndsItsConnection(t *testing.T) {
	for proto, want := range map[string]string{
		"1.1": fmt.Sprintf("%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", len(startedFrame), startedFrame, len(endFrame), endFrame),
		"1.0": startedFrame + endFrame,
	} {
		t.Run(proto, func(t *testing.T) {
			server, _ := overSocket(t, newFakeStream(io.EOF, startedFrame, endFrame))
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			_, err = conn.Write([]byte("GET /v1/tasks/t1/stream HTTP/" + proto + "\r\nHost: localhost\r\n\r\n"))
			require.NoError(t, err)
			got, err := io.ReadAll(conn)
			require.NoError(t, err)
			head, body, found := strings.Cut(string(got), "\r\n\r\n")
			require.True(t, found)
			require.Regexp(t, "^HTTP/"+proto+" 200 OK\r\n", head)
			require.Contains(t, head, "\r\nConnection: close")
			require.Equal(t, proto == "1.1", strings.Contains(head, "\r\nTransfer-Encoding: chunked"))
			require.Equal(t, want, body)
		})
	}
}

// A client without chunks can tell a stream that was broken off from one that ended, too.
//
// LO-201
func TestABrokenStreamWithoutChunksIsReset(t *testing.T) {
	server, _ := overSocket(t, newFakeStream(errors.New("detached"), startedFrame))
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET /v1/tasks/t1/stream HTTP/1.0\r\nHost: localhost\r\n\r\n"))
	require.NoError(t, err)
	_, err = io.ReadAll(conn)
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// LO-201: who stops the server waits for the streams, and not for ever.
func TestStreamsAreWaitedForAtTheEnd(t *testing.T) {
	f := setup(t)
	endless, short := newFakeStream(nil, startedFrame), newFakeStream(io.EOF, startedFrame, endFrame)
	left := []Stream{endless, short, newFakeStream(io.EOF, startedFrame)}
	f.tasks.subscribe = func(string, string) (Stream, error) {
		s := left[0]
		left = left[1:]
		return s, nil
	}
	server := f.serve(t)
	res := open(t, t.Context(), server)
	_, body := get(t, server, "/v1/tasks/t1/stream")
	require.Equal(t, startedFrame+endFrame, body)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	f.handler.EndStreams(ctx)
	require.Error(t, ctx.Err(), "one was still running")
	<-endless.closed
	_, err := io.ReadAll(res.Body)
	require.Error(t, err, "a client must not take it for whole")

	res, body = get(t, server, "/v1/tasks/t1/stream")
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode, "no more are taken")
	require.Contains(t, body, "SHUTTING_DOWN")
	require.NotEmpty(t, res.Header.Get("Retry-After"))
}

// Without chunks too.
//
// LO-201
func TestAStreamWithoutChunksThatIsWaitedForNoLongerIsReset(t *testing.T) {
	f := setup(t)
	s := newFakeStream(nil, startedFrame)
	f.tasks.subscribe = func(string, string) (Stream, error) { return s, nil }
	conn, err := net.Dial("tcp", f.serve(t).Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET /v1/tasks/t1/stream HTTP/1.0\r\nHost: localhost\r\n\r\n"))
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	for line := ""; line != "event: started\n"; {
		line, err = in.ReadString('\n')
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.handler.EndStreams(ctx)
	_, err = io.ReadAll(in)
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// What a client sends behind its request hinders neither the stream nor that its leaving is seen.
//
// ORCH-2002
func TestBytesBehindTheRequestAreNobodys(t *testing.T) {
	s := newFakeStream(nil, startedFrame)
	server, _ := overSocket(t, s)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	_, err = conn.Write([]byte("GET /v1/tasks/t1/stream HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1/tasks/t2/stream HTTP/1.1\r\n\r\n"))
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	for line := ""; line != "event: started\n"; {
		line, err = in.ReadString('\n')
		require.NoError(t, err)
	}
	_, err = conn.Write([]byte(strings.Repeat("x", 1000)))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	<-s.closed
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
	out := sink(t)
	frames := []byte(tokenFrame)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if err := out.write(frames); err != nil {
			panic(err)
		}
	}))
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if !out.try(frames) && out.write(nil) != nil {
			panic("the client does not read")
		}
	}))
}

func BenchmarkStreamWrite(b *testing.B) {
	out := sink(b)
	frames := []byte(tokenFrame)
	b.ReportAllocs()
	for b.Loop() {
		if err := out.write(frames); err != nil {
			b.Fatal(err)
		}
	}
}

// sink is a wire to a client that reads all.
func sink(t testing.TB) *wire {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	client, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	conn, err := l.Accept()
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(io.Discard, client) }()
	t.Cleanup(func() { _ = conn.Close(); <-done; _ = client.Close(); _ = l.Close() })
	return newWire(conn, true, time.Minute)
}
