// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const twoEvents = "data: one\n\ndata: last\n\n"

// served is an engine that counts its connections and answers each request with the handler.
func served(t *testing.T, handler http.HandlerFunc) (*Client, *atomic.Int32) {
	t.Helper()
	var conns atomic.Int32
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	c := New(Options{BaseURL: server.URL, Engine: "test"})
	t.Cleanup(c.Close)
	return c, &conns
}

func twice(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, twoEvents)
	_ = http.NewResponseController(w).Flush()
}

// untilLast reads a stream to the event `last`, as adapters do.
func untilLast(ctx context.Context, t *testing.T, c *Client) error {
	t.Helper()
	s, err := c.Stream(ctx, "/x", "hello")
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Each(func(e Event) (bool, error) { return string(e.Data) != "last", nil })
}

// quietly waits until the connection that is kept has had the end of its answer.
func quietly(t *testing.T, c *Client) {
	t.Helper()
	require.Eventually(t, func() bool {
		c.keep.mu.Lock()
		defer c.keep.mu.Unlock()
		return len(c.keep.idle) == 1 && c.keep.idle[0].quiet()
	}, 10*time.Second, time.Millisecond)
}

// ORCH-3054: streams that come to their end leave their connection to the next.
func TestAStreamLeavesItsConnectionToTheNext(t *testing.T) {
	c, conns := served(t, twice)
	for range 5 {
		require.NoError(t, untilLast(t.Context(), t, c))
		quietly(t, c)
	}
	require.EqualValues(t, 1, conns.Load())
}

// ORCH-3026, ORCH-3054: a stream that was left early must end at the engine, too, so its connection is closed.
func TestAStreamThatWasLeftKeepsNoConnection(t *testing.T) {
	gone := make(chan struct{})
	c, conns := served(t, func(w http.ResponseWriter, r *http.Request) {
		twice(w, r)
		if r.Header.Get("Stay") != "" {
			return
		}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	enough := errors.New("enough")
	s, err := c.Stream(t.Context(), "/x", "hello")
	require.NoError(t, err)
	require.ErrorIs(t, s.Each(func(Event) (bool, error) { return true, enough }), enough)
	s.Close()
	<-gone

	ctx, cancel := context.WithCancel(t.Context())
	s, err = c.Stream(ctx, "/x", "hello")
	require.NoError(t, err)
	require.NoError(t, s.Each(func(e Event) (bool, error) {
		if string(e.Data) == "last" {
			cancel()
			return false, nil
		}
		return true, nil
	}))
	s.Close()
	<-gone
	require.EqualValues(t, 2, conns.Load())
	require.Nil(t, c.keep.take())
}

// ORCH-3054: engines such as llama-server close a connection behind a stream, some of them without a word.
func TestAKeptConnectionThatIsDeadIsNotUsed(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"closed with a word": func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Connection", "close"); twice(w, r) },
		"closed without": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n17\r\n"+twoEvents+"\r\n0\r\n\r\n")
			_ = conn.Close()
		},
		"answered twice": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			answer := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n17\r\n" + twoEvents + "\r\n0\r\n\r\n"
			_, _ = io.WriteString(conn, answer+answer)
			_, _ = io.Copy(io.Discard, conn) // until the client closes it
		},
		"left within the answer": func(w http.ResponseWriter, r *http.Request) { twice(w, r); <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			c, conns := served(t, handler)
			for range 3 {
				require.NoError(t, untilLast(t.Context(), t, c))
			}
			require.EqualValues(t, 3, conns.Load())
		})
	}
}

// ORCH-3054: a connection may die while the request is on its way. The request is then sent again, on a new one.
func TestAConnectionThatDiesUnderARequestIsNoError(t *testing.T) {
	var requests atomic.Int32
	c, conns := served(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 2 {
			panic(http.ErrAbortHandler)
		}
		twice(w, r)
	})
	require.NoError(t, untilLast(t.Context(), t, c))
	quietly(t, c)
	require.NoError(t, untilLast(t.Context(), t, c))
	require.EqualValues(t, 3, requests.Load())
	require.EqualValues(t, 2, conns.Load())
}

// ORCH-3080: who decides about outbound calls is asked for each stream, not only when a connection is made.
func TestAKeptConnectionIsAskedFor(t *testing.T) {
	c, conns := served(t, twice)
	no := errors.New("not any more")
	var refuse atomic.Bool
	c.ask = func(context.Context, *url.URL) error {
		if refuse.Load() {
			return no
		}
		return nil
	}
	require.NoError(t, untilLast(t.Context(), t, c))
	quietly(t, c)
	require.NoError(t, untilLast(t.Context(), t, c))
	quietly(t, c)
	refuse.Store(true)
	require.ErrorIs(t, untilLast(t.Context(), t, c), no)
	require.EqualValues(t, 1, conns.Load())
	require.Nil(t, c.keep.take())
}

// Bytes behind an answer are those of no request. They may come with its end, or later.
//
// ORCH-3054
func TestAConnectionWithBytesBehindTheAnswerIsNotKept(t *testing.T) {
	for _, parts := range [][]string{
		{"0\r\n\r\nHTTP/1.1 200 OK\r\n"},
		{"0\r\n\r", "\nHTTP/1.1 200 OK\r\n"},
		{"0\r\n\r\n", "HTTP/1.1 200 OK\r\n"},
		{"1\r\nxy"},
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		client, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		engine, err := listener.Accept()
		require.NoError(t, err)
		c := kept{conn: client.(*net.TCPConn)}
		for i, part := range parts[:len(parts)-1] {
			_, over, err := c.body.strip([]byte(part))
			require.NoError(t, err)
			require.Equal(t, part == "0\r\n\r\n", over, i)
		}
		_, err = io.WriteString(engine, parts[len(parts)-1])
		require.NoError(t, err)
		require.Eventually(t, func() bool { // the kernel needs a moment
			n, err := peeked(c.conn)
			return err == nil && n == len(parts[len(parts)-1])
		}, 10*time.Second, time.Millisecond)
		require.False(t, c.quiet(), "%q", parts)
		for _, closer := range []io.Closer{client, engine, listener} {
			require.NoError(t, closer.Close())
		}
	}
}

// peeked is how many bytes could be read.
func peeked(conn *net.TCPConn) (n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	outer := raw.Control(func(fd uintptr) {
		n, _, err = syscall.Recvfrom(int(fd), make([]byte, 1024), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return n, errors.Join(outer, err)
}

// ORCH-3054: once a stream was closed its connection is another's, also for a second Close.
func TestASecondCloseLeavesTheConnectionAlone(t *testing.T) {
	closed := make(chan struct{})
	var requests atomic.Int32
	c, conns := served(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 2 {
			_ = http.NewResponseController(w).Flush()
			<-closed
		}
		twice(w, r)
	})
	first, err := c.Stream(t.Context(), "/x", "hello")
	require.NoError(t, err)
	require.NoError(t, first.Each(func(e Event) (bool, error) { return string(e.Data) != "last", nil }))
	first.Close()
	quietly(t, c)
	second, err := c.Stream(t.Context(), "/x", "hello")
	require.NoError(t, err)
	defer second.Close()
	first.Close()
	close(closed)
	require.NoError(t, second.Each(func(e Event) (bool, error) { return string(e.Data) != "last", nil }))
	require.EqualValues(t, 1, conns.Load())
}

func TestConnectionsAreNotKeptForEver(t *testing.T) {
	c, _ := served(t, twice)
	var all sync.WaitGroup
	for range 2 * maxKept {
		all.Go(func() { require.NoError(t, untilLast(t.Context(), t, c)) })
	}
	all.Wait()
	require.NoError(t, untilLast(t.Context(), t, c))
	c.keep.mu.Lock()
	require.NotEmpty(t, c.keep.idle)
	require.LessOrEqual(t, len(c.keep.idle), maxKept)
	for i := range c.keep.idle {
		c.keep.idle[i].since = time.Now().Add(-keptFor)
	}
	c.keep.mu.Unlock()
	c.keep.tidy()
	require.Empty(t, c.keep.idle)
	require.Nil(t, c.keep.timer)

	require.NoError(t, untilLast(t.Context(), t, c))
	c.Close()
	require.Empty(t, c.keep.idle)
	require.NoError(t, untilLast(t.Context(), t, c))
	require.Empty(t, c.keep.idle, "a client that was closed keeps nothing")
}
