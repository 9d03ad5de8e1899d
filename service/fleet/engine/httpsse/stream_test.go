// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// engine answers its one connection as it likes, behind the first byte of the request, and ends it.
func engine(t *testing.T, answer func(conn net.Conn, in *bufio.Reader)) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { // joined by the cleanup
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		_, _ = in.Peek(1)
		answer(conn, in)
	}()
	c := New(Options{BaseURL: "http://" + l.Addr().String(), APIKey: "k", Engine: "test"})
	t.Cleanup(func() { _ = l.Close(); c.Close(); <-done })
	return c
}

// readRequest reads the whole request.
func readRequest(in *bufio.Reader) {
	if req, err := http.ReadRequest(in); err == nil {
		_, _ = io.Copy(io.Discard, req.Body)
	}
}

// answering is an engine that answers with these bytes, piece by piece.
func answering(t *testing.T, pieces ...string) *Client {
	t.Helper()
	return engine(t, func(conn net.Conn, in *bufio.Reader) {
		readRequest(in)
		for i, p := range pieces {
			if i > 0 {
				taken(conn) // so that they come apart
			}
			_, _ = io.WriteString(conn, p)
		}
	})
}

// taken returns when the other side, which is of this machine, has read all that was written, or is gone.
func taken(conn net.Conn) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	for delivered := false; err == nil && !delivered; runtime.Gosched() {
		err = raw.Control(func(fd uintptr) {
			left, asked := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
			delivered = asked != nil || left == 0
		})
	}
	port := func(a net.Addr) string { return fmt.Sprintf(":%04X", a.(*net.TCPAddr).Port) }
	for unread := true; unread; runtime.Gosched() {
		unread = false
		table, _ := os.ReadFile("/proc/net/tcp")
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 4 && strings.HasSuffix(f[1], port(conn.RemoteAddr())) && strings.HasSuffix(f[2], port(conn.LocalAddr())) {
				_, waits, _ := strings.Cut(f[4], ":")
				unread = waits != "00000000"
			}
		}
	}
}

// LO-851
func TestTakenWaitsForTheReader(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	reader, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer reader.Close()
	writer, err := l.Accept()
	require.NoError(t, err)
	defer writer.Close()
	taken(writer)
	_, err = io.WriteString(writer, "hello")
	require.NoError(t, err)
	var read atomic.Bool
	done := make(chan bool)
	go func() { taken(writer); done <- read.Load() }()
	for range 1000 { // it goes on looking
		runtime.Gosched()
	}
	read.Store(true)
	_, err = io.ReadFull(reader, make([]byte, 5))
	require.NoError(t, err)
	require.True(t, <-done)
	_, err = io.WriteString(writer, "never read")
	require.NoError(t, err)
	require.NoError(t, reader.Close())
	taken(writer)
}

// events reads a stream to its end.
func events(t *testing.T, c *Client) (got []string, err error) {
	t.Helper()
	s, err := c.Stream(t.Context(), "/x", "hello")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	err = s.Each(func(e Event) (bool, error) {
		got = append(got, string(e.Data))
		return true, nil
	})
	return got, err
}

const ok = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"

// ORCH-3054
func TestAStreamHasAnyFormOfBody(t *testing.T) {
	chunkedHead := ok + "Transfer-Encoding: chunked\r\n\r\n"
	for name, c := range map[string]struct {
		pieces []string
		want   []string
		err    error
	}{
		"chunked":                     {[]string{chunkedHead, "9\r\ndata: a\n\n\r\n", "9\r\ndata: b\n\n\r\n0\r\n\r\n"}, []string{"a", "b"}, io.EOF},
		"chunks of parts":             {[]string{chunkedHead + "4\r\nda", "ta\r\n5;x=y\r\n: a\n\n\r\n0\r\nTrailer: z\r\n\r\n"}, []string{"a"}, io.EOF},
		"with the head":               {[]string{chunkedHead + "9\r\ndata: a\n\n\r\n0\r\n\r\n"}, []string{"a"}, io.EOF},
		"ends within a chunk":         {[]string{chunkedHead + "99\r\ndata: a\n\n"}, []string{"a"}, io.ErrUnexpectedEOF},
		"ends between chunks":         {[]string{chunkedHead + "9\r\ndata: a\n\n\r\n"}, []string{"a"}, io.ErrUnexpectedEOF},
		"ends within an event":        {[]string{chunkedHead + "8\r\ndata: a\n\r\n0\r\n\r\n"}, nil, io.ErrUnexpectedEOF},
		"no chunks":                   {[]string{chunkedHead + "data: a\n\n"}, nil, errChunks},
		"with a length":               {[]string{ok + "Content-Length: 18\r\n\r\ndata: a\n\n", "data: b\n\nnever read"}, []string{"a", "b"}, io.EOF},
		"ends before its length":      {[]string{ok + "Content-Length: 18\r\n\r\ndata: a\n\n"}, []string{"a"}, io.ErrUnexpectedEOF},
		"of length 0":                 {[]string{ok + "Content-Length: 0\r\n\r\n"}, nil, io.EOF},
		"to the connection's end":     {[]string{ok + "\r\ndata: a\n", "\n"}, []string{"a"}, io.EOF},
		"to that end within an event": {[]string{ok + "\r\ndata: a\n"}, nil, io.ErrUnexpectedEOF},
		"behind a hint":               {[]string{"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", ok + "\r\ndata: a\n\n"}, []string{"a"}, io.EOF},
		"an event before what is bad": {[]string{chunkedHead, "9\r\ndata: a\n\n\r\nzz"}, []string{"a"}, errChunks},
		"an event without end":        {[]string{ok + "\r\n" + strings.Repeat("data: "+strings.Repeat("x", 1<<10)+"\n", maxEvent>>10)}, nil, ErrTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := events(t, answering(t, c.pieces...))
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.want, got)
		})
	}
}

// ORCH-3054
func TestABadHeadIsReset(t *testing.T) {
	for name, head := range map[string]string{
		"none":       "",
		"no HTTP":    "* OK IMAP4rev1 ready\r\n",
		"cut":        "HTTP/1.1 200 OK\r\nContent-",
		"too long":   ok + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 100) + "\r\n",
		"a refusal":  "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
		"a redirect": "HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := events(t, answering(t, head))
			require.True(t, task.HasCode(err, task.WorkerReset), "%v", err)
		})
	}
	got, err := events(t, answering(t, "HTTP/1.1 400 Bad Request\r\nContent-Length: 15\r\n\r\n{\"error\":\"bad\"}"))
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.ErrorContains(t, err, "bad")
	require.Empty(t, got)
}

// The end of the context ends the waiting for the head and for an event, and the engine sees that nobody reads any more.
//
// ORCH-3026
func TestTheEndOfTheContextEndsAStream(t *testing.T) {
	for name, head := range map[string]bool{"before the head": false, "between events": true} {
		t.Run(name, func(t *testing.T) {
			cause := errors.New("the user changed their mind")
			ctx, cancel := context.WithCancelCause(t.Context())
			reached, left := make(chan struct{}), make(chan struct{})
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // net/http looks for the client's end only behind it
				if head {
					_, _ = io.WriteString(w, "data: a\n\n")
					_ = http.NewResponseController(w).Flush()
				}
				close(reached)
				<-r.Context().Done()
				close(left)
			})
			go func() {
				<-reached
				if !head {
					cancel(cause)
				}
			}()
			s, err := c.Stream(ctx, "/x", "hello")
			if head {
				require.NoError(t, err)
				err = c.Broken(ctx, s.Each(func(Event) (bool, error) {
					time.AfterFunc(10*time.Millisecond, func() { cancel(cause) })
					return true, nil
				}))
				s.Close()
			}
			require.ErrorIs(t, err, cause)
			<-left
		})
	}
}

// The end of the context counts also where the engine never pauses and never completes an event, and over TLS.
//
// ORCH-3026
func TestAStreamWithoutPauseEnds(t *testing.T) {
	comments := bytes.Repeat([]byte(":\n"), 64<<10)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for {
			if _, err := w.Write(comments); err != nil {
				return
			}
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	for _, server := range []*httptest.Server{plain, secure} {
		c := New(Options{BaseURL: server.URL, Engine: "test", TLS: trusted(secure)})
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.Stream(ctx, "/x", "hello")
		require.NoError(t, err)
		time.AfterFunc(50*time.Millisecond, cancel)
		require.ErrorIs(t, s.Each(func(Event) (bool, error) { return true, nil }), os.ErrDeadlineExceeded)
		s.Close()
		cancel()
		c.Close()
	}
}

func trusted(server *httptest.Server) *tls.Config {
	return server.Client().Transport.(*http.Transport).TLSClientConfig
}

// A refusal counts that comes before the engine has read the request.
//
// ORCH-3054
func TestARefusalMayComeFirst(t *testing.T) {
	c := engine(t, func(conn net.Conn, in *bufio.Reader) {
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\ntoo big")
		_, _ = io.Copy(io.Discard, in) // until the client goes, which need not send it all
	})
	_, err := c.Stream(t.Context(), "/x", strings.Repeat("x", 32<<20))
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.ErrorContains(t, err, "too big")
}

// An engine that dies just behind a token ends the stream at once, although the kernel tells of both together.
//
// LO-203
func TestAnEngineThatDiesBehindATokenIsNoticed(t *testing.T) {
	for range 100 {
		c := engine(t, func(conn net.Conn, in *bufio.Reader) {
			readRequest(in)
			_, _ = io.WriteString(conn, ok+"Transfer-Encoding: chunked\r\n\r\n")
			taken(conn) // the client waits for a token now
			_, _ = io.WriteString(conn, "9\r\ndata: a\n\n\r\n")
			_ = conn.Close()
		})
		got, err := events(t, c)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, []string{"a"}, got)
	}
}

// ORCH-3054
func TestAStreamGoesOverTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer k" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		for i := range 100 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
		}
	}))
	defer server.Close()
	c := New(Options{BaseURL: server.URL, APIKey: "k", Engine: "test", TLS: trusted(server)})
	defer c.Close()
	got, err := events(t, c)
	require.ErrorIs(t, err, io.EOF)
	require.Len(t, got, 100)

	wary := New(Options{BaseURL: server.URL, APIKey: "k", Engine: "test"})
	defer wary.Close()
	_, err = events(t, wary)
	require.ErrorContains(t, err, "certificate", "what it does not know it does not trust")
}

// What chunks leave is what net/http's reader leaves, however the bytes come.
//
// ORCH-3054
func TestChunksAreThoseOfTheStandard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var body, in bytes.Buffer
		w := httputil.NewChunkedWriter(&in)
		for _, part := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 1, 40)).Draw(t, "parts") {
			body.Write(part)
			_, _ = w.Write(part)
		}
		_ = w.Close()
		in.WriteString(rapid.SampledFrom([]string{"\r\n", "A: b\r\n\r\n"}).Draw(t, "trailer"))
		var c chunks
		var got []byte
		over := false
		for rest := in.Bytes(); len(rest) > 0; {
			require.False(t, over)
			n := min(rapid.IntRange(1, 50).Draw(t, "read"), len(rest))
			data, ended, err := c.strip(bytes.Clone(rest[:n]))
			require.NoError(t, err)
			got, over, rest = append(got, data...), ended, rest[n:]
		}
		require.True(t, over)
		require.Equal(t, body.String(), string(got))
	})
}

// ORCH-3054
func FuzzChunks(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), 3)
	f.Add([]byte("5;a=b\nhello\n0\nx: y\n\n"), 1)
	f.Add([]byte("ffffffffffffffff\r\n"), 100)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		step = max(1, step)
		whole, ended, wholeErr := new(chunks).strip(bytes.Clone(in))
		var c chunks
		var got []byte
		var over bool
		var err error
		for rest := in; len(rest) > 0 && !over && err == nil; {
			n := min(step, len(rest))
			var data []byte
			data, over, err = c.strip(bytes.Clone(rest[:n]))
			got, rest = append(got, data...), rest[n:]
		}
		require.Equal(t, string(whole), string(got), "it is the same in one piece")
		require.Equal(t, ended, over)
		require.Equal(t, wholeErr, err)
		if want, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(in))); err == nil && ended {
			require.Equal(t, string(want), string(got), "and what the standard library reads")
		}
	})
}

// LO-803: a panic of the goroutine that sends a request is the caller's, and the connection is closed.
func TestAPanicWhileARequestIsSentIsTheCallers(t *testing.T) {
	here, there := net.Pipe()
	c := New(Options{BaseURL: "http://127.0.0.1:1", Network: &Network{
		Dial: func(context.Context, *url.URL) (net.Conn, error) { return stumbling{here}, nil },
	}})
	go func() { _, _ = there.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) }()
	require.PanicsWithError(t, "panic: index out of range", func() { _, _ = c.Stream(t.Context(), "/x", 1) })
	_, err := there.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "it was closed")
}

type stumbling struct{ net.Conn }

func (stumbling) Write([]byte) (int, error) { panic("index out of range") }
