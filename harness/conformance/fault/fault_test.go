// SPDX-License-Identifier: GPL-3.0-or-later

package fault

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// well is a server that streams three pieces and an end.
var well = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", eventStream)
	for _, piece := range []string{"one", "two", "three 蛙", "four", "five"} {
		fmt.Fprintf(w, "data: {\"text\":%q}\n\n", piece)
	}
	fmt.Fprint(w, "data: {\"end\":true}\n\ndata: {\"usage\":{\"completion_tokens\":5}}\n\n")
})

var shape = Shape{
	Streams: func(path string, _ []byte) bool { return path == "/stream" },
	Says:    func(data string) bool { return strings.Contains(data, `"text"`) },
	Ends:    func(data string) bool { return strings.Contains(data, `"end"`) },
	Error:   func(status int, message string) string { return fmt.Sprintf(`{"error":%q,"code":%d}`, message, status) },
}

// got is what comes to a client over its connection, chunk by chunk.
func got(t *testing.T, s *Server) string {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	if s.fault.Want == Held { // it goes on until its client leaves
		go func() {
			if s.Until(t.Context(), func() bool { return s.Asks() > 0 }) == nil {
				_ = conn.Close() // that is how it leaves
			}
		}()
	}
	_, err = io.WriteString(conn, "POST /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
	require.NoError(t, err)
	all, err := io.ReadAll(conn)
	return date.ReplaceAllString(string(all), "") + fmt.Sprint(err)
}

var date = regexp.MustCompile("Date: [^\r]*\r\n")

// A fault that changes nothing would let every adapter pass. Each has a name of its own, and each but the slow one, which takes time alone, changes what a client gets.
// Behind it the server says that the stream is over, and other requests are left alone.
//
// LO-458
func TestEachFaultChangesWhatAClientGets(t *testing.T) {
	want := got(t, New(well, Fault{Name: "none", Want: Same, wrap: func(c *call) {
		c.pass(func(write func(string), frame string) { write(frame) })
	}}, shape))
	require.Contains(t, want, `{"end":true}`)
	names := map[string]bool{}
	for _, f := range All() {
		t.Run(f.Name, func(t *testing.T) {
			require.False(t, names[f.Name], "the name is taken")
			names[f.Name] = true
			s := New(well, f, shape)
			if f.Name == "slow headers" {
				require.Contains(t, got(t, s), `{"end":true}`)
			} else {
				require.NotEqual(t, want, got(t, s))
			}
			require.NoError(t, s.Until(t.Context(), s.Over))
			require.Equal(t, 1, s.Asks())

			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/health", http.NoBody))
			require.Contains(t, w.Body.String(), `{"end":true}`, "it is no stream")
			require.Equal(t, 1, s.Asks())
		})
	}
}

// LO-458: a server that was only busy answers the next try as it should.
func TestTheNextTryIsAnswered(t *testing.T) {
	for _, f := range All() {
		if f.Want != Retried {
			continue
		}
		s := New(well, f, shape)
		require.Contains(t, got(t, s), "not now")
		require.Contains(t, got(t, s), `{"end":true}`)
	}
}
