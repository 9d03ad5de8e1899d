// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzEntry: whatever stands in the file beside an artifact, the entry that is read of it is one that a client could have made.
//
// LO-861
func FuzzEntry(f *testing.F) {
	f.Add([]byte(`{"id":"sha256:00","kind":"other","media_type":"text/plain; charset=utf-8","size_bytes":3,"created_at":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"kind":"log","media_type":"a/b;c","size_bytes":-1}`))
	dir := f.TempDir()
	root, err := os.OpenRoot(dir)
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, root.Close()) })
	s := &Store{root: root}
	f.Fuzz(func(t *testing.T, text []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "a.json"), text, 0o600))
		e, err := s.readEntry("a.json")
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, e.Size, int64(0))
		again, err := e.completed()
		require.NoError(t, err)
		require.Equal(t, e.Meta, again)
	})
}
