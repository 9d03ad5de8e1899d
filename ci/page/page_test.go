// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"archive/tar"
	"os"
	"path/filepath"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/stretchr/testify/require"
)

// What npm brings is unpacked with its modes, and nothing goes outside its folder.
func TestTheBrowserIsUnpacked(t *testing.T) {
	dir := t.TempDir()
	pack := func(name string, files map[string]string) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		require.NoError(t, err)
		z := brotli.NewWriter(f)
		a := tar.NewWriter(z)
		for name, text := range files {
			require.NoError(t, a.WriteHeader(&tar.Header{Name: name, Mode: 0o744, Size: int64(len(text)), Typeflag: tar.TypeReg}))
			_, err := a.Write([]byte(text))
			require.NoError(t, err)
		}
		require.NoError(t, a.Close())
		require.NoError(t, z.Close())
		require.NoError(t, f.Close())
		return path
	}
	good := pack("good.tar.br", map[string]string{"lib/a.so": "library"})
	require.NoError(t, unpack(good, filepath.Join(dir, "out", "good.tar")))
	text, err := os.ReadFile(filepath.Join(dir, "out", "lib", "a.so"))
	require.NoError(t, err)
	require.Equal(t, "library", string(text))
	require.NoError(t, unpack(good, filepath.Join(dir, "out", "chromium")), "what is no archive is a file")
	info, err := os.Stat(filepath.Join(dir, "out", "chromium"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
	require.ErrorContains(t, unpack(pack("bad.tar.br", map[string]string{"../b": "x"}), filepath.Join(dir, "out", "bad.tar")), "outside its folder")
}
