// SPDX-License-Identifier: GPL-3.0-or-later

package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
)

// Source is a server of models, of one kind.
type Source struct {
	*Faults
	Server *httptest.Server
	Ref    string // the ref of the model m.gguf, once that was put there
	Digest bool   // the source itself tells the digest
	// Put puts a model under a name.
	Put func(name string, body []byte) error
	// Lie changes what a hub says about each of its files.
	Lie func(file map[string]any)
}

// Registry is the name of an OCI registry in refs.
const Registry = "registry.example"

// Kinds has a function for each scheme that starts a server. The caller closes the server.
var Kinds = map[string]func() (*Source, error){"https": Web, "hf": Hub, "s3": S3, "oci": OCI}

// RefTo returns the ref of a model other than m.gguf.
func (s *Source) RefTo(name string) string { return strings.Replace(s.Ref, "m.gguf", name, 1) }

// Certificate returns, in PEM, the certificate that a client of a server with TLS has to trust.
func (s *Source) Certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Server.Certificate().Raw})
}

// Sum returns the digest of bytes in the catalog's form.
func Sum(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// files is a web server's folder in memory.
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
	w.Header().Set("ETag", `"`+Sum(body)[7:20]+`"`)
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

func serve(f *Faults, secure bool) *httptest.Server {
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = zap.NewStdLog(zap.NewNop())
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	return server
}

// Web starts a web server with TLS. Its refs have a secret in their query.
func Web() (*Source, error) {
	f := &files{body: map[string][]byte{}}
	s := &Source{Faults: &Faults{Inner: f, IsGet: isGGUF}}
	s.Server = serve(s.Faults, true)
	s.Ref = s.Server.URL + "/models/m.gguf?key=QUERYSECRET"
	s.Put = func(name string, body []byte) error { f.put("/models/"+name, body); return nil }
	return s, nil
}

const revision = "0123456789abcdef0123456789abcdef01234567"

// hub has the part of the model hub that the fetcher uses: the description of a repository, and its files, for which it redirects to another host.
type hub struct {
	source *Source
	mu     sync.Mutex
	names  []string
	files  files
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
			file := map[string]any{"rfilename": name, "size": len(body), "lfs": map[string]any{"sha256": Sum(body)[7:], "size": len(body)}}
			if h.source.Lie != nil {
				h.source.Lie(file)
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

// Hub starts a model hub with one repository.
func Hub() (*Source, error) {
	h := &hub{files: files{body: map[string][]byte{}}}
	s := &Source{Ref: "hf:org/repo/m.gguf", Digest: true, Faults: &Faults{Inner: h, IsGet: func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/cdn/") }}}
	h.source = s
	s.Server = serve(s.Faults, false)
	s.Put = func(name string, body []byte) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.names = append(h.names, name)
		h.files.put(name, body)
		return nil
	}
	return s, nil
}

// S3 starts an S3 service with one bucket.
func S3() (*Source, error) {
	backend := s3mem.New()
	if err := backend.CreateBucket("models"); err != nil {
		return nil, fmt.Errorf("make a bucket: %w", err)
	}
	s := &Source{Ref: "s3:models/deep/m.gguf", Faults: &Faults{Inner: gofakes3.New(backend).Server(), IsGet: isGGUF}}
	s.Server = serve(s.Faults, false)
	s.Put = func(name string, body []byte) error {
		_, err := backend.PutObject("models", "deep/"+name, map[string]string{"Last-Modified": "Mon, 23 Nov 2026 01:02:03 GMT"}, bytes.NewReader(body), int64(len(body)), nil)
		if err != nil {
			return fmt.Errorf("put an object: %w", err)
		}
		return nil
	}
	return s, nil
}

// OCI starts a registry with one repository. Its tag v1 has a layer for each model.
func OCI() (*Source, error) {
	s := &Source{Ref: "oci:" + Registry + "/team/m:v1", Digest: true, Faults: &Faults{
		Inner: registry.New(registry.Logger(zap.NewStdLog(zap.NewNop()))),
		IsGet: func(r *http.Request) bool {
			return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
		},
	}}
	s.Server = serve(s.Faults, false)
	var layers []ocispec.Descriptor
	s.Put = func(name string, body []byte) error {
		layers = append(layers, ocispec.Descriptor{
			MediaType: "application/octet-stream", Digest: digest.Digest(Sum(body)), Size: int64(len(body)), Annotations: map[string]string{ocispec.AnnotationTitle: name},
		})
		text, err := json.Marshal(ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON, Layers: layers,
		})
		if err != nil {
			return fmt.Errorf("encode a manifest: %w", err)
		}
		for _, blob := range [][]byte{body, []byte("{}")} {
			if err := s.push(http.MethodPost, "/v2/team/m/blobs/uploads/?digest="+Sum(blob), "application/octet-stream", blob); err != nil {
				return err
			}
		}
		return s.push(http.MethodPut, "/v2/team/m/manifests/v1", ocispec.MediaTypeImageManifest, text)
	}
	return s, nil
}

func (s *Source) push(method, path, media string, body []byte) error {
	request, err := http.NewRequestWithContext(context.Background(), method, s.Server.URL+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make a request: %w", err)
	}
	request.Header.Set("Content-Type", media)
	response, err := s.Server.Client().Do(request)
	if err != nil {
		return fmt.Errorf("push to the registry: %w", err)
	}
	if err := response.Body.Close(); err != nil {
		return fmt.Errorf("push to the registry: %w", err)
	}
	if response.StatusCode != http.StatusCreated {
		return fmt.Errorf("the registry answered %d to %s %s", response.StatusCode, method, path)
	}
	return nil
}
