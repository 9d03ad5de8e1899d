// SPDX-License-Identifier: GPL-3.0-or-later

package gguf

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-807
func TestPartsAreNamedByWhicheverOfThem(t *testing.T) {
	for name, want := range map[string]string{
		"m.gguf":                               "m.gguf",
		"/a/m-00001-of-00001.gguf":             "/a/m-00001-of-00001.gguf",
		"m-00001-of-00002.gguf":                "m-00001-of-00002.gguf m-00002-of-00002.gguf",
		"a/b/m-00002-of-00002.gguf":            "a/b/m-00001-of-00002.gguf a/b/m-00002-of-00002.gguf",
		"/a/-00001-of-00002.gguf":              "/a/-00001-of-00002.gguf", // no name is left for the model
		"m-0001-of-0002.gguf":                  "m-0001-of-0002.gguf",
		"m-00001-of-00002.gguf.part":           "m-00001-of-00002.gguf.part",
		"m-00001-of-00002-Q4.gguf":             "m-00001-of-00002-Q4.gguf",
		"a-00001-of-00002.gguf/m.gguf":         "a-00001-of-00002.gguf/m.gguf",
		"x-00001-of-00009-00001-of-00001.gguf": "x-00001-of-00009-00001-of-00001.gguf",
	} {
		got, err := Parts(name)
		require.NoError(t, err, name)
		require.Equal(t, want, strings.Join(got, " "))
		again, err := Parts(got[0])
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
	for _, name := range []string{"m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-00001-of-00000.gguf", "m-00001-of-99999.gguf"} {
		_, err := Parts(name)
		require.ErrorContains(t, err, "is not part of a split model", name)
	}
	require.Equal(t, []string{"/models/model.gguf"}, Alias("/models/model.gguf", 1))
	require.Equal(t, []string{"/models/model-00001-of-00002.gguf", "/models/model-00002-of-00002.gguf"}, Alias("/models/model.gguf", 2))
	stem, part := Stem("m-00002-of-00003.gguf")
	require.True(t, part)
	require.Equal(t, "m", stem)
	_, part = Stem("m.gguf")
	require.False(t, part)
}

// LO-807
func TestMissingPartsAreNamed(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(at("m-00001-of-00003.gguf"), []byte("1"), 0o600))
	require.NoError(t, os.Mkdir(at("m-00003-of-00003.gguf"), 0o700))
	_, err := Find(at("m-00001-of-00003.gguf"))
	var missing *MissingError
	require.ErrorAs(t, err, &missing)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.EqualError(t, err, "m-00002-of-00003.gguf, m-00003-of-00003.gguf, of a model in 3 parts, are missing, or cannot be read")
	_, err = Find(at("none.gguf"))
	require.EqualError(t, err, "none.gguf is missing, or cannot be read")
	_, err = Find(at("n-00001-of-00020.gguf"))
	require.ErrorContains(t, err, "n-00005-of-00020.gguf and 15 more, of a model in 20 parts, are missing")
}

// LO-807, LO-808
func TestADigestIsThatOfAllPartsAndOfNoOtherMoment(t *testing.T) {
	dir := t.TempDir()
	var all []byte
	var files []string
	for i, n := range []int{3, pieceBytes + 5, 0, 1} {
		content := bytes.Repeat([]byte{byte('a' + i)}, n)
		all = append(all, content...)
		files = append(files, filepath.Join(dir, string(rune('a'+i))))
		require.NoError(t, os.WriteFile(files[i], content, 0o600))
	}
	want := sha256.Sum256(all)
	var also bytes.Buffer
	turn := make(chan struct{}, 1)
	sum, err := Digest(t.Context(), files, Reading{Turn: turn, Also: &also})
	require.NoError(t, err)
	require.Equal(t, "sha256:"+hex.EncodeToString(want[:]), sum.Digest)
	require.EqualValues(t, len(all), sum.Size)
	require.Equal(t, all, also.Bytes())
	require.Empty(t, turn)
	require.Len(t, sum.Marks, len(files))
	for _, m := range sum.Marks {
		require.NoError(t, m.Same())
	}

	// A write at once after the digest shows, however coarse the clock of the file system is.
	require.NoError(t, os.WriteFile(files[3], []byte("z"), 0o600))
	require.ErrorContains(t, sum.Marks[3].Same(), "was written to")

	// A write while the files are read makes the digest one of nothing that ever was.
	changing := writer(func() error { return os.WriteFile(files[0], []byte("xyz"), 0o600) })
	_, err = Digest(t.Context(), files, Reading{Also: changing})
	require.ErrorContains(t, err, "changed while it was read")
	cut := writer(func() error { return os.Truncate(files[1], pieceBytes) })
	_, err = Digest(t.Context(), files[1:2], Reading{Also: cut})
	require.ErrorContains(t, err, "ended while it was read")
	require.NoError(t, os.Remove(files[1]))
	_, err = Digest(t.Context(), files, Reading{})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// writer does something with each piece that is read.
type writer func() error

func (w writer) Write(b []byte) (int, error) { return len(b), w() }
