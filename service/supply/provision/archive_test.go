// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// member is a member of an archive.
type member struct {
	name string
	body string
	mode fs.FileMode
}

func zipped(t testing.TB, members ...member) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, m := range members {
		h := &zip.FileHeader{Name: m.name, Method: zip.Deflate}
		h.SetMode(m.mode)
		w, err := z.CreateHeader(h)
		require.NoError(t, err)
		_, err = w.Write([]byte(m.body))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return buf.Bytes()
}

func tarred(t testing.TB, members ...member) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: int64(m.mode.Perm()), Size: int64(len(m.body)), Typeflag: tar.TypeReg}
		body := m.body
		switch m.mode.Type() {
		case fs.ModeSymlink:
			h.Typeflag, h.Linkname, h.Size, body = tar.TypeSymlink, m.body, 0, ""
		case fs.ModeDir:
			h.Typeflag, h.Size, body = tar.TypeDir, 0, ""
		case fs.ModeIrregular: // stands for a hard link
			h.Typeflag, h.Linkname, h.Size, body = tar.TypeLink, m.body, 0, ""
		case fs.ModeNamedPipe:
			h.Typeflag, h.Size, body = tar.TypeFifo, 0, ""
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := w.Write([]byte(body))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return buf.Bytes()
}

var packers = map[string]func(testing.TB, ...member) []byte{formatZip: zipped, formatTarGz: tarred}

// unpacked unpacks into a folder with a neighbouring folder.
func unpacked(t testing.TB, format string, data []byte, b bounds) (dir string, err error) {
	t.Helper()
	root := t.TempDir()
	file, dir := filepath.Join(root, "archive"), filepath.Join(root, "out")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.WriteFile(file, data, 0o600))
	return dir, unpackTree(t.Context(), format, file, dir, b)
}

var small = bounds{bytes: 1 << 20, members: 100}

// ORCH-3200
func TestAnArchiveIsUnpacked(t *testing.T) {
	for format, pack := range packers {
		t.Run(format, func(t *testing.T) {
			dir, err := unpacked(t, format, pack(t,
				member{"build/", "", fs.ModeDir | 0o755}, member{"build/bin/llama-server", "program", 0o4755}, member{"lib/libx.so.1", "library", 0o600},
				member{"lib/libx.so", "libx.so.1", fs.ModeSymlink | 0o777},
			), small)
			require.NoError(t, err)
			st, err := os.Stat(filepath.Join(dir, "build/bin/llama-server"))
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o755), st.Mode(), "it can be run, and runs as nobody else")
			data, err := os.ReadFile(filepath.Join(dir, "lib/libx.so"))
			require.NoError(t, err)
			require.Equal(t, "library", string(data))
		})
	}
}

// ORCH-3200
func TestAnArchiveThatLeadsOutIsRefused(t *testing.T) {
	link := fs.ModeSymlink | 0o777
	for format, pack := range packers {
		for name, c := range map[string]struct {
			members []member
			code    task.Code
		}{
			"up":                {[]member{{"../x", "", 0o644}}, task.UntrustedArtifact},
			"up in between":     {[]member{{"a/../../x", "", 0o644}}, task.UntrustedArtifact},
			"absolute":          {[]member{{"/tmp/x", "", 0o644}}, task.UntrustedArtifact},
			"windows":           {[]member{{`..\x`, "", 0o644}}, task.UntrustedArtifact},
			"link up":           {[]member{{"a", "..", link}, {"a/x", "", 0o644}}, task.UntrustedArtifact},
			"absolute link":     {[]member{{"a", "/etc/passwd", link}}, task.UntrustedArtifact},
			"link in a link":    {[]member{{"d", ".", link}, {"d/e", "d/..", link}}, task.UntrustedArtifact},
			"too many":          {many(101), task.TooLarge},
			"too large":         {[]member{{"a", strings.Repeat("x", 1<<19), 0o644}, {"b", strings.Repeat("y", 1<<19+1), 0o644}}, task.TooLarge},
			"folder up":         {[]member{{"../d/", "", fs.ModeDir | 0o755}}, task.UntrustedArtifact},
			"file in a link up": {[]member{{"l", "../..", link}, {"l/tmp/x", "", 0o644}}, task.UntrustedArtifact},
		} {
			t.Run(format+"/"+name, func(t *testing.T) {
				dir, err := unpacked(t, format, pack(t, c.members...), small)
				require.True(t, task.HasCode(err, c.code), "%v", err)
				entries, err := os.ReadDir(filepath.Dir(dir))
				require.NoError(t, err)
				require.Len(t, entries, 2, "nothing beside the folder")
			})
		}
	}
	for name, m := range map[string]member{"hard link": {"a", "/etc/passwd", fs.ModeIrregular}, "pipe": {"a", "", fs.ModeNamedPipe}} {
		_, err := unpacked(t, formatTarGz, tarred(t, m), small)
		require.True(t, task.HasCode(err, task.UntrustedArtifact), "%s: %v", name, err)
	}
	for format, pack := range packers { // what is there is not written over
		_, err := unpacked(t, format, pack(t, member{"a", "1", 0o644}, member{"a", "2", 0o644}), small)
		require.ErrorIs(t, err, fs.ErrExist)
		data := pack(t, member{"a", strings.Repeat("random", 1000), 0o644})
		_, err = unpacked(t, format, data[:len(data)/2], small)
		require.Error(t, err, "cut short")
	}
}

func many(n int) (all []member) {
	for i := range n {
		all = append(all, member{"f" + strings.Repeat("x", i), "", 0o644})
	}
	return all
}

// ORCH-3200
func FuzzArchive(f *testing.F) {
	link := fs.ModeSymlink | 0o777
	seeds := []member{{"a/b", "body", 0o755}, {"a/l", "b", link}, {"d/", "", fs.ModeDir | 0o755}}
	f.Add(zipped(f, seeds...), true)
	f.Add(zipped(f, member{"../x", "", 0o644}, member{"l", "..", link}), true)
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	_ = w.WriteHeader(&tar.Header{Name: "a/../../x", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1})
	_, _ = w.Write([]byte("x"))
	_ = w.WriteHeader(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a/b"})
	_ = w.Close()
	f.Add(plain.Bytes(), false)
	f.Fuzz(func(t *testing.T, data []byte, isZip bool) {
		format := formatZip
		if !isZip { // of the tar, not of the compression
			var buf bytes.Buffer
			z := gzip.NewWriter(&buf)
			_, _ = z.Write(data)
			require.NoError(t, z.Close())
			format, data = formatTarGz, buf.Bytes()
		}
		dir, _ := unpacked(t, format, data, small)
		entries, err := os.ReadDir(filepath.Dir(dir))
		require.NoError(t, err)
		require.Len(t, entries, 2, "nothing may be written beside the folder")
		var total int64
		require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if d.Type() == fs.ModeSymlink {
				if to, err := filepath.EvalSymlinks(path); err == nil {
					whole, err := filepath.EvalSymlinks(dir)
					require.NoError(t, err)
					require.True(t, to == whole || strings.HasPrefix(to, whole+"/"), "%s leads to %s", path, to)
				}
				return nil
			}
			info, err := d.Info()
			total += info.Size()
			return err
		}))
		require.LessOrEqual(t, total, small.bytes+1)
	})
}
