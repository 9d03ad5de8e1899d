// SPDX-License-Identifier: GPL-3.0-or-later

package port

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestMain waits for no pause of net/http: behind an early answer it lasts half a second.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// serve serves on a bounded port. A request to /held or /leaves is let in and answered when the test says so.
func serve(t *testing.T, o Options) (addr string, held chan context.Context, release chan struct{}) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	held, release = make(chan context.Context), make(chan struct{})
	server := &http.Server{ConnContext: Context, ConnState: State, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Served(r.Context())
		defer Waits(r.Context())
		switch r.URL.Path {
		case "/held", "/leaves":
			if r.URL.Path == "/leaves" {
				Leaves(r.Context())
			}
			held <- r.Context()
			<-release
			if r.Context().Err() != nil {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/early":
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
	})}
	bound := Bound(listener, o)
	served := make(chan error)
	go func() { served <- server.Serve(bound) }() // joined below
	t.Cleanup(func() {
		_ = server.Close()
		bound.Drop()
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return listener.Addr().String(), held, release
}

func dial(t *testing.T, addr, text string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	return conn.(*net.TCPConn)
}

const get = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

// LO-821
func TestTheLongestWaitingMakesRoom(t *testing.T) {
	for name, o := range map[string]Options{"all together": {Most: 3, PerAddress: 9}, "one address": {Most: 9, PerAddress: 3}} {
		t.Run(name, func(t *testing.T) {
			refused := make(chan net.Addr, 1)
			o.Refused = func(from net.Addr) { refused <- from }
			addr, held, release := serve(t, o)
			busy := dial(t, addr, "GET /held HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			<-held
			first := dial(t, addr, "GET")
			dial(t, addr, "GET")
			answer, err := io.ReadAll(dial(t, addr, get))
			require.NoError(t, err)
			require.Contains(t, string(answer), "200 OK")
			if _, err = io.ReadAll(first); err != nil { // it has made room; whether its bytes had been read decides how that looks
				require.ErrorIs(t, err, syscall.ECONNRESET)
			}

			for range 2 {
				dial(t, addr, "GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
				<-held
			}
			answer, err = io.ReadAll(dial(t, addr, ""))
			require.NoError(t, err)
			require.Empty(t, answer, "nobody may be sent away, so the new one is")
			<-refused
			close(release)
			answer, err = io.ReadAll(busy)
			require.NoError(t, err)
			require.Contains(t, string(answer), "200 OK", "who is served is not sent away")
		})
	}
}

// LO-830
func TestAHandlerOutlivesAHalfClose(t *testing.T) {
	for half, want := range map[bool]string{true: "200 OK", false: "418"} {
		addr, held, release := serve(t, Options{HalfClose: half})
		conn := dial(t, addr, "GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
		ctx := <-held
		require.NoError(t, conn.CloseWrite())
		if half {
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond): // there is nothing to wait for
			}
		} else {
			<-ctx.Done()
		}
		close(release)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Contains(t, string(answer), want)
	}
}

// LO-830
func TestAResetEndsAHandler(t *testing.T) {
	addr, held, release := serve(t, Options{HalfClose: true})
	conn := dial(t, addr, "GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
	ctx := <-held
	require.NoError(t, conn.CloseWrite())
	require.NoError(t, conn.SetLinger(0))
	require.NoError(t, conn.Close())
	<-ctx.Done()
	close(release)
}

// LO-427: where a handler says so, a client that closes its side is gone; on the connection's next request that is not so.
func TestAClientThatLeaves(t *testing.T) {
	addr, held, release := serve(t, Options{HalfClose: true})
	conn := dial(t, addr, "GET /leaves HTTP/1.1\r\nHost: localhost\r\n\r\n")
	ctx := <-held
	require.NoError(t, conn.CloseWrite())
	<-ctx.Done()
	release <- struct{}{}

	conn = dial(t, addr, "GET /leaves HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-held
	release <- struct{}{}
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	_, err = io.WriteString(conn, "GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	ctx = <-held
	require.NoError(t, conn.CloseWrite())
	select {
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond): // there is nothing to wait for
	}
	release <- struct{}{}
	res, err = http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.NoError(t, res.Body.Close())
}

// LO-831
func TestAnEarlyAnswerReachesAClientThatWrites(t *testing.T) {
	addr, _, _ := serve(t, Options{})
	const size = 8 << 20
	conn := dial(t, addr, "POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8388608\r\n\r\n")
	_, err := io.Copy(conn, strings.NewReader(strings.Repeat("x", size)))
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "413")
}

// LO-821
func TestANetworkOfIPv6CountsAsOne(t *testing.T) {
	for a, b := range map[string]string{
		"192.0.2.1": "::ffff:192.0.2.1", "2001:db8::1": "2001:db8::ffff:1", "fe80::1%eth0": "fe80::2",
	} {
		require.Equal(t, network(netip.MustParseAddr(a)), network(netip.MustParseAddr(b)))
	}
	require.NotEqual(t, network(netip.MustParseAddr("192.0.2.1")), network(netip.MustParseAddr("192.0.2.2")))
	require.NotEqual(t, network(netip.MustParseAddr("2001:db8::1")), network(netip.MustParseAddr("2001:db8:0:1::1")))
	require.GreaterOrEqual(t, Room(), 4)
}

// What net/http refuses before a handler is called is worded by the port's owner; what a handler says is left alone, also behind a
// refusal's like, and on every request of a connection.
//
// LO-819
func TestNetHTTPsOwnRefusalsAreWorded(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var open sync.WaitGroup // net/http lingers for half a second behind a refusal
	server := &http.Server{
		ConnContext: Context, ReadHeaderTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		ConnState: func(c net.Conn, s http.ConnState) {
			State(c, s)
			switch s {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Done()
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			Begun(r.Context())
			if r.URL.Path == "/400" {
				w.WriteHeader(http.StatusBadRequest)
			}
			_, _ = io.Copy(w, r.Body)
			_, _ = io.WriteString(w, "handled "+r.URL.Path+"\n")
		}),
	}
	bound := Bound(listener, Options{Linger: time.Millisecond, Refusal: func(said []byte) []byte {
		line, _, _ := strings.Cut(string(said), "\r\n")
		return []byte("OWN WORDS for " + line + "\n")
	}})
	served := make(chan error)
	go func() { served <- server.Serve(bound) }() // joined below
	t.Cleanup(func() {
		_ = server.Close()
		bound.Drop()
		require.ErrorIs(t, <-served, http.ErrServerClosed)
		open.Wait()
	})
	const head = " HTTP/1.1\r\nHost: localhost\r\n"
	for name, c := range map[string]struct{ text, says string }{
		"nonsense":              {"nonsense\r\n\r\n", "400"},
		"TLS":                   {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"},
		"a bad path":            {"GET /%zz" + head + "\r\n", "400"},
		"no host":               {"GET / HTTP/1.1\r\n\r\n", "400"},
		"two hosts":             {"GET /" + head + "Host: other\r\n\r\n", "400"},
		"a bad host":            {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"},
		"a bad header":          {"GET /" + head + "a b: c\r\n\r\n", "400"},
		"a folded first line":   {"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", "400"},
		"a length that is none": {"POST /" + head + "Content-Length: many\r\n\r\n", "400"},
		"two lengths":           {"POST /" + head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "400"},
		"another coding":        {"POST /" + head + "Transfer-Encoding: gzip\r\n\r\n", "501"},
		"another version":       {"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", "505"},
		"an expectation":        {"POST /" + head + "Expect: wonders\r\nContent-Length: 1\r\n\r\nx", "417"},
		"a large head":          {"GET /" + head + "X: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", "431"},
	} {
		for prefix, before := range map[string]string{"": "", "GET /first" + head + "\r\nGET /400" + head + "\r\n": "handled"} {
			answer, err := io.ReadAll(dial(t, listener.Addr().String(), prefix+c.text))
			if err != nil { // it may come while the client still sends
				require.ErrorIs(t, err, syscall.ECONNRESET, name)
			}
			at := strings.Index(string(answer), "OWN WORDS for HTTP/1.1 "+c.says)
			require.GreaterOrEqual(t, at, 0, "%s: %q", name, answer)
			require.Equal(t, before != "", strings.Contains(string(answer[:at]), "handled /first\n"), name)
			require.Equal(t, 1, strings.Count(string(answer), "OWN WORDS"), name)
			require.NotContains(t, string(answer[at:]), "Content-Type", name)
		}
	}
	answer, err := io.ReadAll(dial(t, listener.Addr().String(),
		"POST /400"+head+"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"+"GET /last"+head+"Connection: close\r\n\r\n"))
	require.NoError(t, err)
	require.NotContains(t, string(answer), "OWN WORDS")
	require.Contains(t, string(answer), "abchandled /400\n")
	require.Contains(t, string(answer), "handled /last\n")
}

// LO-803: a goroutine without a caller tells of its panic where somebody listens, and else lets it go on.
func TestAPanicWithoutACallerIsTold(t *testing.T) {
	var told any
	stumble := func(o Options) {
		defer (&Listener{o: o}).panicked()
		panic("index out of range")
	}
	require.NotPanics(t, func() { stumble(Options{Panicked: func(p any) { told = p }}) })
	require.Equal(t, "index out of range", told)
	require.Panics(t, func() { stumble(Options{}) })
}
