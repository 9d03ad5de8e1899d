// SPDX-License-Identifier: GPL-3.0-or-later

package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

func TestWriteReplacesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.json")
	require.NoError(t, Write(path, []byte("a long first content"), 0o600))
	require.NoError(t, Write(path, []byte("second"), 0o600))
	require.Equal(t, "second", content(t, path))
	require.Equal(t, []string{"a.json"}, names(t, filepath.Dir(path)))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
}

func TestAFailedFillLeavesTheOldFileAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.json")
	require.NoError(t, Write(path, []byte("old"), 0o600))
	full := errors.New("the disk is full")
	err := Fill(path, 0o600, func(f *os.File) error {
		_, err := f.WriteString("half of the n")
		require.NoError(t, err)
		require.Equal(t, "old", content(t, path))
		return full
	})
	require.ErrorIs(t, err, full)
	require.Equal(t, "old", content(t, path))
	require.Equal(t, []string{"a.json"}, names(t, filepath.Dir(path)))
}

func TestWriteInStaysBelowItsRoot(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, root.Close()) })
	require.NoError(t, root.Mkdir("models", 0o700))
	require.NoError(t, WriteIn(root, "models/m.json", []byte("{}"), 0o600))
	require.Equal(t, []string{"m.json"}, names(t, filepath.Join(dir, "models")))

	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "link")))
	require.Error(t, WriteIn(root, "link/m.json", []byte("{}"), 0o600))
	require.Empty(t, names(t, outside))
}

func TestSweepRemovesWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, root.Close()) })
	require.NoError(t, WriteIn(root, "a.json", nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, prefix+"7"), []byte("half"), 0o600))
	require.NoError(t, Sweep(root, "."))
	require.Equal(t, []string{"a.json"}, names(t, dir))
}
