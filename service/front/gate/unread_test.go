// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-819, OC-CTRL-2030, OC-CTRL-2052
func TestNetHTTPsOwnRefusalsAreEnvelopes(t *testing.T) {
	core, seen := observer.New(zap.DebugLevel)
	g := newGate(t, map[string]Front{"/": &dialect{name: "native"}}, func(o *Options) { o.Log = zap.New(core) })
	const plain = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	for _, c := range []struct {
		said   string
		status int
		code   task.Code
		says   string
	}{
		{"HTTP/1.1 400 Bad Request" + plain + "400 Bad Request", 400, task.InvalidParams, "this is no request of HTTP/1.1: look"},
		{"HTTP/1.1 400 Bad Request: missing required Host header" + plain + "400 Bad Request: missing required Host header", 400, task.InvalidParams, "(missing required Host header)"},
		{"HTTP/1.1 431 Request Header Fields Too Large" + plain + "431 Request Header Fields Too Large", 431, task.TooLarge, "1048576 bytes"},
		{"HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\n\r\n", 417, task.InvalidParams, "Expect"},
		{"HTTP/1.1 501 Not Implemented" + plain + "Unsupported transfer encoding", 501, task.NotImplemented, "Transfer-Encoding"},
		{"HTTP/1.1 505 HTTP Version Not Supported: unsupported protocol version" + plain + "505 HTTP Version Not Supported: unsupported protocol version", 505, task.NotImplemented, "HTTP/1.1"},
		{"", 400, task.InvalidParams, "no request"},
		{"HTTP/1.1 200 OK\r\n\r\n", 400, task.InvalidParams, "no request"},
	} {
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(g.Unread([]byte(c.said)))), nil)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, c.status, res.StatusCode)
		require.True(t, res.Close)
		require.Equal(t, "application/json; charset=utf-8", res.Header.Get("Content-Type"))
		id := res.Header.Get(CorrelationHeader)
		require.NotEmpty(t, id)
		var e task.Envelope
		require.NoError(t, json.Unmarshal(body, &e))
		require.Equal(t, c.code, e.Code)
		require.Contains(t, e.Message, c.says)
		require.False(t, e.Retriable)
		lines := seen.TakeAll()
		require.Len(t, lines, 1)
		require.Equal(t, id, lines[0].ContextMap()["correlation_id"])
	}
}
