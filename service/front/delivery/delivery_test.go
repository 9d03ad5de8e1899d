// SPDX-License-Identifier: GPL-3.0-or-later

package delivery

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	startedFrame = "id: 0-aaaaaaaa\nevent: started\ndata: {}\n\n"
	tokenFrame   = "id: 1-bbbbbbbb\nevent: token\ndata: {\"t\":\"x\",\"i\":0}\n\n"
	endFrame     = "id: 2-cccccccc\nevent: end\ndata: {}\n\n"
)

// rig is a server whose every request gets a stream.
type rig struct {
	*httptest.Server

	streams *Streams
	dialect words
	tick    chan time.Time // given by the test
	conns   atomic.Int32   // that the server was given, those behind a stream too
}

// serve serves streams on a real socket, one after the other.
func serve(t *testing.T, streams []Stream, change ...func(*Options)) *rig {
	r := &rig{tick: make(chan time.Time)}
	o := Options{Ticker: func() (<-chan time.Time, func()) { return r.tick, func() {} }}
	for _, c := range change {
		c(&o)
	}
	r.streams = New(o)
	require.NoError(t, r.streams.Start(t.Context()))
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/plain" {
			body, _ := io.ReadAll(req.Body)
			_, _ = w.Write(body)
			return
		}
		s := streams[0]
		streams[0], streams = nil, streams[1:]
		if err := r.streams.Deliver(w, req, s, r.dialect); err != nil {
			refusal := gate.Refuse(err)
			refusal.SetHeaders(w.Header())
			w.WriteHeader(refusal.Status)
			_, _ = io.WriteString(w, string(refusal.Envelope.Code))
		}
	}))
	r.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			r.conns.Add(1)
		}
	}
	r.Start()
	after := make(chan error)
	listener := r.streams.Listener()
	go func() { after <- r.Config.Serve(listener) }()
	require.Eventually(t, r.streams.next.heard.Load, 10*time.Second, time.Millisecond)
	t.Cleanup(func() {
		r.Close()
		r.end()
		require.Error(t, <-after, "it serves until the streams stop")
	})
	return r
}

// end breaks off what still runs.
func (r *rig) end() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = r.streams.Stop(ctx)
}

// words is a dialect.
type words struct{ every int }

func (w words) Every() int { return max(w.every, 1) }

func (words) ContentType() string { return "text/event-stream" }

func (words) Metrics(b []byte, m task.Metrics) ([]byte, error) {
	return append(b, "metrics "+m.Phase+"\n"...), nil
}

func (words) Error(b []byte, e *task.Error) ([]byte, error) {
	return append(b, "error "+e.Code+"\n"...), nil
}
func (words) KeepAlive(b []byte) []byte { return append(b, "alive\n"...) }

// ask opens a stream.
func (r *rig) ask(t *testing.T, ctx context.Context) *http.Response {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL, nil)
	require.NoError(t, err)
	res, err := r.Client().Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// get reads a stream to its end.
func (r *rig) get(t *testing.T) (*http.Response, string) {
	res := r.ask(t, t.Context())
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

// dial sends a request by hand.
func (r *rig) dial(t *testing.T, proto string) net.Conn {
	conn, err := net.Dial("tcp", r.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = conn.Write([]byte("GET / HTTP/" + proto + "\r\nHost: localhost\r\n\r\n"))
	require.NoError(t, err)
	return conn
}

// ORCH-2002, OC-CTRL-2023
func TestFiguresGoOutWithTheFirstEventsAndWhenTheyChange(t *testing.T) {
	s := newFakeStream(io.EOF, startedFrame, tokenFrame, "", endFrame)
	s.metrics = task.Metrics{Phase: task.PhaseDecode}
	r := serve(t, []Stream{s})
	go func() { r.tick <- time.Time{} }() // joined by the stream, which ends only after it took the tick
	res, body := r.get(t)
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	require.Equal(t, "no", res.Header.Get("X-Accel-Buffering"))
	require.Equal(t, startedFrame+"metrics decode\n"+tokenFrame+endFrame, body, "unchanged figures are sent once")
	<-s.closed
	require.Equal(t, 3, s.written)
}

// LO-406: a dialect says how often the figures are looked at. A stream of many that wait is left alone in between.
func TestFiguresAsOftenAsTheDialectWants(t *testing.T) {
	const every = 3
	var steps []string
	for range 3 * every {
		steps = append(steps, "")
	}
	s := &moving{fakeStream: newFakeStream(io.EOF, append(steps, endFrame)...)}
	r := serve(t, []Stream{s})
	r.dialect.every = every
	res := r.ask(t, t.Context())
	for range 3 * every {
		r.tick <- time.Time{}
	}
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "metrics 1\nmetrics 2\nmetrics 3\n"+endFrame+"metrics 4\n", string(body), "at the first tick, each third one from there on, and with the first events")
}

// moving is a stream whose figures change with each look.
type moving struct {
	*fakeStream

	looks int
}

func (m *moving) Metrics() (task.Metrics, bool) {
	m.looks++
	return task.Metrics{Phase: task.Phase(strconv.Itoa(m.looks))}, true
}

// OC-CTRL-2034
func TestAnErrorOfTheStreamAloneEndsItWhole(t *testing.T) {
	res, body := serve(t, []Stream{Refusal(task.Errorf(task.WorkerReset, "other bytes"))}).get(t)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "error WORKER_RESET\n", body)
}

// ORCH-2002
func TestNothingFollowsTheTerminalEvent(t *testing.T) {
	s := newFakeStream(io.EOF, startedFrame+tokenFrame+endFrame)
	s.metrics, s.ended = task.Metrics{Phase: task.PhaseDecode}, true
	_, body := serve(t, []Stream{s}).get(t)
	require.Equal(t, startedFrame+tokenFrame+endFrame, body)
}

// ORCH-2002
func TestAnIdleStreamIsKeptAlive(t *testing.T) {
	steps := make([]string, 0, keepAliveTicks+1)
	for range keepAliveTicks {
		steps = append(steps, "")
	}
	s := newFakeStream(io.EOF, append(steps, endFrame)...)
	r := serve(t, []Stream{s})
	res := r.ask(t, t.Context())
	for range keepAliveTicks {
		r.tick <- time.Time{}
	}
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "alive\n"+endFrame, string(body))
}

// OC-CTRL-2034
func TestAPanicInAStreamBreaksItOff(t *testing.T) {
	res := serve(t, []Stream{panicStream{newFakeStream(nil)}}).ask(t, t.Context())
	require.Equal(t, http.StatusOK, res.StatusCode)
	_, err := io.ReadAll(res.Body)
	require.Error(t, err, "a client must not take it for whole")
}

// OC-CTRL-2034
func TestAPanicAtAStreamsEndEndsNothingElse(t *testing.T) {
	r := serve(t, []Stream{
		panicAtEnd{newFakeStream(io.EOF, startedFrame, endFrame)}, panicAtEnd{newFakeStream(io.EOF, startedFrame, endFrame)},
	})
	for range 2 {
		_, body := r.get(t)
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
	ctx, leave := context.WithCancel(t.Context())
	r := serve(t, []Stream{s})
	res := r.ask(t, ctx)
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "id: 0-aaaaaaaa\n", line)
	leave()
	r.untilClosed(s)
}

// untilClosed waits until the client of a stream is found to be gone. It may have closed its side alone, until a tick's sign of life
// finds nobody.
func (r *rig) untilClosed(s *fakeStream) {
	for {
		select {
		case r.tick <- time.Time{}:
		case <-s.closed:
			return
		}
	}
}

// A client that closes its side once it has asked gets the stream to its end.
//
// LO-830
func TestAClientThatClosesItsSideIsServed(t *testing.T) {
	r := serve(t, []Stream{newFakeStream(io.EOF, startedFrame, "", "", endFrame)})
	conn := r.dial(t, "1.1")
	in := bufio.NewReader(conn)
	waitForStart(t, in)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	r.tick <- time.Time{}
	r.tick <- time.Time{}
	rest, err := io.ReadAll(in)
	require.NoError(t, err)
	require.Contains(t, string(rest), endFrame+"\r\n0\r\n\r\n")
}

// ORCH-3026
func TestAClientThatStopsReadingIsLetGo(t *testing.T) {
	s := &endless{fakeStream: newFakeStream(nil), frames: []byte(strings.Repeat(tokenFrame, 1000))}
	serve(t, []Stream{s}, func(o *Options) { o.WriteTimeout = 50 * time.Millisecond }).dial(t, "1.1")
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

// A stream is a response like any other to whoever reads HTTP by hand. Where the client wants the connection to end with it, or knows
// no chunks, it says that the connection ends with it, and so it does.
//
// ORCH-2002
func TestAStreamEndsItsConnection(t *testing.T) {
	for proto, want := range map[string]string{
		"1.1\r\nConnection: close": fmt.Sprintf("%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", len(startedFrame), startedFrame, len(endFrame), endFrame),
		"1.0":                      startedFrame + endFrame,
	} {
		t.Run(proto, func(t *testing.T) {
			got, err := io.ReadAll(serve(t, []Stream{newFakeStream(io.EOF, startedFrame, endFrame)}).dial(t, proto))
			require.NoError(t, err)
			head, body, found := strings.Cut(string(got), "\r\n\r\n")
			require.True(t, found)
			require.Regexp(t, "^HTTP/"+proto[:3]+" 200 OK\r\n", head)
			require.Contains(t, head, "\r\nConnection: close")
			require.Equal(t, proto != "1.0", strings.Contains(head, "\r\nTransfer-Encoding: chunked"))
			require.Equal(t, want, body)
		})
	}
}

// A client without chunks can tell a stream that was broken off from one that ended, too.
//
// LO-201
func TestABrokenStreamWithoutChunksIsReset(t *testing.T) {
	conn := serve(t, []Stream{newFakeStream(errors.New("detached"), startedFrame)}).dial(t, "1.0")
	_, err := io.ReadAll(conn)
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// LO-201: who stops the server waits for the streams, and not for ever.
func TestStreamsAreWaitedForAtTheEnd(t *testing.T) {
	endless, short := newFakeStream(nil, startedFrame), newFakeStream(io.EOF, startedFrame, endFrame)
	r := serve(t, []Stream{endless, short, newFakeStream(io.EOF, startedFrame)})
	res := r.ask(t, t.Context())
	_, body := r.get(t)
	require.Equal(t, startedFrame+endFrame, body)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.NoError(t, r.streams.Stop(ctx))
	require.Error(t, ctx.Err(), "one was still running")
	<-endless.closed
	_, err := io.ReadAll(res.Body)
	require.Error(t, err, "a client must not take it for whole")

	res, body = r.get(t)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode, "no more are taken")
	require.Equal(t, "SHUTTING_DOWN", body)
	require.NotEmpty(t, res.Header.Get("Retry-After"))
}

// Without chunks too.
//
// LO-201
func TestAStreamWithoutChunksThatIsWaitedForNoLongerIsReset(t *testing.T) {
	r := serve(t, []Stream{newFakeStream(nil, startedFrame)})
	conn := r.dial(t, "1.0")
	in := bufio.NewReader(conn)
	waitForStart(t, in)
	r.end()
	_, err := io.ReadAll(in)
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// waitForStart reads to a stream's first event.
func waitForStart(t *testing.T, in *bufio.Reader) {
	for line := ""; line != "event: started\n"; {
		var err error
		line, err = in.ReadString('\n')
		require.NoError(t, err)
	}
}
