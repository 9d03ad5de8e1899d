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
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// ORCH-2002: a client reads stream after stream, and anything else in between, on the connection that it has.
func TestAStreamLeavesItsConnectionForTheNextRequest(t *testing.T) {
	const rounds = 5
	var streams []Stream
	for i := range rounds {
		s := newFakeStream(io.EOF, startedFrame, endFrame)
		s.last = i%2 == 0 // with the end of the body in the write of the last event, or apart from it
		streams = append(streams, s)
	}
	r := serve(t, streams)
	var dialled int
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled++
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}}
	t.Cleanup(client.CloseIdleConnections)
	fetch := func(method, path, body string) string {
		req, err := http.NewRequestWithContext(t.Context(), method, r.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		res, err := client.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		require.False(t, res.Close)
		got, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return string(got)
	}
	long := strings.Repeat("long ", 10_000)
	for range rounds {
		require.Equal(t, startedFrame+endFrame, fetch(http.MethodGet, "/", ""))
		require.Equal(t, long, fetch(http.MethodPost, "/plain", long))
	}
	require.Equal(t, 1, dialled)
	require.EqualValues(t, 1+rounds, r.conns.Load(), "the server was given it again behind each stream")
}

// ORCH-2002: a request that came while the stream lasted is answered behind it.
func TestARequestAheadOfTheStreamsEndWaits(t *testing.T) {
	s := newFakeStream(io.EOF, startedFrame, "", endFrame)
	r := serve(t, []Stream{s})
	conn := r.dial(t, "1.1")
	in := bufio.NewReader(conn)
	waitForStart(t, in)
	_, err := io.WriteString(conn, "POST /plain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
	require.NoError(t, err)
	r.tick <- time.Time{}
	rest, err := io.ReadAll(in)
	require.NoError(t, err)
	require.Contains(t, string(rest), endFrame+"\r\n0\r\n\r\nHTTP/1.1 200 OK")
	require.Regexp(t, "hello$", string(rest))
}

// ORCH-2002: many requests at once are answered in turn, and their connection gets no layer for each of them.
func TestRequestsThatComeTogetherAreAnsweredInTurn(t *testing.T) {
	const rounds = 40 // more than the HTTP server reads at once
	var streams []Stream
	for range rounds {
		streams = append(streams, newFakeStream(io.EOF, startedFrame, endFrame))
	}
	r := serve(t, streams)
	var depth atomic.Int32
	served := r.Config.Handler
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		served.ServeHTTP(w, req)
		r.streams.mu.Lock()
		defer r.streams.mu.Unlock()
		for d := range r.streams.open {
			if _, wrapped := d.wire.conn.(*begun); wrapped {
				depth.Add(1)
			}
		}
	})
	conn, err := net.Dial("tcp", r.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	ask := "GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + strings.Repeat("x", 500) + "\r\n"
	_, err = io.WriteString(conn, strings.Repeat(ask+"\r\n", rounds-1)+ask+"Connection: close\r\n\r\n")
	require.NoError(t, err)
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, rounds, strings.Count(string(got), endFrame))
	require.Zero(t, depth.Load())
}

// ORCH-2002: a connection that waits for a request does not keep the log of a task that is over.
func TestAnIdleConnectionKeepsNoLog(t *testing.T) {
	begin := func() (*rig, weak.Pointer[fakeStream], <-chan struct{}) {
		s := newFakeStream(io.EOF, startedFrame, endFrame)
		return serve(t, []Stream{s}), weak.Make(s), s.closed
	}
	r, log, closed := begin()
	in := bufio.NewReader(r.dial(t, "1.1"))
	for line := ""; line != "0\r\n"; {
		var err error
		line, err = in.ReadString('\n')
		require.NoError(t, err)
	}
	<-closed
	require.Eventually(t, func() bool { runtime.GC(); return log.Value() == nil }, 10*time.Second, time.Millisecond)
	r.streams.mu.Lock()
	defer r.streams.mu.Unlock()
	require.Len(t, r.streams.open, 1)
}

// A body that is too large is refused while the client still sends. For that net/http closes one direction of the connection.
//
// OC-CTRL-2030
func TestAConnectionBehindAStreamClosesOneDirection(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	server, err := listener.Accept()
	require.NoError(t, err)
	defer server.Close()
	var half interface{ CloseWrite() error } = &begun{Conn: server}
	require.NoError(t, half.CloseWrite())
	_, err = client.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = client.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(server, make([]byte, 1))
	require.NoError(t, err)
	require.ErrorIs(t, (&begun{}).CloseWrite(), errors.ErrUnsupported)
}

// Of a request with a body nobody knows where the next one begins, so its bytes are never taken for one.
//
// ORCH-2002
func TestABodyBehindAStreamsRequestIsNoRequest(t *testing.T) {
	r := serve(t, []Stream{newFakeStream(io.EOF, startedFrame, endFrame)})
	conn, err := net.Dial("tcp", r.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	body := "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	require.NoError(t, err)
	got, err := io.ReadAll(conn)
	if err != nil { // the kernel says so where bytes of the client were left unread
		require.ErrorContains(t, err, "reset")
		return
	}
	require.Contains(t, string(got), "\r\nConnection: close")
	require.Equal(t, 1, strings.Count(string(got), "HTTP/1.1 200"))
}

// What a client sends without end hinders neither the stream nor that its leaving is seen.
//
// ORCH-2002
func TestBytesBehindTheRequestAreBounded(t *testing.T) {
	s := newFakeStream(nil, startedFrame)
	r := serve(t, []Stream{s})
	conn := r.dial(t, "1.1")
	waitForStart(t, bufio.NewReader(conn))
	_, err := conn.Write([]byte(strings.Repeat("x", 2*maxAhead)))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	r.untilClosed(s)

	o := &wire{again: true}
	_, more := o.heard(make([]byte, maxAhead), nil)
	require.True(t, more)
	_, more = o.heard(make([]byte, 1), nil)
	require.True(t, more)
	require.False(t, o.again)
	require.Empty(t, o.ahead)
}

// LO-201: a stop does not wait for a connection that waits for a request.
func TestAnIdleConnectionEndsWithTheStop(t *testing.T) {
	r := serve(t, []Stream{newFakeStream(io.EOF, startedFrame, endFrame)})
	conn := r.dial(t, "1.1")
	in := bufio.NewReader(conn)
	for line := ""; line != "0\r\n"; {
		var err error
		line, err = in.ReadString('\n')
		require.NoError(t, err)
	}
	require.NoError(t, r.streams.Stop(t.Context()))
	_, err := io.ReadAll(in)
	require.NoError(t, err)
	require.Empty(t, r.streams.open)

	o := newWire(conn, true, time.Minute)
	o.again = true
	o.dismiss()
	o.finish(true)
	require.False(t, o.idle, "one that was dismissed waits for nothing")
}

// ORCH-2002
func TestAConnectionDoesNotWaitForEver(t *testing.T) {
	o := &wire{again: true, idle: true}
	next, more := o.heard(nil, os.ErrDeadlineExceeded)
	require.Nil(t, next)
	require.False(t, more)
	next, more = (&wire{again: true, ahead: []byte("G")}).heard(nil, errors.New("gone"))
	require.Nil(t, next)
	require.False(t, more)
}
