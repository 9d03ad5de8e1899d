// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The worker's port has a stranger's reach as the daemon's has: a body that does not come holds up no answer.
//
// LO-820
func TestABodyThatDoesNotComeHoldsUpNoAnswer(t *testing.T) {
	server := httptest.NewServer((&worker{o: Options{APIKey: "key"}}).handler())
	t.Cleanup(server.Close)
	for head, status := range map[string]int{
		"POST /completion HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n":                              http.StatusUnauthorized,
		"POST /completion HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n":                        http.StatusUnauthorized,
		"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n":                                   http.StatusServiceUnavailable,
		"POST /nope HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key\r\nContent-Length: 1000\r\n\r\n":       http.StatusNotFound,
		"POST /completion HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer key\r\nContent-Length: 1000\r\n\r\n": http.StatusServiceUnavailable,
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = io.WriteString(conn, head)
		require.NoError(t, err)
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		require.NoError(t, err, head)
		require.Equal(t, status, res.StatusCode, head)
		_, err = io.ReadAll(in)
		require.NoError(t, err, "the connection ends")
		require.NoError(t, res.Body.Close())
		require.NoError(t, conn.Close())
	}
}
