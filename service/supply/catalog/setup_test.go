// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const haiku = "../../../models/haiku/haiku.gguf"

var now = time.Date(2026, 11, 22, 20, 15, 0, 0, time.UTC)

// fetch is a Fetcher of one function.
type fetch func(ctx context.Context, ref, into, digest string, progress func(done, total int64)) (string, int64, string, error)

func (f fetch) Fetch(ctx context.Context, ref, into, digest string, progress func(done, total int64)) (string, int64, string, error) {
	return f(ctx, ref, into, digest, progress)
}

// writes puts the bytes into the cache, under the last part of the ref.
func writes(content []byte) fetch {
	return func(_ context.Context, ref, into, _ string, progress func(done, total int64)) (string, int64, string, error) {
		path := filepath.Join(into, filepath.Base(ref))
		progress(int64(len(content)), int64(len(content)))
		return path, int64(len(content)), "", os.WriteFile(path, content, 0o600)
	}
}

// inPlace leaves the file where its ref says.
var inPlace = fetch(func(_ context.Context, ref, _, _ string, _ func(done, total int64)) (string, int64, string, error) {
	return strings.TrimPrefix(ref, "file:"), 0, "", nil
})

// rig is an open catalog, with what it reported.
type rig struct {
	*Catalog
	dir      string
	options  Options
	registry *prometheus.Registry

	mu      sync.Mutex
	changed []Model
	inUse   map[string]bool
}

func setup(t testing.TB, f Fetcher, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{dir: t.TempDir(), inUse: map[string]bool{}}
	r.options = Options{
		Dir: r.dir, Fetcher: f, Now: func() time.Time { return now },
		InUse: func(id string) bool { r.mu.Lock(); defer r.mu.Unlock(); return r.inUse[id] },
		Changed: func(m Model) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.changed = append(r.changed, m)
		},
	}
	for _, c := range change {
		c(&r.options)
	}
	r.open(t)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func (r *rig) open(t testing.TB) {
	t.Helper()
	r.registry = prometheus.NewRegistry()
	r.options.Registerer = r.registry
	var err error
	r.Catalog, err = Open(r.options)
	require.NoError(t, err)
}

func (r *rig) reopen(t testing.TB) {
	t.Helper()
	require.NoError(t, r.Close())
	r.open(t)
}

// add adds a model and waits for it.
func (r *rig) add(t testing.TB, req Request) Model {
	t.Helper()
	req.Wait = time.Minute
	m, err := r.Create(t.Context(), req)
	require.NoError(t, err)
	return m
}

func (r *rig) counted(t testing.TB, result, reason, engine string) int {
	t.Helper()
	return int(testutil.ToFloat64(r.verifications.WithLabelValues(result, reason, engine)))
}

// left lists the files of the state directory.
func (r *rig) left(t testing.TB) []string {
	t.Helper()
	var names []string
	require.NoError(t, filepath.WalkDir(r.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(r.dir, path)
			names = append(names, name)
		}
		return err
	}))
	return names
}

func code(t testing.TB, want task.Code, err error) task.Error {
	t.Helper()
	require.Error(t, err)
	e := task.AsError(err)
	require.Equal(t, want, e.Code, "%v", err)
	return *e
}

func sum(content []byte) string {
	s := sha256.Sum256(content)
	return digestPrefix + hex.EncodeToString(s[:])
}

// key is a pair of minisign keys.
type key struct {
	public  string
	private minisign.PrivateKey
}

func newKey(t testing.TB) key {
	t.Helper()
	public, private, err := minisign.GenerateKey(nil)
	require.NoError(t, err)
	return key{public.String(), private}
}

// sign makes what a client sends.
func (k key) sign(t testing.TB, content []byte) string {
	t.Helper()
	r := minisign.NewReader(bytes.NewReader(content))
	_, err := r.Read(make([]byte, len(content)))
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(r.Sign(k.private))
}

// doc builds GGUF files, valid and invalid ones.
type doc struct{ bytes.Buffer }

func (d *doc) put(values ...any) *doc {
	for _, v := range values {
		if s, ok := v.(string); ok {
			_ = binary.Write(d, binary.LittleEndian, uint64(len(s)))
			d.WriteString(s)
			continue
		}
		_ = binary.Write(d, binary.LittleEndian, v)
	}
	return d
}

const (
	kindU32, kindText, kindArray, kindU64 = uint32(4), uint32(8), uint32(9), uint32(10)
)

func header(tensors, pairs uint64) *doc {
	d := &doc{}
	d.WriteString("GGUF")
	return d.put(uint32(3), tensors, pairs)
}

// small returns a valid GGUF with one tensor of 32 F32 zeroes.
func small(name string) []byte {
	d := header(1, 6).put("general.architecture", kindText, "llama", "general.name", kindText, name, "llama.context_length", kindU32, uint32(4096),
		"llama.expert_count", kindU32, uint32(8), "tokenizer.chat_template", kindText, "{{ x }}", "tokenizer.ggml.tokens", kindArray, kindText, uint64(2), "a", "b")
	d.put("blk.0.weight", uint32(1), uint64(32), uint32(0), uint64(0))
	for d.Len()%32 != 0 {
		d.WriteByte(0)
	}
	d.Write(make([]byte, 32*4))
	return d.Bytes()
}
