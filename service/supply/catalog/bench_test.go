// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// full returns a catalog with as many models as it can hold. On the disk there are only their records.
func full(b *testing.B) *rig {
	r := setup(b, inPlace)
	r.Catalog.mu.Lock()
	defer r.Catalog.mu.Unlock()
	for i := range MaxModels {
		id := fmt.Sprintf("model-%05d", i)
		rec := record{Model: Model{
			ID: id, Ref: "hf:org/repo/" + id + ".gguf", Digest: sum([]byte(id)), Verified: true, State: Active, Size: 4 << 30, Signature: SignatureMissing,
			Warnings: []string{"it has no signature"}, Metadata: &Metadata{Format: FormatGGUF, Architecture: "llama", CtxMax: 4096}, CreatedAt: now, VerifiedAt: now,
		}, Cached: true, At: id + ".gguf", Files: []File{{Name: id + ".gguf", Size: 4 << 30, ModTime: now}}}
		r.put(&entry{rec: &rec})
	}
	return r
}

// The target is 50 ms for 10,000 models, with the encoding (service/front/api).
//
// ORCH-3060
func BenchmarkList10000(b *testing.B) {
	r := full(b)
	b.ReportAllocs()
	for b.Loop() {
		require.Len(b, r.List(""), MaxModels)
	}
}

// ORCH-3060
func BenchmarkDeprecated(b *testing.B) {
	r := full(b)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if r.Deprecated("model-04711") {
				b.Error("it is not")
			}
		}
	})
}

// Opening reads one small file for each model.
//
// ORCH-3060
func BenchmarkOpen1000(b *testing.B) {
	r := full(b)
	for i := range 1000 {
		name := filepath.Join(r.dir, recordName(fmt.Sprintf("model-%05d", i)))
		text := fmt.Sprintf(`{"id":"model-%05d","ref":"hf:o/r/%d","state":"Failed","problem":{"code":"INTERNAL","message":"x"}}`, i, i)
		require.NoError(b, os.WriteFile(name, []byte(text), 0o600))
	}
	for b.Loop() {
		r.reopen(b)
	}
	require.Len(b, r.List(""), 1000)
}

// The target is a ratio of 1.2 to sha256sum on the same file.
//
// ORCH-3060
func BenchmarkHash(b *testing.B) {
	const size = 1 << 30
	path := filepath.Join(b.TempDir(), "x.gguf")
	f, err := os.Create(path)
	require.NoError(b, err)
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * i)
	}
	for range size / len(block) {
		_, err = f.Write(block)
		require.NoError(b, err)
	}
	require.NoError(b, f.Close())
	l := layout{dir: filepath.Dir(path), names: []string{"x.gguf"}}
	for _, signed := range []bool{false, true} {
		b.Run(fmt.Sprintf("signed=%v", signed), func(b *testing.B) {
			b.SetBytes(size)
			var ours, theirs time.Duration
			for b.Loop() {
				began := time.Now()
				h, err := hashLayout(b.Context(), l, signed, make(chan struct{}, 1))
				ours += time.Since(began)
				require.NoError(b, err)
				began = time.Now()
				out, err := exec.CommandContext(b.Context(), "sha256sum", path).Output()
				theirs += time.Since(began)
				require.NoError(b, err)
				require.Equal(b, digestPrefix+string(out[:64]), h.digest)
			}
			b.ReportMetric(float64(ours)/float64(theirs), "ratio-to-sha256sum")
			b.ReportMetric(size/1e6*float64(b.N)/ours.Seconds(), "own-MB/s")
		})
	}
}
