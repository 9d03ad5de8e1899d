// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/tape"
	"github.com/llama-orch/llama-orch/harness/watch"
)

const httpToken = "a-token-of-the-suite"

// What clients of HTTP do, well-meaning or not.
//
// LO-819, LO-820, LO-821, LO-824, LO-825, LO-826, LO-827, LO-828, LO-829, LO-830, LO-831, LO-844
func TestHTTP(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	exe := built(t)
	few := filepath.Join(dir, "few") // descriptors
	require.NoError(t, os.WriteFile(few, []byte("#!/bin/sh\nulimit -n 128\nexec "+exe+" \"$@\"\n"), 0o700))
	for name, try := range map[string]func(*testing.T, string){
		"a body that does not come holds up no answer": bodiesThatDoNotCome,
		"a client that closes its side is served":      halfClosedClients,
		"a body that is too large gets its answer":     bodiesThatAreTooLarge,
		"an EventSource comes back":                    eventSources,
		"who counts as local":                          localCallers,
		"HTTP as the world speaks it":                  spokenHTTP,
	} {
		t.Run(name, func(t *testing.T) { try(t, exe) })
	}
	t.Run("sockets that say nothing shut nobody out", func(t *testing.T) { silentSockets(t, few) })
}

// httpDaemon runs a daemon that wants a token, with one external engine, and returns its address.
func httpDaemon(t *testing.T, exe, settings string) (d *daemon.Daemon, addr string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	fake := httptest.NewServer(fakeengine.New(fakeengine.Options{}))
	t.Cleanup(fake.Close)
	config := filepath.Join(dir, "c.yaml")
	require.NoError(t, os.WriteFile(config, []byte(settings+`
data_dir: state
pools:
  - {id: only, model: {id: m, ref: x}, provisioning: {mode: external, urls: ["`+fake.URL+`"]}}
`), 0o600))
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	d, err = daemon.Start(t.Context(), l, daemon.Options{
		Config: config, Token: httpToken,
		Options: process.Options{Exe: exe, Args: []string{"--no-self-test"}, Env: process.Env(dir, map[string]string{"LLORCH_API_TOKEN": httpToken})},
	})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	require.NoError(t, d.Answers(t.Context(), "/readyz"))
	return d, strings.TrimPrefix(d.URL, "http://")
}

// send opens a connection, sends text on it, and leaves it open.
func send(t *testing.T, addr, text string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	return conn.(*net.TCPConn)
}

// answer reads one answer, to its end.
func readAnswer(t *testing.T, in *bufio.Reader) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

const taskBody = `{"model_ref":"m","prompt":"x","max_tokens":3}`

// Each head is followed by nothing, or by less than it says. The answer comes all the same, and soon.
func bodiesThatDoNotCome(t *testing.T, exe string) {
	t.Helper()
	_, addr := httpDaemon(t, exe, "bind_addr: 127.0.0.1:0")
	const auth, json = "Authorization: Bearer " + httpToken + "\r\n", "Content-Type: application/json\r\n"
	for _, c := range []struct {
		name, head string
		status     int
	}{
		{"a GET that announces a body", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", 200},
		{"a GET in chunks", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 200},
		{"a GET of a list", "GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\n" + auth + "Content-Length: 1000\r\n\r\n", 200},
		{"a POST without a token", "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n" + json + "Content-Length: 1000\r\n\r\n", 401},
		{"a POST in chunks without a token", "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n" + json + "Transfer-Encoding: chunked\r\n\r\n", 401},
		{"a large POST without a token", "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n" + json + "Content-Length: 1000000\r\n\r\n{", 401},
		{"a POST of text", "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n" + auth + "Content-Type: text/plain\r\nContent-Length: 1000\r\n\r\n", 415},
		{"a POST that is too large", "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n" + auth + json + "Content-Length: 900000000\r\n\r\n", 413},
		{"a path that is not there", "POST /nope HTTP/1.1\r\nHost: localhost\r\n" + auth + "Content-Length: 1000\r\n\r\n", 404},
		{"a cancel, which takes no body", "POST /v1/tasks/none/cancel HTTP/1.1\r\nHost: localhost\r\n" + auth + "Content-Length: 1000\r\n\r\n", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn := send(t, addr, c.head) // which waits for less long than the daemon does for a body
			in := bufio.NewReader(conn)
			res, _ := readAnswer(t, in)
			require.Equal(t, c.status, res.StatusCode)
			_, err := io.ReadAll(in)
			require.NoError(t, err, "the connection ends with the answer")
		})
	}
}

// 250 sockets that say nothing, or half a head, or have no body to their head, at 128 descriptors: others are served, and no more
// descriptors are used than there are.
func silentSockets(t *testing.T, exe string) {
	t.Helper()
	d, addr := httpDaemon(t, exe, "bind_addr: 127.0.0.1:0")
	for _, text := range []string{"", "GET /v1/tasks HTT", "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"} {
		for range 250 {
			conn, err := net.Dial("tcp", addr)
			require.NoError(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			_, _ = io.WriteString(conn, text) // it may have been closed for another
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := d.Client.Get(ctx, "/v1/pools")
		cancel()
		require.NoError(t, err, d.Tail(10))
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Pid()))
		require.NoError(t, err)
		require.Less(t, len(open), 128)
	}
	require.NotContains(t, d.Output(), "too many open files")
}

// A client that closes its side once it has asked is served: a task is accepted, and its stream comes whole.
func halfClosedClients(t *testing.T, exe string) {
	t.Helper()
	d, addr := httpDaemon(t, exe, "bind_addr: 127.0.0.1:0")
	ask := func(text string) (*http.Response, string) {
		conn := send(t, addr, text)
		require.NoError(t, conn.CloseWrite())
		return readAnswer(t, bufio.NewReader(conn))
	}
	const head = " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + httpToken + "\r\n"
	for i := range 5 {
		body := fmt.Sprintf(`{"task_id":"half-%d","model_ref":"m","prompt":"x","max_tokens":3}`, i)
		res, text := ask(fmt.Sprintf("POST /v1/tasks%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body))
		require.Equal(t, http.StatusAccepted, res.StatusCode, text)
		res, text = ask(fmt.Sprintf("GET /v1/tasks/half-%d/stream%s\r\n", i, head))
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Contains(t, text, "event: end\n")
	}
	require.NotContains(t, d.Output(), "INTERNAL")
}

// A client that sends its whole body before it reads gets the 413.
func bodiesThatAreTooLarge(t *testing.T, exe string) {
	t.Helper()
	_, addr := httpDaemon(t, exe, "bind_addr: 127.0.0.1:0\nlimits: {body_bytes: 1048576}")
	for _, size := range []int{1<<20 + 1, 3 << 20, 20 << 20} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, chunked %v", size, chunked), func(t *testing.T) {
				t.Parallel()
				length, first, last := fmt.Sprintf("Content-Length: %d", size), "", ""
				if chunked {
					length, first, last = "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n", size), "\r\n0\r\n\r\n"
				}
				conn := send(t, addr, "POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "+httpToken+
					"\r\nContent-Type: application/json\r\n"+length+"\r\n\r\n"+first)
				_, err := conn.Write(bytes.Repeat([]byte("x"), size))
				require.NoError(t, err)
				_, _ = io.WriteString(conn, last)
				res, text := readAnswer(t, bufio.NewReader(conn))
				require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
				require.Contains(t, text, "TOO_LARGE")
			})
		}
	}
}

// An EventSource comes back with the id that it saw last, at the address it was given. When that was the last there is, it gets 204.
func eventSources(t *testing.T, exe string) {
	t.Helper()
	d, _ := httpDaemon(t, exe, "bind_addr: 127.0.0.1:0")
	_, err := d.Client.Post(t.Context(), "/v1/tasks", []byte(strings.Replace(taskBody, "{", `{"task_id":"es",`, 1)), http.StatusAccepted)
	require.NoError(t, err)
	stream := func(query string, header ...string) (int, []string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.URL+"/v1/tasks/es/stream"+query, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+httpToken)
		if len(header) > 0 {
			req.Header["Last-Event-Id"] = header
		}
		res, err := (&http.Client{Transport: tape.Transport(http.DefaultTransport)}).Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		var ids []string
		for in := bufio.NewScanner(res.Body); in.Scan(); {
			if id, ok := strings.CutPrefix(in.Text(), "id: "); ok {
				ids = append(ids, id)
			}
		}
		return res.StatusCode, ids
	}
	status, all := stream("")
	require.Equal(t, http.StatusOK, status)
	require.Greater(t, len(all), 3)
	last := all[len(all)-1]
	for _, c := range []struct {
		name, query string
		header      []string
		status      int
		ids         []string
	}{
		{"the header wins over the address", "?after=" + all[0], []string{all[1]}, 200, all[2:]},
		{"and over one that is none", "?after=x", []string{all[1]}, 200, all[2:]},
		{"an empty header is none", "?after=" + all[0], []string{""}, 200, all[1:]},
		{"an empty header alone", "", []string{""}, 200, all},
		{"an empty query is none", "?after=", nil, 200, all},
		{"the terminal event", "?after=" + all[0], []string{last}, 204, nil},
		{"the terminal event, in the address", "?after=" + last, nil, 204, nil},
		{"the id of an error that was this stream's alone", "?after=" + all[0], []string{"999999999999999999-00000000"}, 204, nil},
		{"beyond the log", "", []string{"99-00000000"}, 400, nil},
		{"no id", "", []string{"x"}, 400, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, ids := stream(c.query, c.header...)
			require.Equal(t, c.status, status)
			require.Equal(t, c.ids, ids)
		})
	}
	status, ids := stream("", "1-00000000") // a client that holds other bytes
	require.Equal(t, http.StatusOK, status)
	require.Len(t, ids, 1, "an error without an id would be asked for again, for ever")
	status, ids = stream("?after="+all[0], ids[0])
	require.Equal(t, http.StatusNoContent, status)
	require.Empty(t, ids)
}

// What counts as this machine.
func localCallers(t *testing.T, exe string) {
	t.Helper()
	d, addr := httpDaemon(t, exe, "bind_addr: LOCALHOST:0\nauth: {optional_on_loopback: true}")
	require.NotContains(t, d.Output(), "can be reached from other machines")
	for _, header := range []string{
		"X-Forwarded-For: 10.0.0.7", "X-Forwarded-Proto: https", "Forwarded: for=10.0.0.7", "X-Real-IP: 10.0.0.7", "Via: 1.1 proxy",
	} {
		res, body := readAnswer(t, bufio.NewReader(send(t, addr, "GET /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\n"+header+"\r\n\r\n")))
		require.Equal(t, http.StatusForbidden, res.StatusCode, header)
		require.Contains(t, body, "POLICY_DENIED")
	}
	res, _ := readAnswer(t, bufio.NewReader(send(t, addr, "GET /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 10.0.0.7\r\nAuthorization: Bearer "+httpToken+"\r\n\r\n")))
	require.Equal(t, http.StatusOK, res.StatusCode, "with the token")

	_, addr = httpDaemon(t, exe, "bind_addr: 0.0.0.0:0")
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	_, err = net.DialTimeout("tcp", net.JoinHostPort("::1", port), time.Second)
	require.Error(t, err, "it was told an address of IPv4")
	require.NoError(t, watch.Poll(t.Context(), "IPv4", func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", port), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}))
}
