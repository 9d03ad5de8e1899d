// SPDX-License-Identifier: GPL-3.0-or-later

package fetch_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/fetch"
	"github.com/llama-orch/llama-orch/service/policy"
)

func TestMain(m *testing.M) {
	if os.Getenv("FETCH_CHILD") != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

// model makes bytes that no two sizes share.
func model(size int) []byte {
	b := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)})
	_, _ = source.Read(b)
	copy(b, "GGUF")
	return b
}

func sum(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// seen is one request for bytes of a model.
type seen struct {
	path, span, host, authorization string
}

// faults stands before a real server. It writes down the requests for models, and breaks what it is told to.
type faults struct {
	inner http.Handler
	isGet func(r *http.Request) bool // of a model's bytes

	mu    sync.Mutex
	seen  []seen
	cut   []int                                                // after so many bytes of the body the connection ends; one entry a request
	first []http.HandlerFunc                                   // one a request, instead of the server
	gate  func(w http.ResponseWriter, at int, r *http.Request) // called once, after half of what cut says
}

func (f *faults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !f.isGet(r) {
		f.inner.ServeHTTP(w, r)
		return
	}
	f.mu.Lock()
	f.seen = append(f.seen, seen{r.URL.Path, r.Header.Get("Range"), r.Host, r.Header.Get("Authorization")})
	var instead http.HandlerFunc
	if len(f.first) > 0 {
		instead, f.first = f.first[0], f.first[1:]
	}
	cut := -1
	if len(f.cut) > 0 {
		cut, f.cut = f.cut[0], f.cut[1:]
	}
	gate := f.gate
	f.mu.Unlock()
	if instead != nil {
		instead(w, r)
		return
	}
	if cut >= 0 {
		w = &cutter{ResponseWriter: w, left: cut, gate: gate, r: r}
	}
	f.inner.ServeHTTP(w, r)
}

func (f *faults) requests() []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]seen(nil), f.seen...)
}

// cutter sends so many bytes, then waits at the gate if there is one, then drops the connection, or goes on if the gate opened.
type cutter struct {
	http.ResponseWriter
	left int
	gate func(w http.ResponseWriter, at int, r *http.Request)
	r    *http.Request
	open bool
}

func (c *cutter) Write(p []byte) (int, error) {
	if c.open {
		return c.ResponseWriter.Write(p)
	}
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; err != nil || c.left > 0 {
		return n, err
	}
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	if c.gate == nil {
		panic(http.ErrAbortHandler)
	}
	c.gate(c.ResponseWriter, n, c.r)
	c.open = true
	more, err := c.ResponseWriter.Write(p[n:])
	return n + more, err
}

// source is one kind of server with one model.
type source struct {
	*faults
	server *httptest.Server
	ref    string
	put    func(t *testing.T, name string, body []byte) // puts a model under a name
	digest bool                                         // the source itself says the digest
}

func (s *source) parsed(t testing.TB) fetch.Ref { return parse(t, s.ref) }

func parse(t testing.TB, text string) fetch.Ref {
	t.Helper()
	ref, err := fetch.ParseRef(text)
	require.NoError(t, err)
	return ref
}

// files is a folder of a web server, in memory.
type files struct {
	mu   sync.Mutex
	body map[string][]byte
}

func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	body, ok := f.body[r.URL.Path]
	f.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", `"`+sum(body)[7:20]+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

func (f *files) put(name string, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.body[name] = body
}

func isGGUF(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, ".gguf")
}

func serve(t *testing.T, f *faults, secure bool) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server
}

func webSource(t *testing.T) *source {
	f := &files{body: map[string][]byte{}}
	s := &source{faults: &faults{inner: f, isGet: isGGUF}}
	s.server = serve(t, s.faults, true)
	s.ref = s.server.URL + "/models/m.gguf?key=QUERYSECRET"
	s.put = func(_ *testing.T, name string, body []byte) { f.put("/models/"+name, body) }
	return s
}

const revision = "0123456789abcdef0123456789abcdef01234567"

// hub speaks what the fetcher uses of the hub: the description of a repository, and its files, which it redirects to another host.
type hub struct {
	mu    sync.Mutex
	names []string
	files files
	lie   func(file map[string]any)
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const repo = "/org/repo"
	switch {
	case strings.HasPrefix(r.URL.Path, "/api/models"+repo+"/revision/"):
		h.mu.Lock()
		defer h.mu.Unlock()
		all := []map[string]any{{"rfilename": "README.md"}}
		for _, name := range h.names {
			body := h.files.body[name]
			file := map[string]any{"rfilename": name, "size": len(body), "lfs": map[string]any{"sha256": sum(body)[7:], "size": len(body)}}
			if h.lie != nil {
				h.lie(file)
			}
			all = append(all, file)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"sha": revision, "siblings": all})
	case strings.HasPrefix(r.URL.Path, repo+"/resolve/"+revision+"/"):
		_, port, _ := strings.Cut(r.Host, ":")
		http.Redirect(w, r, "http://localhost:"+port+"/cdn/"+strings.TrimPrefix(r.URL.Path, repo+"/resolve/"+revision+"/")+"?Signature=CDNSECRET", http.StatusFound)
	case strings.HasPrefix(r.URL.Path, "/cdn/"):
		r.URL.Path = strings.TrimPrefix(r.URL.Path, "/cdn/")
		h.files.ServeHTTP(w, r)
	default:
		http.NotFound(w, r)
	}
}

func hubSource(t *testing.T) *source {
	s, _ := hubWith(t)
	return s
}

func hubWith(t *testing.T) (*source, *hub) {
	h := &hub{files: files{body: map[string][]byte{}}}
	s := &source{ref: "hf:org/repo/m.gguf", digest: true, faults: &faults{inner: h, isGet: func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/cdn/") }}}
	s.server = serve(t, s.faults, false)
	s.put = func(_ *testing.T, name string, body []byte) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.names = append(h.names, name)
		h.files.put(name, body)
	}
	return s, h
}

func s3Source(t *testing.T) *source {
	backend := s3mem.New()
	require.NoError(t, backend.CreateBucket("models"))
	s := &source{ref: "s3:models/deep/m.gguf", faults: &faults{inner: gofakes3.New(backend).Server(), isGet: isGGUF}}
	s.server = serve(t, s.faults, false)
	s.put = func(t *testing.T, name string, body []byte) {
		_, err := backend.PutObject("models", "deep/"+name, map[string]string{"Last-Modified": "Mon, 23 Nov 2026 01:02:03 GMT"}, bytes.NewReader(body), int64(len(body)), nil)
		require.NoError(t, err)
	}
	return s
}

func ociSource(t *testing.T) *source {
	s := &source{ref: "oci:registry.example/team/m:v1", digest: true, faults: &faults{
		inner: registry.New(registry.Logger(log.New(io.Discard, "", 0))),
		isGet: func(r *http.Request) bool {
			return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
		},
	}}
	s.server = serve(t, s.faults, false)
	var layers []ocispec.Descriptor
	push := func(t *testing.T, url, media string, body []byte) {
		request, err := http.NewRequestWithContext(t.Context(), map[bool]string{true: http.MethodPut, false: http.MethodPost}[strings.Contains(url, "/manifests/")],
			s.server.URL+url, bytes.NewReader(body))
		require.NoError(t, err)
		request.Header.Set("Content-Type", media)
		response, err := s.server.Client().Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusCreated, response.StatusCode)
	}
	s.put = func(t *testing.T, name string, body []byte) {
		push(t, "/v2/team/m/blobs/uploads/?digest="+sum(body), "application/octet-stream", body)
		push(t, "/v2/team/m/blobs/uploads/?digest="+sum([]byte("{}")), "application/octet-stream", []byte("{}"))
		layers = append(layers, ocispec.Descriptor{
			MediaType: "application/octet-stream", Digest: digest.Digest(sum(body)), Size: int64(len(body)), Annotations: map[string]string{ocispec.AnnotationTitle: name},
		})
		text, err := json.Marshal(ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON, Layers: layers,
		})
		require.NoError(t, err)
		push(t, "/v2/team/m/manifests/v1", ocispec.MediaTypeImageManifest, text)
	}
	return s
}

var kinds = map[string]func(*testing.T) *source{"https": webSource, "hf": hubSource, "s3": s3Source, "oci": ociSource}

// eachKind runs a test against a server of each kind that has the model m.gguf.
func eachKind(t *testing.T, body []byte, test func(t *testing.T, s *source)) {
	for name, start := range kinds {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.put(t, "m.gguf", body)
			test(t, s)
		})
	}
}

var secrets = map[string]string{
	"HF_TOKEN": "hf_TOKENSECRET", "AWS_ACCESS_KEY_ID": "AKIDSECRET", "AWS_SECRET_ACCESS_KEY": "AWSKEYSECRET", "AWS_SESSION_TOKEN": "SESSIONSECRET", "AWS_REGION": "us-east-1",
}

// box is a fetcher, a folder of models, and what was logged.
type box struct {
	*fetch.Fetcher
	dir string
	log *bytes.Buffer
}

func (s *source) fetcher(t *testing.T, dir string, change ...func(*fetch.Settings)) *box {
	t.Helper()
	b := &box{dir: dir, log: &bytes.Buffer{}}
	logger := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(zapcore.AddSync(b.log)), zapcore.DebugLevel))
	o := policy.Options{Loopback: true, Log: logger, Registerer: prometheus.NewRegistry()}
	if s.server.TLS != nil {
		pool := x509.NewCertPool()
		pool.AddCert(s.server.Certificate())
		o.TLS = &tls.Config{RootCAs: pool}
	}
	rules, err := policy.New(o)
	require.NoError(t, err)
	client := rules.Client(policy.Download)
	settings := fetch.Settings{
		Client: client, Log: logger, RetryWait: time.Microsecond, Reserve: 1, Getenv: func(name string) string { return secrets[name] },
		Endpoints: fetch.Endpoints{HF: s.server.URL, S3: s.server.URL, OCI: map[string]string{"registry.example": s.server.URL}},
	}
	for _, c := range change {
		c(&settings)
	}
	b.Fetcher, err = fetch.New(settings)
	require.NoError(t, err)
	t.Cleanup(func() {
		b.Close()
		client.CloseIdleConnections()
		require.NotContains(t, b.log.String(), "SECRET", "no token is ever logged")
	})
	return b
}

func noRetry(s *fetch.Settings) { s.Retries = -1 }

func (b *box) fetch(ctx context.Context, ref fetch.Ref, o fetch.Options) (fetch.File, error) {
	return b.Fetch(ctx, ref, b.dir, o)
}

// left lists what there is below a folder.
func left(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	require.NoError(t, fsWalk(dir, func(name string) { all = append(all, name) }))
	return all
}

func fsWalk(dir string, tell func(string)) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		tell(e.Name())
		if e.IsDir() {
			if err := fsWalk(path.Join(dir, e.Name()), tell); err != nil {
				return err
			}
		}
	}
	return err
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(name)
	require.NoError(t, err)
	return body
}

func requireFile(t *testing.T, f fetch.File, bodies ...[]byte) {
	t.Helper()
	require.Len(t, f.Parts, len(bodies))
	var size int64
	for i, body := range bodies {
		require.True(t, bytes.Equal(body, read(t, f.Parts[i].Path)), "part %d", i)
		require.Equal(t, sum(body), f.Parts[i].Digest)
		size += int64(len(body))
	}
	require.Equal(t, sum(bodies...), f.Digest)
	require.Equal(t, size, f.Size)
	require.Equal(t, f.Parts[0].Path, f.Path)
}

func from(n int) string { return fmt.Sprintf("bytes=%d-", n) }
