// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func gzipped(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.String()
}

// zstded compresses as a stream does, which does not know its length; a whole frame knows it.
func zstded(t testing.TB, text string, stream bool, o ...zstd.EOption) string {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, append(o, zstd.WithEncoderConcurrency(1))...)
	require.NoError(t, err)
	if !stream {
		return string(w.EncodeAll([]byte(text), nil))
	}
	_, err = io.WriteString(w, text)
	require.NoError(t, err)
	require.NoError(t, w.Flush())
	require.NoError(t, w.Close())
	return b.String()
}

// LO-828
func TestCompressedBodies(t *testing.T) {
	const most = 64 << 10
	front := reads(func() {})
	g := newGate(t, map[string]Front{"/": front}, func(o *Options) { o.MaxBody = most; o.MaxBodies = 32 << 20 })
	text := strings.Repeat("some words, ", 100)
	bomb := strings.Repeat("x", 1<<20)
	for _, c := range []struct {
		name, coding, body string
		status             int
		says               string
	}{
		{"gzip", "gzip", gzipped(t, text), 200, text},
		{"its old name", "x-gzip", gzipped(t, text), 200, text},
		{"in other letters", " GZIP ", gzipped(t, text), 200, text},
		{"gzip in two parts", "gzip", gzipped(t, text) + gzipped(t, "more"), 200, text + "more"},
		{"zstd as a stream", "zstd", zstded(t, text, true), 200, text},
		{"zstd in one frame", "zstd", zstded(t, text, false), 200, text},
		{"zstd in two frames", "zstd", zstded(t, text, false) + zstded(t, "more", false), 200, text + "more"},
		{"zstd in frames that grow", "zstd", zstded(t, text[:9], false) + zstded(t, bomb[:30<<10], false), 200, text[:9] + bomb[:30<<10]},
		{"zstd behind a frame to skip", "zstd", "\x50\x2a\x4d\x18\x02\x00\x00\x00hi" + zstded(t, text, true), 200, text},
		{"nothing at all", "gzip", gzipped(t, ""), 200, ""},
		{"nothing at all, zstd", "zstd", zstded(t, "", false), 200, ""},
		{"exactly the bound", "gzip", gzipped(t, bomb[:most]), 200, bomb[:most]},
		{"as it is", "identity", text, 200, text},
		{"one byte over it", "gzip", gzipped(t, bomb[:most+1]), 413, "x TOO_LARGE"},
		{"a bomb of gzip", "gzip", gzipped(t, bomb), 413, "x TOO_LARGE"},
		{"a bomb of zstd that tells its size", "zstd", zstded(t, bomb, false), 413, "x TOO_LARGE"},
		{"a bomb of zstd that does not", "zstd", zstded(t, bomb, true), 413, "x TOO_LARGE"},
		{"a window that is too large", "zstd", zstded(t, bomb, true, zstd.WithWindowSize(32<<20)), 400, "x INVALID_PARAMS"},
		{"too large compressed", "gzip", bomb[:most+1], 413, "x TOO_LARGE"},
		{"no gzip", "gzip", text, 400, "x INVALID_PARAMS"},
		{"no zstd", "zstd", text, 400, "x INVALID_PARAMS"},
		{"gzip without its end", "gzip", gzipped(t, text)[:40], 400, "x INVALID_PARAMS"},
		{"zstd without its end", "zstd", zstded(t, text, true)[:20], 400, "x INVALID_PARAMS"},
		{"gzip with something behind it", "gzip", gzipped(t, text) + "more", 400, "x INVALID_PARAMS"},
		{"zstd with something behind it", "zstd", zstded(t, text, true) + "more", 400, "x INVALID_PARAMS"},
		{"brotli", "br", text, 415, "x UNSUPPORTED_MEDIA_TYPE"},
		{"deflate", "deflate", text, 415, "x UNSUPPORTED_MEDIA_TYPE"},
		{"twice compressed", "gzip, gzip", gzipped(t, gzipped(t, text)), 415, "x UNSUPPORTED_MEDIA_TYPE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, body := ask(g, http.MethodPost, "/", c.body, "Content-Encoding", c.coding)
			require.Equal(t, c.status, res.StatusCode, body)
			if c.status == http.StatusOK {
				require.Len(t, body, len(c.says))
			} else {
				require.Equal(t, c.says, body)
			}
			if c.status == http.StatusUnsupportedMediaType {
				require.Equal(t, "gzip, zstd", res.Header.Get("Accept-Encoding"))
			}
			require.Zero(t, g.bodies.used.Load(), "it gives its memory back")
		})
	}
	front.serve = nil
	res, _ := ask(g, http.MethodPost, "/", text, "Content-Encoding", "br")
	require.Equal(t, http.StatusOK, res.StatusCode, "nobody wants the body")
}

// What a body decodes to, and what its decoder remembers, counts as the body itself does.
//
// LO-822, LO-828
func TestDecodedBodiesShareTheRoom(t *testing.T) {
	const most = 4 << 20
	g := newGate(t, map[string]Front{"/": reads(func() {})}, func(o *Options) { o.MaxBody, o.MaxBodies = most, most })
	for name, c := range map[string]struct{ coding, body string }{
		"what it decodes to": {"gzip", gzipped(t, strings.Repeat("x", most))},
		"the window":         {"zstd", zstded(t, strings.Repeat("x", 100), true, zstd.WithWindowSize(8<<20))},
	} {
		res, body := ask(g, http.MethodPost, "/", c.body, "Content-Encoding", c.coding)
		require.Equal(t, http.StatusTooManyRequests, res.StatusCode, name)
		require.Equal(t, "x ADMISSION_REJECT", body)
		require.Zero(t, g.bodies.used.Load())
	}
}

// FuzzCoding: whatever is sent as a compressed body, it is read within its bound, or refused.
//
// LO-828
func FuzzCoding(f *testing.F) {
	f.Add("gzip", []byte(gzipped(f, "text")))
	f.Add("zstd", []byte(zstded(f, "text", true)))
	f.Add("zstd", []byte(zstded(f, "text", false)))
	auth, err := NewAuth(AuthOptions{Token: token, OptionalOnLoopback: true})
	require.NoError(f, err)
	g, err := New(Options{Auth: auth, MaxBody: 1 << 10, Fronts: map[string]Front{"/": reads(func() {})}})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, coding string, body []byte) {
		res, text := ask(g, http.MethodPost, "/", string(body), "Content-Encoding", coding)
		require.LessOrEqual(t, len(text), 1<<10)
		require.Less(t, res.StatusCode, 500)
		require.Zero(t, g.bodies.used.Load())
	})
}
