// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t *testing.T, fn http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(fn)
	c := New(Options{BaseURL: s.URL + "/", APIKey: "k", Engine: "test"})
	t.Cleanup(func() { c.Close(); s.Close() })
	return c
}

// ORCH-3054
func TestAnswersAreMappedToCodes(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		code   task.Code
		says   string
	}{
		{400, `{"error":{"message":"bad temperature","code":400}}`, task.InvalidParams, "bad temperature"},
		{422, `{"error":"inputs must be shorter","error_type":"validation"}`, task.InvalidParams, "inputs must be shorter"},
		{413, `too big`, task.InvalidParams, "too big"},
		{501, `{"detail":"no embeddings here"}`, task.InvalidParams, "no embeddings here"},
		{401, `{"error":{"message":"Invalid API Key"}}`, task.WorkerReset, "Invalid API Key"},
		{404, ``, task.WorkerReset, "(no message)"},
		{429, `{"message":"slow down"}`, task.WorkerReset, "slow down"},
		{500, `{"error":{"message":"boom"}}`, task.WorkerReset, "boom"},
		{503, `{"error":{"message":"Loading model"}}`, task.WorkerReset, "Loading model"},
		{302, ``, task.WorkerReset, "302"},
		{200, `{`, task.WorkerReset, "JSON"},
	} {
		e := serve(t, func(w http.ResponseWriter, r *http.Request) {
			assert.Equal(t, "Bearer k", r.Header.Get("Authorization"))
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		var out map[string]any
		err := e.Get(t.Context(), "/x", &out)
		require.ErrorContains(t, err, c.says)
		te := task.AsError(err)
		require.Equal(t, c.code, te.Code, c.says)
		require.Equal(t, c.code == task.WorkerReset && c.status != 404 && c.status != 302, te.Retriable)
		require.Equal(t, "test", te.Engine)
	}
}

// ORCH-3054
func TestUnreachableEngineIsReset(t *testing.T) {
	c := New(Options{BaseURL: "http://127.0.0.1:1", Engine: "test"})
	defer c.Close()
	err := c.Get(t.Context(), "/x", nil)
	require.True(t, task.HasCode(err, task.WorkerReset))
}

// ORCH-3026
func TestCauseOfTheEndIsKept(t *testing.T) {
	cause := errors.New("the user changed their mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	reached := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(reached)
		<-r.Context().Done()
	})
	go func() { <-reached; cancel(cause) }()
	require.ErrorIs(t, c.Get(ctx, "/x", nil), cause)
}

// ORCH-3054
func TestConnectionThatDiedWhileKeptIsNoError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for range 2 {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(conn)
			if req, err := http.ReadRequest(r); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
				_, _ = r.ReadByte() // the next request begins: leave it without an answer
			}
			_ = conn.Close()
		}
	})
	c := New(Options{BaseURL: "http://" + l.Addr().String(), Engine: "test"})
	defer c.Close()
	var out map[string]any
	require.NoError(t, c.Post(t.Context(), "/x", "first", &out))
	require.NoError(t, c.Post(t.Context(), "/x", "second", &out))
}

// ORCH-3054
func TestAnswersAreBounded(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range maxAnswer/len(chunk) + 1 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	require.ErrorContains(t, c.Get(t.Context(), "/x", nil), "more than")
}
