// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var sizes = []struct {
	name string
	n    int
}{{"1KB", 1 << 10}, {"10MB", 10 << 20}}

// benchDir is on the disk that TMPDIR names.
func benchDir(b *testing.B) string { return b.TempDir() }

// fresh changes the first bytes, so that nothing is stored twice.
func fresh(content []byte, i int) []byte {
	binary.LittleEndian.PutUint64(content, uint64(i))
	return content
}

func BenchmarkPut(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			s, err := Open(Options{Dir: benchDir(b)})
			require.NoError(b, err)
			defer s.Close()
			content := make([]byte, size.n)
			b.SetBytes(int64(size.n))
			i := 0
			for b.Loop() {
				i++
				if _, err := s.Put(b.Context(), Meta{Kind: KindOther}, bytes.NewReader(fresh(content, i))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPlainWrite is what Put is measured against: a file written under a new name and synced, with its folder or not.
func BenchmarkPlainWrite(b *testing.B) {
	for _, size := range sizes {
		for _, syncs := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/sync=%v", size.name, syncs), func(b *testing.B) {
				dir := benchDir(b)
				content := make([]byte, size.n)
				b.SetBytes(int64(size.n))
				i := 0
				for b.Loop() {
					i++
					f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
					require.NoError(b, err)
					_, err = f.Write(fresh(content, i))
					require.NoError(b, err)
					if syncs {
						require.NoError(b, f.Sync())
					}
					require.NoError(b, f.Close())
				}
			})
		}
	}
}

func BenchmarkGet(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			s, err := Open(Options{Dir: benchDir(b)})
			require.NoError(b, err)
			defer s.Close()
			e, err := s.Put(b.Context(), Meta{Kind: KindOther}, bytes.NewReader(make([]byte, size.n)))
			require.NoError(b, err)
			b.SetBytes(int64(size.n))
			for b.Loop() {
				_, r, err := s.Open(e.ID)
				require.NoError(b, err)
				_, err = io.Copy(io.Discard, onlyReader{b.Context(), r})
				require.NoError(b, err)
				require.NoError(b, r.Close())
			}
		})
	}
}

func BenchmarkPlainRead(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			name := filepath.Join(benchDir(b), "x")
			require.NoError(b, os.WriteFile(name, make([]byte, size.n), 0o600))
			b.SetBytes(int64(size.n))
			for b.Loop() {
				f, err := os.Open(name)
				require.NoError(b, err)
				_, err = io.Copy(io.Discard, onlyReader{b.Context(), f})
				require.NoError(b, err)
				require.NoError(b, f.Close())
			}
		})
	}
}

// BenchmarkList and BenchmarkOpen have 10,000 artifacts.
func BenchmarkList(b *testing.B) {
	s, err := Open(Options{Dir: many(b)})
	require.NoError(b, err)
	defer s.Close()
	for b.Loop() {
		if len(s.List(Filter{Kind: KindOther})) != 10_000 {
			b.Fatal("some are missing")
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := many(b)
	for b.Loop() {
		s, err := Open(Options{Dir: dir})
		require.NoError(b, err)
		require.NoError(b, s.Close())
	}
}

// many writes 10,000 artifacts, by hand, since nobody has to wait for the disk.
func many(b *testing.B) string {
	dir := benchDir(b)
	for i := range 10_000 {
		text := fmt.Sprint(i)
		id := idOf(text)
		at := filepath.Join(dir, path(id))
		require.NoError(b, os.MkdirAll(filepath.Dir(at), 0o700))
		require.NoError(b, os.WriteFile(at, []byte(text), 0o600))
		entry := fmt.Sprintf(`{"id":%q,"kind":"other","media_type":"text/plain","task_id":"t-%d","size_bytes":%d,"created_at":"2026-11-22T20:15:00Z","renewed_at":"2026-11-22T20:15:00Z"}`, id, i, len(text))
		require.NoError(b, os.WriteFile(at+sidecar, []byte(entry), 0o600))
	}
	return dir
}
