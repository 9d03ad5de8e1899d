// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3054
func TestAnAnswerHasAnyFormOfBody(t *testing.T) {
	for name, c := range map[string]struct {
		pieces []string
		whole  bool
		kept   int
	}{
		"with a length":           {[]string{ok + "Content-Length: 9\r\n\r\n", `{"n`, `": 42}`}, true, 1},
		"chunked":                 {[]string{ok + "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"n\":\r\n", "3\r\n 42\r\n1\r\n}\r\n0\r\n\r\n"}, true, 1},
		"with the head":           {[]string{ok + "Content-Length: 9\r\n\r\n" + `{"n": 42}`}, true, 1},
		"to the connection's end": {[]string{ok + "\r\n{", `"n": 42}`}, true, 0},
		"and says that it closes": {[]string{ok + "Connection: close\r\nContent-Length: 9\r\n\r\n" + `{"n": 42}`}, true, 0},
		"with bytes behind it":    {[]string{ok + "Content-Length: 9\r\n\r\n" + `{"n": 42}HTTP/1.1 200 OK`}, true, 0},
		"ends before its length":  {[]string{ok + "Content-Length: 90\r\n\r\n" + `{"n": 42}`}, false, 0},
		"ends within a chunk":     {[]string{ok + "Transfer-Encoding: chunked\r\n\r\n99\r\n" + `{"n": 42}`}, false, 0},
		"of length 0":             {[]string{ok + "Content-Length: 0\r\n\r\n"}, false, 1},
		"that is no JSON":         {[]string{ok + "Content-Length: 2\r\n\r\n<>"}, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			client := answering(t, c.pieces...)
			var got struct{ N int }
			err := client.Post(t.Context(), "/x", "hello", &got)
			if c.whole {
				require.NoError(t, err)
				require.Equal(t, 42, got.N)
			} else {
				require.True(t, task.HasCode(err, task.WorkerReset), "%v", err)
			}
			client.keep.mu.Lock()
			defer client.keep.mu.Unlock()
			require.Len(t, client.keep.idle, c.kept)
		})
	}
}

// ORCH-3054: what an engine is asked before a stream, and the stream, go over one connection.
func TestARequestAndAStreamShareAConnection(t *testing.T) {
	c, conns := served(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ask" {
			_, _ = io.WriteString(w, `{"n": 42}`)
			return
		}
		twice(w, r)
	})
	for range 3 {
		var got struct{ N int }
		require.NoError(t, c.Post(t.Context(), "/ask", "hello", &got))
		require.Equal(t, 42, got.N)
		require.NoError(t, untilLast(t.Context(), t, c))
		quietly(t, c)
	}
	require.EqualValues(t, 1, conns.Load())
}
