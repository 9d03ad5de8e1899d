// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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

// upload sends a body piece by piece, and returns the status of the answer.
func upload(t *testing.T, url string, pieces int, pause time.Duration) int {
	t.Helper()
	out, in := io.Pipe()
	go func() {
		for range pieces {
			if _, err := io.WriteString(in, "x"); err != nil {
				return
			}
			time.Sleep(pause) // what the test is about: the client is slow
		}
		_ = in.Close()
	}()
	res, err := http.Post(url, "text/plain", out)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode
}

// LO-823
func TestABodyThatMovesIsServed(t *testing.T) {
	g := newGate(t, map[string]Front{"/": reads(func() {})}, func(o *Options) { o.ReadTimeout = 400 * time.Millisecond })
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	require.Equal(t, http.StatusOK, upload(t, server.URL, 16, 50*time.Millisecond), "all of it takes twice as long as one read may")
	require.Equal(t, http.StatusBadRequest, upload(t, server.URL, 2, time.Second), "it stands still")

	g = newGate(t, map[string]Front{"/": reads(func() {})}, func(o *Options) { o.ReadTimeout = 40 * time.Millisecond })
	server = httptest.NewServer(g)
	t.Cleanup(server.Close)
	require.Equal(t, http.StatusBadRequest, upload(t, server.URL, 400, 5*time.Millisecond), "it moves for ever")
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
