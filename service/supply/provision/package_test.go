// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3050
func TestPackage(t *testing.T) {
	t.Parallel()
	data := tarball(t, entry{name: "package/lib/wanted.so", body: "library"}, entry{name: "package/other", body: "x"})
	b := setup(t, data)
	p := Package{Kind: "tools", Name: "tool", Version: "2.0.0", Integrity: integrity(data), Want: func(name string) string {
		if name == "package/lib/wanted.so" {
			return "wanted.so"
		}
		return ""
	}}
	for range 2 {
		dir, err := p.Ensure(t.Context(), b.o)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(b.o.CacheDir, "tools", "2.0.0-"+Platform()), dir)
		got, err := os.ReadFile(filepath.Join(dir, "wanted.so"))
		require.NoError(t, err)
		require.Equal(t, "library", string(got))
		require.NoFileExists(t, filepath.Join(dir, "other"))
	}
	require.Equal(t, 1, b.fetches(t), "the second time it is in the cache")

	p.Version, p.Want = "2.0.1", func(string) string { return "" }
	_, err := p.Ensure(t.Context(), b.o)
	require.ErrorContains(t, err, "holds none of the wanted files")

	p.Integrity = integrity([]byte("another"))
	_, err = p.Ensure(t.Context(), b.o)
	require.ErrorContains(t, err, "is not the pinned one")
}
