// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// source answers everything with the same bytes.
type source struct {
	body  []byte
	head  string
	media string
}

func (s source) RoundTrip(r *http.Request) (*http.Response, error) {
	sum := sha256.Sum256(s.body)
	h := http.Header{"Content-Type": {s.media}, "Docker-Content-Digest": {"sha256:" + hex.EncodeToString(sum[:])}, "Content-Range": {s.head}, "Etag": {s.head}, "Retry-After": {s.head}}
	return &http.Response{StatusCode: http.StatusOK, Header: h, ContentLength: int64(len(s.body)), Body: io.NopCloser(bytes.NewReader(s.body)), Request: r}, nil
}

// FuzzResolve: whatever a source says that it has, what is fetched of it stays in its folder, and its sizes and digests can be.
//
// ORCH-3090, LO-861
func FuzzResolve(f *testing.F) {
	f.Add("hf:org/repo", []byte(`{"sha":"0123456789abcdef0123456789abcdef01234567","siblings":[{"rfilename":"m-Q4_K_M.gguf","size":4,"lfs":{"sha256":"x","size":-1}},{"rfilename":"../m.gguf"}]}`))
	f.Add("hf:org/repo/a/m-00001-of-00002.gguf", []byte(`{"siblings":[{"rfilename":"a/m-00001-of-00002.gguf","size":-5},{"rfilename":"a/m-00002-of-00002.gguf"}]}`))
	layer := `{"mediaType":"application/octet-stream","digest":"sha256:` + strings.Repeat("0", 64) + `","size":4,"annotations":{"org.opencontainers.image.title":"../m.gguf"}}`
	f.Add("oci:registry.example/team/m:v1", []byte(`{"schemaVersion":2,"layers":[`+layer+`]}`))
	f.Add("oci:registry.example/team/m:v1", []byte(`{"schemaVersion":2,"layers":[`+layer+`,`+layer+`]}`))
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		ref, err := ParseRef(text)
		if err != nil || ref.scheme != SchemeHF && ref.scheme != SchemeOCI {
			return
		}
		fetcher, err := New(Settings{Client: &http.Client{Transport: source{body, "", "application/vnd.oci.image.manifest.v1+json"}}, Getenv: func(string) string { return "" }})
		require.NoError(t, err)
		defer fetcher.Close()
		all, err := fetcher.resolve(t.Context(), ref)
		if err != nil {
			require.Less(t, len(typed(err, ref).Message), 1<<16)
			return
		}
		require.NotEmpty(t, all)
		for _, r := range all {
			require.True(t, filepath.IsLocal(r.name) && filepath.Base(r.name) == r.name, "%q", r.name)
			require.GreaterOrEqual(t, r.size, int64(-1))
			if r.digest != "" {
				_, err := parseDigest(r.digest)
				require.NoError(t, err)
			}
		}
	})
}

// FuzzAnswered: whatever the head of an answer says, the part of a file that it is of can be.
//
// ORCH-3091, LO-861
func FuzzAnswered(f *testing.F) {
	f.Add(206, "bytes 3-5/6", `"tag"`, "7", int64(3))
	f.Add(206, "bytes 5-3/*", "W/\"tag\"", "", int64(5))
	f.Add(416, "bytes */6", "", "-1", int64(9))
	f.Add(503, "", "", "99999999999", int64(0))
	f.Fuzz(func(t *testing.T, code int, span, tag, wait string, from int64) {
		h := http.Header{"Content-Range": {span}, "Etag": {tag}, "Retry-After": {wait}}
		s, err := answered(&http.Response{StatusCode: code, Header: h, ContentLength: -1, Body: http.NoBody}, max(from, 0), `"tag"`, "the source", noLogin)
		if err != nil {
			require.GreaterOrEqual(t, task.AsError(err).RetryAfter, time.Duration(0))
			return
		}
		require.GreaterOrEqual(t, s.from, int64(0))
		require.GreaterOrEqual(t, s.size, int64(-1))
	})
}
