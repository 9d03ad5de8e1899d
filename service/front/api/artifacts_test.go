// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// fakeArtifacts keeps artifacts in memory.
type fakeArtifacts struct {
	views  []ArtifactView
	bytes  map[string][]byte
	err    error
	filter ArtifactFilter
	closed atomic.Int32
}

func (f *fakeArtifacts) Put(_ context.Context, v ArtifactView, r io.Reader) (ArtifactView, error) {
	if f.err != nil {
		return v, f.err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return v, fmt.Errorf("read the artifact to store: %w", err)
	}
	v.ID, v.Size, v.CreatedAt = fmt.Sprintf("sha256-%x", sha256.Sum256(b)), int64(len(b)), time.UnixMilli(1_700_000_000_123)
	if f.bytes == nil {
		f.bytes = map[string][]byte{}
	}
	f.bytes[v.ID] = b
	f.views = append([]ArtifactView{v}, f.views...)
	return v, nil
}

func (f *fakeArtifacts) Get(_ context.Context, id string) (ArtifactView, error) {
	for _, v := range f.views {
		if v.ID == id {
			return v, nil
		}
	}
	return ArtifactView{}, task.Errorf(task.NotFound, "there is no artifact %s", id)
}

func (f *fakeArtifacts) List(_ context.Context, filter ArtifactFilter) ([]ArtifactView, error) {
	f.filter = filter
	return f.views[:min(len(f.views), filter.Limit)], nil
}

func (f *fakeArtifacts) Open(ctx context.Context, id string) (ArtifactView, io.ReadSeekCloser, error) {
	v, err := f.Get(ctx, id)
	return v, &fakeContent{bytes.NewReader(f.bytes[id]), f}, err
}

type fakeContent struct {
	*bytes.Reader
	of *fakeArtifacts
}

func (f *fakeContent) Close() error {
	f.of.closed.Add(1)
	return nil
}

func withArtifacts(t testing.TB, change ...func(*Options)) (*fixture, *fakeArtifacts) {
	kept := &fakeArtifacts{}
	return setup(t, append(change, func(o *Options) { o.Artifacts = kept })...), kept
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}

// decoded reads an answer as a client of the contract does.
func decoded[T any, P interface {
	*T
	json.Unmarshaler
	Validate() error
}](t testing.TB, res *http.Response, status int) T {
	t.Helper()
	body := readAll(t, res.Body)
	require.Equal(t, status, res.StatusCode, body)
	var v T
	require.NoError(t, P(&v).UnmarshalJSON([]byte(body)))
	require.NoError(t, P(&v).Validate())
	return v
}

// ORCH-3097
func TestAnArtifactIsStoredAndFound(t *testing.T) {
	f, kept := withArtifacts(t)
	res := f.do("POST", "/v1/artifacts", `{"kind":"plan","media_type":"text/markdown","content":"# Größe","task_id":"t-1",
		"tags":["a:b"],"metadata":[{"key":"z","value":"1"},{"key":"a","value":"ö"}]}`)
	location := res.Header.Get("Location")
	plan := decoded[gen.Artifact](t, res, 201)
	id := fmt.Sprintf("sha256-%x", sha256.Sum256([]byte("# Größe")))
	require.Equal(t, gen.Artifact{
		ID: gen.ArtifactID(id), Kind: gen.ArtifactKindPlan, MediaType: "text/markdown", SizeBytes: 9, TaskID: gen.NewOptTaskID("t-1"),
		Tags: gen.ArtifactTags{"a:b"}, Metadata: gen.ArtifactMetadata{{Key: "a", Value: "ö"}, {Key: "z", Value: "1"}},
		CreatedAt: time.UnixMilli(1_700_000_000_123).UTC(), URL: "http://127.0.0.1:8080/v1/artifacts/" + id + "/content",
	}, plan)
	require.Equal(t, "/v1/artifacts/"+id, location)
	require.Equal(t, plan, decoded[gen.Artifact](t, f.do("GET", location, ""), 200))

	raw := decoded[gen.Artifact](t, f.do("POST", "/v1/artifacts", fmt.Sprintf(`{"kind":"summary","content":"AAH/\n","encoding":"base64","parent":%q}`, id)), 201)
	require.Equal(t, "application/octet-stream", raw.MediaType)
	require.Equal(t, []byte{0, 1, 255}, kept.bytes[string(raw.ID)])
	require.Equal(t, gen.NewOptArtifactID(gen.ArtifactID(id)), raw.Parent)
	require.Equal(t, gen.ArtifactKindSummary, raw.Kind)

	list := decoded[gen.ArtifactList](t, f.do("GET", "/v1/artifacts?kind=proof&task_id=t-1&tag=a:b&limit=7", ""), 200)
	require.Equal(t, ArtifactFilter{Kind: "proof", TaskID: "t-1", Tag: "a:b", Limit: 7}, kept.filter)
	require.Len(t, list.Artifacts, 2)
	decoded[gen.ArtifactList](t, f.do("GET", "/v1/artifacts", ""), 200)
	require.Equal(t, ArtifactFilter{Limit: 50}, kept.filter)
}

// ORCH-3097
func TestBadArtifactsAreRefused(t *testing.T) {
	f, kept := withArtifacts(t, func(o *Options) { o.Limits.BodyBytes = 1 << 10 })
	missing := "sha256-" + strings.Repeat("0", 64)
	for _, c := range []struct {
		method, path, body string
		code               gen.ErrorCode
	}{
		{"POST", "/v1/artifacts", `{"kind":"plan"}`, gen.ErrorCodeINVALIDPARAMS},
		{"POST", "/v1/artifacts", `{"kind":"novel","content":""}`, gen.ErrorCodeINVALIDPARAMS},
		{"POST", "/v1/artifacts", `{"kind":"plan","content":"","id":"x"}`, gen.ErrorCodeINVALIDPARAMS},
		{"POST", "/v1/artifacts", `{"kind":"plan","content":"","task_id":"../x"}`, gen.ErrorCodeINVALIDPARAMS},
		{"POST", "/v1/artifacts", `{"kind":"plan","content":"","encoding":"hex"}`, gen.ErrorCodeINVALIDPARAMS},
		{"POST", "/v1/artifacts", `{"kind":"plan","content":"","tags":["a b"]}`, gen.ErrorCodeINVALIDPARAMS},
		{"POST", "/v1/artifacts", `{"kind":"plan","content":"","metadata":[{"key":"a"}]}`, gen.ErrorCodeINVALIDPARAMS},
		{"POST", "/v1/artifacts", `{"kind":"plan","content":"","parent":"../x"}`, gen.ErrorCodeINVALIDPARAMS},
		{"POST", "/v1/artifacts", `{"kind":"plan","content":"a$==","encoding":"base64"}`, gen.ErrorCodeINVALIDPARAMS},
		{"POST", "/v1/artifacts", `{"kind":"plan","content":"AAA","encoding":"base64"}`, gen.ErrorCodeINVALIDPARAMS},
		{"POST", "/v1/artifacts", `{"kind":"plan","content":"` + strings.Repeat("x", 1<<10) + `"}`, gen.ErrorCodeTOOLARGE},
		{"GET", "/v1/artifacts/" + missing, "", gen.ErrorCodeNOTFOUND},
		{"GET", "/v1/artifacts/" + missing + "/content", "", gen.ErrorCodeNOTFOUND},
		{"GET", "/v1/artifacts/..%2f..%2fetc%2fpasswd", "", gen.ErrorCodeINVALIDPARAMS},
		{"GET", "/v1/artifacts/..%2f..%2fetc%2fpasswd/content", "", gen.ErrorCodeINVALIDPARAMS},
		{"GET", "/v1/artifacts/sha256-" + strings.Repeat("A", 64) + "/content", "", gen.ErrorCodeINVALIDPARAMS},
		{"GET", "/v1/artifacts?kind=novel", "", gen.ErrorCodeINVALIDPARAMS},
		{"GET", "/v1/artifacts?limit=501", "", gen.ErrorCodeINVALIDPARAMS},
		{"PUT", "/v1/artifacts/" + missing + "/content", "", gen.ErrorCodeMETHODNOTALLOWED},
		{"DELETE", "/v1/artifacts/" + missing, "", gen.ErrorCodeMETHODNOTALLOWED},
	} {
		require.Equal(t, c.code, envelope(t, f.do(c.method, c.path, c.body)).Code, "%s %s %.80s", c.method, c.path, c.body)
	}
	require.Empty(t, kept.views)

	kept.err = task.Errorf(task.TooLarge, "an artifact may have 7 bytes")
	require.Equal(t, "an artifact may have 7 bytes", envelope(t, f.do("POST", "/v1/artifacts", `{"kind":"plan","content":"AA==","encoding":"base64"}`)).Message)
	kept.err = errors.New("disk sector 7 is bad")
	require.NotContains(t, envelope(t, f.do("POST", "/v1/artifacts", `{"kind":"plan","content":""}`)).Message, "sector")
}

// A body that says how large it is, is refused before a byte of it is read; one that lies is cut off at the limit.
//
// ORCH-3097
func TestAHugeArtifactIsRefusedAtOnce(t *testing.T) {
	f, _ := withArtifacts(t)
	server := httptest.NewServer(f.handler)
	defer server.Close()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /v1/artifacts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 10737418240\r\n\r\n{")
	require.NoError(t, err)
	answer := make([]byte, 12)
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 413", string(answer), "with one byte of 10 GiB sent")

	endless := &counted{r: io.MultiReader(strings.NewReader(`{"kind":"plan","content":"`), forever{})}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/artifacts", endless)
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1:8080"
	f.handler.ServeHTTP(w, r)
	require.Equal(t, gen.ErrorCodeTOOLARGE, envelope(t, w.Result()).Code)
	require.Less(t, endless.n, int64(gate.DefaultMaxBody+1<<20))
}

type forever struct{}

func (forever) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// ORCH-3097
func TestContentRangesAndETags(t *testing.T) {
	f, kept := withArtifacts(t)
	a := decoded[gen.Artifact](t, f.do("POST", "/v1/artifacts", `{"kind":"diff","media_type":"text/html","content":"0123456789"}`), 201)
	at := "/v1/artifacts/" + string(a.ID) + "/content"
	etag := `"` + string(a.ID) + `"`

	res := f.do("GET", at, "")
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, "0123456789", readAll(t, res.Body))
	for name, want := range map[string]string{
		"Content-Type": "text/html", "Content-Length": "10", "ETag": etag, "Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff",
		"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private, no-cache",
	} {
		require.Equal(t, want, res.Header.Get(name), name)
	}
	require.NotEmpty(t, res.Header.Get(gate.CorrelationHeader))

	for _, c := range []struct {
		header []string
		status int
		body   string
		ranged string
	}{
		{[]string{"If-None-Match", etag}, 304, "", ""},
		{[]string{"If-None-Match", `"other", ` + etag}, 304, "", ""},
		{[]string{"If-None-Match", `"other"`}, 200, "0123456789", ""},
		{[]string{"Range", "bytes=2-4"}, 206, "234", "bytes 2-4/10"},
		{[]string{"Range", "bytes=7-"}, 206, "789", "bytes 7-9/10"},
		{[]string{"Range", "bytes=-2"}, 206, "89", "bytes 8-9/10"},
		{[]string{"Range", "bytes=8-99"}, 206, "89", "bytes 8-9/10"},
		{[]string{"Range", "bytes=2-4", "If-Range", etag}, 206, "234", "bytes 2-4/10"},
		{[]string{"Range", "bytes=2-4", "If-Range", `"other"`}, 200, "0123456789", ""},
		{[]string{"Range", "bytes=0-8,0-8,0-8,0-8,0-8"}, 200, "0123456789", ""},
		{[]string{"Range", "Bytes=2-4"}, 206, "234", "bytes 2-4/10"},
		{[]string{"Range", "lines=1-2"}, 200, "0123456789", ""},
		{[]string{"Range", "nonsense"}, 200, "0123456789", ""},
	} {
		res := f.do("GET", at, "", c.header...)
		require.Equal(t, c.status, res.StatusCode, c.header)
		require.Equal(t, c.body, readAll(t, res.Body), c.header)
		require.Equal(t, c.ranged, res.Header.Get("Content-Range"), c.header)
	}
	for _, c := range []struct {
		name, value, says string
		status            int
	}{
		{"Range", "bytes=10-", "10 bytes", 416},
		{"Range", "bytes=99-100", "10 bytes", 416},
		{"Range", "bytes=4-2", "10 bytes", 416},
		{"Range", "bytes=x", "10 bytes", 416},
		{"If-Match", `"other"`, string(a.ID), 412},
	} {
		res := f.do("GET", at, "", c.name, c.value)
		require.Equal(t, c.status, res.StatusCode, c.value)
		require.Equal(t, "application/json; charset=utf-8", res.Header.Get("Content-Type"))
		require.Empty(t, res.Header.Get("ETag"))
		body := readAll(t, res.Body)
		var e gen.Error
		require.NoError(t, e.UnmarshalJSON([]byte(body)), body)
		require.Equal(t, gen.ErrorCodeINVALIDPARAMS, e.Code)
		require.Contains(t, e.Message, c.says)
	}
	require.Equal(t, "bytes */10", f.do("GET", at, "", "Range", "bytes=10-").Header.Get("Content-Range"))

	res = f.do("GET", at, "", "Range", "bytes=0-0,9-9")
	require.Equal(t, 206, res.StatusCode)
	_, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	require.NoError(t, err)
	parts := multipart.NewReader(res.Body, params["boundary"])
	for _, want := range []string{"0", "9"} {
		part, err := parts.NextPart()
		require.NoError(t, err)
		require.Equal(t, "text/html", part.Header.Get("Content-Type"))
		require.Equal(t, want, readAll(t, part))
	}
	require.EqualValues(t, 21, kept.closed.Load(), "each download closes what it reads")
}

// The URL is the one by which the client's own box reaches the server.
//
// ORCH-3097
func TestTheURLIsReachableFromAnotherBox(t *testing.T) {
	f, _ := withArtifacts(t)
	store := func(change func(*http.Request)) string {
		r := httptest.NewRequest(http.MethodPost, "/v1/artifacts", strings.NewReader(`{"kind":"plan","content":"x"}`))
		r.RemoteAddr = "192.168.1.20:5000"
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+testToken)
		change(r)
		w := httptest.NewRecorder()
		f.handler.ServeHTTP(w, r)
		url := decoded[gen.Artifact](t, w.Result(), 201).URL
		before, _, ok := strings.Cut(url, "/v1/artifacts/sha256-")
		require.True(t, ok, url)
		return before
	}
	require.Equal(t, "http://box.lan:8080", store(func(r *http.Request) { r.Host = "box.lan:8080" }))
	require.Equal(t, "http://[fd00::1]:8080", store(func(r *http.Request) { r.Host = "[fd00::1]:8080" }))
	require.Equal(t, "https://tunnel.example", store(func(r *http.Request) {
		r.Host = "tunnel.example"
		r.Header.Set("X-Forwarded-Proto", "https")
	}))
	require.Equal(t, "http://x", store(func(r *http.Request) {
		r.Host = "x"
		r.Header.Set("X-Forwarded-Proto", "javascript")
	}))
	local := func(r *http.Request) context.Context {
		return context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(192, 168, 1, 10), Port: 8080}))
	}
	for _, host := range []string{"", strings.Repeat("x", 9999)} {
		require.Equal(t, "http://192.168.1.10:8080", store(func(r *http.Request) {
			*r = *r.WithContext(local(r))
			r.Host = host
		}), "what the client calls it does not help")
	}
}

// A download takes as long as it takes, while its client reads.
//
// ORCH-3097
func TestASlowDownloadIsPacedByItsWrites(t *testing.T) {
	f, kept := withArtifacts(t, func(o *Options) { o.WriteTimeout = time.Hour })
	v, err := kept.Put(t.Context(), ArtifactView{Kind: "other", MediaType: "text/plain"}, io.LimitReader(forever{}, 1<<20))
	require.NoError(t, err)
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodGet, "/v1/artifacts/"+v.ID+"/content", nil)
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1:8080"
	f.handler.ServeHTTP(w, r)
	require.Equal(t, 1<<20, w.Body.Len())
	require.GreaterOrEqual(t, len(w.set), 3, "at the start, with a write, and lifted at the end")
	require.True(t, w.set[len(w.set)-1].IsZero())
}
