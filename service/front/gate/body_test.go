// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// reads is a front that answers with how many bytes it read.
func reads(wait func()) *dialect {
	d := &dialect{name: "x"}
	d.serve = func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			d.Refuse(w, r, err)
			return
		}
		wait()
		_, _ = io.WriteString(w, strings.Repeat("x", len(data)))
	}
	return d
}

// pipes is a listener whose connections are in memory. Their deadlines follow the clock of the test's bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, open := <-p
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Close() error {
	close(p)
	return nil
}

func (p pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

// loopback is a connection that has come from this machine.
type loopback struct{ net.Conn }

func (loopback) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5000} }

// upload sends a body piece by piece, and returns the status of the answer. It needs a bubble.
func upload(t *testing.T, g *Gate, pieces int, pause time.Duration) int {
	t.Helper()
	listener := make(pipes, 1)
	server := &http.Server{Handler: g}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	client := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		mine, its := net.Pipe()
		listener <- loopback{its}
		return mine, nil
	}}
	out, in := io.Pipe()
	served.Go(func() {
		for range pieces {
			if _, err := io.WriteString(in, "x"); err != nil {
				return
			}
			time.Sleep(pause) // what the test is about: the client is slow
		}
		_ = in.Close()
	})
	defer func() {
		_ = out.Close() // a client that was refused sends no more
		client.CloseIdleConnections()
		_ = server.Close()
		served.Wait()
	}()
	res, err := (&http.Client{Transport: client}).Post("http://127.0.0.1:8080/", "text/plain", out)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode
}

// LO-823
func TestABodyThatMovesIsServed(t *testing.T) {
	for name, c := range map[string]struct {
		pieces int
		pause  time.Duration
		status int
	}{
		"twice as long as one read may be":    {20, 3 * time.Second, http.StatusOK},
		"it stands still":                     {2, 31 * time.Second, http.StatusBadRequest},
		"as long as the whole may be, nearly": {199, 3 * time.Second, http.StatusOK},
		"it moves for ever":                   {201, 3 * time.Second, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(t, map[string]Front{"/": reads(func() {})}, func(o *Options) { o.ReadTimeout = 30 * time.Second })
				require.Equal(t, c.status, upload(t, g, c.pieces, c.pause))
			})
		})
	}
}

// LO-822
func TestBodiesAreBoundedTogether(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	g := newGate(t, map[string]Front{"/": reads(func() { began <- struct{}{}; <-release })}, func(o *Options) { o.MaxBody, o.MaxBodies = 100, 250 })
	body := strings.Repeat("x", 90)
	done := make(chan int)
	post := func() {
		res, _ := ask(g, http.MethodPost, "/", body)
		_ = res.Body.Close()
		done <- res.StatusCode
	}
	for range 2 {
		go post()
		<-began
	}
	res, answer := ask(g, http.MethodPost, "/", body)
	require.Equal(t, http.StatusTooManyRequests, res.StatusCode)
	require.Equal(t, "x ADMISSION_REJECT", answer)
	require.Equal(t, "1", res.Header.Get("Retry-After"))
	close(release)
	require.Equal(t, http.StatusOK, <-done)
	require.Equal(t, http.StatusOK, <-done)
	go post()
	<-began
	require.Equal(t, http.StatusOK, <-done, "there is room again")
	require.Zero(t, g.bodies.used.Load())
}

// LO-435: a body that its front writes to the disk has a bound of its own, and takes nothing of the memory for all.
func TestAnUploadHasABoundOfItsOwn(t *testing.T) {
	front := reads(func() {})
	front.route.Upload = 3000
	g := newGate(t, map[string]Front{"/": front}, func(o *Options) { o.MaxBody, o.MaxBodies = 1000, 1000 })
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	send := func(n int) int {
		res, err := http.Post(server.URL, "text/plain", strings.NewReader(strings.Repeat("x", n)))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.StatusCode
	}
	require.Equal(t, http.StatusOK, send(3000))
	require.Equal(t, http.StatusRequestEntityTooLarge, send(3001))
	require.Zero(t, g.bodies.used.Load())
	front.route.Upload = 0
	require.Equal(t, http.StatusRequestEntityTooLarge, send(1001))
}
