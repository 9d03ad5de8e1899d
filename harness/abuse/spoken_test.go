// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.String()
}

func zstded(t *testing.T, text string) string {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	require.NoError(t, err)
	return string(w.EncodeAll([]byte(text), nil))
}

// What is sent, byte for byte, and what must come back: the status, the code of the envelope (empty: it is no error), and a header.
func spokenHTTP(t *testing.T, exe string) {
	t.Helper()
	const limit = 1 << 20
	const page = "http://homeassistant.local:8123"
	d, addr := httpDaemon(t, exe, fmt.Sprintf("bind_addr: 127.0.0.1:0\nauth: {optional_on_loopback: true}\nlimits: {body_bytes: %d}\ncors: {origins: [%q]}", limit, page))
	const head = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
	post := func(body string, header ...string) string {
		if len(header) == 0 {
			header = []string{"Content-Type: application/json"}
		}
		return fmt.Sprintf("POST /v1/tasks%s%s\r\nContent-Length: %d\r\n\r\n%s", head, strings.Join(header, "\r\n"), len(body), body)
	}
	coded := func(coding, body string) string {
		return post(body, "Content-Type: application/json", "Content-Encoding: "+coding)
	}
	bomb := strings.Repeat(" ", 64<<20)
	for _, c := range []struct {
		name, sent   string
		status       int
		code         string
		header, says string
	}{
		// what net/http refuses by itself
		{"no HTTP at all", "hello\r\n\r\n", 400, "INVALID_PARAMS", "", ""},
		{"the beginning of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "INVALID_PARAMS", "", ""},
		{"a path that is none", "GET /%zz" + head + "\r\n", 400, "INVALID_PARAMS", "", ""},
		{"no host", "GET /healthz HTTP/1.1\r\n\r\n", 400, "INVALID_PARAMS", "", ""},
		{"a host that is none", "GET /healthz HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "INVALID_PARAMS", "", ""},
		{"two lengths", "POST /v1/tasks" + head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400, "INVALID_PARAMS", "", ""},
		{"a head of 2 MB", "GET /healthz" + head + "X: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", 431, "TOO_LARGE", "", ""},
		{"a wonder", "POST /v1/tasks" + head + "Expect: wonders\r\n\r\n", 417, "INVALID_PARAMS", "", ""},
		{"another transfer coding", "POST /v1/tasks" + head + "Transfer-Encoding: gzip\r\n\r\n", 501, "NOT_IMPLEMENTED", "", ""},
		{"another version", "GET /healthz HTTP/4.2\r\nHost: localhost\r\n\r\n", 505, "NOT_IMPLEMENTED", "", ""},
		// methods and paths
		{"HEAD", "HEAD /healthz" + head + "\r\n", 200, "", "Content-Type", "application/json; charset=utf-8"},
		{"HEAD of what is not there", "HEAD /v1/tasks/none" + head + "\r\n", 404, "", "Content-Type", "application/json; charset=utf-8"},
		{"OPTIONS", "OPTIONS /v1/tasks" + head + "\r\n", 204, "", "Allow", "GET, HEAD, OPTIONS, POST"},
		{"OPTIONS of everything", "OPTIONS *" + head + "\r\n", 204, "", "Allow", "DELETE, GET, HEAD, OPTIONS, POST"},
		{"a tunnel", "CONNECT example.org:443" + head + "\r\n", 403, "POLICY_DENIED", "", ""},
		{"a trace", "TRACE /v1/tasks" + head + "\r\n", 405, "METHOD_NOT_ALLOWED", "Allow", "GET, HEAD, OPTIONS, POST"},
		{"the path as an address", "GET http://localhost/healthz" + head + "\r\n", 200, "", "", ""},
		{"a slash behind the path", "GET /v1/tasks/" + head + "\r\n", 200, "", "", ""},
		{"a slash behind the path of a POST", strings.Replace(post(taskBody), "/v1/tasks", "/v1/tasks/", 1), 202, "", "", ""},
		{"a query that nobody asked for", "GET /v1/pools?_=1764478000" + head + "\r\n", 200, "", "", ""},
		{"a range that nobody knows", "GET /v1/pools" + head + "Range: lines=1-2\r\n\r\n", 200, "", "", ""},
		// bodies
		{"a charset in capitals", post(taskBody, `Content-Type: application/json; charset="UTF-8"`), 202, "", "", ""},
		{"another charset", post(taskBody, "Content-Type: application/json; charset=utf-16"), 415, "UNSUPPORTED_MEDIA_TYPE", "", ""},
		{"a form", post("model_ref=m", "Content-Type: application/x-www-form-urlencoded"), 415, "UNSUPPORTED_MEDIA_TYPE", "", ""},
		{"no type", post(taskBody, "X: x"), 415, "UNSUPPORTED_MEDIA_TYPE", "", ""},
		{"gzip", coded("gzip", gzipped(t, taskBody)), 202, "", "", ""},
		{"zstd", coded("ZSTD", zstded(t, taskBody)), 202, "", "", ""},
		{"brotli", coded("br", "x"), 415, "UNSUPPORTED_MEDIA_TYPE", "Accept-Encoding", "gzip, zstd"},
		{"gzip that is none", coded("gzip", taskBody), 400, "INVALID_PARAMS", "", ""},
		{"64 MiB in 64 KiB", coded("gzip", gzipped(t, bomb)), 413, "TOO_LARGE", "", ""},
		{"64 MiB in 6 KiB", coded("zstd", zstded(t, bomb)), 413, "TOO_LARGE", "", ""},
		{"null is absence", post(`{"model_ref":"m","prompt":"x","max_tokens":3,"seed":null,"params":{"stop":null},"session_id":null,"messages":null}`), 202, "", "", ""},
		{"42.0 is 42, 3e0 is 3", post(`{"model_ref":"m","prompt":"x","max_tokens":3e0,"seed":42.0}`), 202, "", "", ""},
		{"42.5 is no integer", post(`{"model_ref":"m","prompt":"x","seed":42.5}`), 400, "INVALID_PARAMS", "", ""},
		{"an integer that fills a disk", post(`{"model_ref":"m","prompt":"x","seed":1e999999999}`), 400, "INVALID_PARAMS", "", ""},
		// pages
		{"a preflight", "OPTIONS /v1/tasks" + head + "Origin: " + page + "\r\nAccess-Control-Request-Method: POST\r\n\r\n", 204, "", "Access-Control-Allow-Origin", page},
		{"another's preflight", "OPTIONS /v1/tasks" + head + "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n", 403, "POLICY_DENIED", "Access-Control-Allow-Origin", ""},
		{"a page", "GET /v1/tasks" + head + "Origin: " + page + "\r\n\r\n", 200, "", "Access-Control-Allow-Origin", page},
		{"a page's error", "GET /v1/tasks/none" + head + "Origin: " + page + "\r\n\r\n", 404, "NOT_FOUND", "Access-Control-Allow-Origin", page},
		{"another page", "GET /v1/tasks" + head + "Origin: http://evil.example\r\n\r\n", 403, "POLICY_DENIED", "Access-Control-Allow-Origin", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := bufio.NewReader(send(t, addr, c.sent))
			method, _, _ := strings.Cut(c.sent, " ")
			res, err := http.ReadResponse(in, &http.Request{Method: method})
			require.NoError(t, err)
			defer res.Body.Close()
			var body bytes.Buffer
			_, err = body.ReadFrom(res.Body)
			require.NoError(t, err)
			require.Equal(t, c.status, res.StatusCode, body.String())
			require.NotEmpty(t, res.Header.Get("X-Correlation-Id"))
			if c.header != "" {
				require.Equal(t, c.says, res.Header.Get(c.header))
			}
			if method == http.MethodHead {
				require.Zero(t, body.Len())
			}
			if c.code != "" {
				var e struct{ Code, Message string }
				require.NoError(t, json.Unmarshal(body.Bytes(), &e), body.String())
				require.Equal(t, c.code, e.Code)
				require.NotEmpty(t, e.Message)
			}
			rest, err := in.ReadByte()
			require.Error(t, err, "nothing comes behind the answer: %q", rest)
		})
	}
	require.NotContains(t, d.Output(), "panic")
}
