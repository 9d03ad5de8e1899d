// SPDX-License-Identifier: GPL-3.0-or-later

package fs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// setup opens a root in a folder of its own, beside a secret.
func setup(t *testing.T, limits Limits) (r *Root, dir, secret string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "root")
	require.NoError(t, os.Mkdir(dir, 0o755))
	secret = filepath.Join(filepath.Dir(dir), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o600))
	r, err := Open(dir, limits)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r, dir, secret
}

// LO-911
func TestNothingOutsideIsReached(t *testing.T) {
	r, dir, secret := setup(t, Limits{})
	require.NoError(t, os.Symlink(secret, filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("../secret", filepath.Join(dir, "near")))
	require.NoError(t, os.Symlink("..", filepath.Join(dir, "up")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "in"), 0o755))
	require.NoError(t, os.Symlink("../..", filepath.Join(dir, "in", "up")))
	for _, name := range []string{"", "..", "../secret", "in/../../secret", "/etc/passwd", secret, "up/secret", "in/up/secret", "a\x00b"} {
		_, err := r.Read(name)
		outside, ok := errors.AsType[*OutsideError](err)
		require.True(t, ok, "read %q: %v", name, err)
		require.Equal(t, name, outside.Path)
		require.Contains(t, err.Error(), "name a file below it")
		_, ok = errors.AsType[*OutsideError](r.Write(name, []byte("x")))
		require.True(t, ok, "write %q", name)
		diff := "--- a/" + name + "\n+++ b/" + name + "\n@@ -1 +1 @@\n-secret\n+x\n"
		if name != "" && !strings.ContainsRune(name, 0) {
			_, err = r.Patch(diff)
			_, ok = errors.AsType[*OutsideError](err)
			require.True(t, ok, "patch %q: %v", name, err)
		}
	}
	for _, name := range []string{"link", "near"} {
		_, err := r.Read(name)
		_, ok := errors.AsType[*OutsideError](err)
		require.True(t, ok, "read %q: %v", name, err)
		require.NoError(t, r.Write(name, []byte("x")), "the link itself is replaced")
		info, err := os.Lstat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.True(t, info.Mode().IsRegular())
	}
	for _, name := range []string{"..", "/", "up", "in/up"} {
		_, err := r.List(Listing{Dir: name})
		_, ok := errors.AsType[*OutsideError](err)
		_, kind := errors.AsType[*KindError](err)
		require.True(t, ok || kind, "list %q: %v", name, err)
	}
	content, err := os.ReadFile(secret)
	require.NoError(t, err)
	require.Equal(t, "secret", string(content))
}

// Somebody swaps a folder for a link that leads out, again and again, while it is read, written and listed.
//
// LO-911
func TestARaceReachesNothingOutside(t *testing.T) {
	r, dir, secret := setup(t, Limits{})
	outside := filepath.Dir(secret)
	folder, link := filepath.Join(dir, "sub"), filepath.Join(dir, "out")
	require.NoError(t, os.Mkdir(folder, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "secret"), []byte("inside"), 0o600))
	require.NoError(t, os.Symlink(outside, link))
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	swaps.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	})
	read, refused := 0, 0
	for i := 0; i < 20_000 && (i < 300 || read == 0 || refused == 0); i++ {
		content, err := r.Read("sub/secret")
		switch {
		case err == nil:
			require.Equal(t, "inside", string(content))
			read++
		case !errors.Is(err, os.ErrNotExist):
			refused++
		}
		_ = r.Write("sub/written", []byte("x"))
		_, _ = r.List(Listing{Dir: "sub", Deep: true})
	}
	close(stop)
	swaps.Wait()
	require.Positive(t, read, "the folder was met")
	require.Positive(t, refused, "the link was met")
	_, err := os.Lstat(filepath.Join(outside, "written"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// LO-911
func TestSizesAreBounded(t *testing.T) {
	r, dir, _ := setup(t, Limits{File: 1000, Entries: 5})
	huge := filepath.Join(dir, "huge")
	require.NoError(t, os.WriteFile(huge, nil, 0o600))
	require.NoError(t, os.Truncate(huge, 10<<30)) // 10 GB, sparse
	_, err := r.Read("huge")
	size, ok := errors.AsType[*SizeError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, SizeError{Path: "huge", Limit: 1000}, *size)
	require.ErrorContains(t, err, "raise the limit")
	_, err = r.Patch("--- a/huge\n+++ b/huge\n@@ -1 +1 @@\n-a\n+b\n")
	require.ErrorAs(t, err, &size)
	require.ErrorAs(t, r.Write("new", make([]byte, 1001)), &size)
	_, err = r.Patch(strings.Repeat("\n", 1001))
	require.ErrorAs(t, err, &size)
	require.NoError(t, r.Write("new", make([]byte, 1000)))
	content, err := r.Read("new")
	require.NoError(t, err)
	require.Len(t, content, 1000)

	for _, name := range []string{"d/1", "d/2", "d/3"} {
		require.NoError(t, r.Write(name, nil))
	}
	_, err = r.List(Listing{Dir: "d"})
	require.NoError(t, err)
	_, err = r.List(Listing{Deep: true})
	require.ErrorAs(t, err, &size)
	require.True(t, size.Folder)
}

// A pipe, a folder and a device are no files, and none of them holds the reader up.
//
// LO-911
func TestOnlyRegularFilesAreRead(t *testing.T) {
	r, dir, _ := setup(t, Limits{})
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o755))
	for _, name := range []string{"pipe", "folder", "."} {
		_, err := r.Read(name)
		kind, ok := errors.AsType[*KindError](err)
		require.True(t, ok, "%s: %v", name, err)
		require.Equal(t, name, kind.Path)
	}
	_, ok := errors.AsType[*KindError](r.Write("folder", nil))
	require.True(t, ok)
	_, err := r.Read("missing")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, `read "missing"`)
	_, err = r.List(Listing{Dir: "missing"})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, r.Write("plain", nil))
	_, err = r.List(Listing{Dir: "plain"})
	_, ok = errors.AsType[*KindError](err)
	require.True(t, ok, "%v", err)
}

// LO-911
func TestAFileIsWrittenWholeOrNotAtAll(t *testing.T) {
	r, dir, _ := setup(t, Limits{})
	require.NoError(t, r.Write("a/b/c", []byte("old")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "a/b/c"), 0o600))
	held, err := os.Open(filepath.Join(dir, "a/b/c"))
	require.NoError(t, err)
	defer held.Close()
	require.NoError(t, r.Write("a/b/c", []byte("new")))
	before := make([]byte, 3)
	_, err = held.Read(before)
	require.NoError(t, err)
	require.Equal(t, "old", string(before), "who has it open goes on with the old one")
	info, err := os.Stat(filepath.Join(dir, "a/b/c"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: mostOfTheSystem, Max: limit.Max}))
	err = r.Write("a/b/c", make([]byte, 2*mostOfTheSystem))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	require.ErrorIs(t, err, syscall.EFBIG)
	entries, err := r.List(Listing{Deep: true})
	require.NoError(t, err)
	require.Equal(t, []Entry{{Path: "a", Folder: true}, {Path: "a/b", Folder: true}, {Path: "a/b/c", Size: 3}}, entries)
}

// mostOfTheSystem is how large a file may get while a test looks at a disk that takes no more. The log that `go test` keeps of a test's files is smaller.
const mostOfTheSystem = 200_000

// LO-911
func TestListings(t *testing.T) {
	r, dir, _ := setup(t, Limits{})
	for _, name := range []string{"main.go", "README.md", "pkg/x.go", "pkg/deep/y.go", ".git/config", "vendor/z.go"} {
		require.NoError(t, r.Write(name, []byte(name)))
	}
	require.NoError(t, os.Symlink("pkg", filepath.Join(dir, "link")))
	entries, err := r.List(Listing{})
	require.NoError(t, err)
	require.Equal(t, []Entry{
		{Path: ".git", Folder: true},
		{Path: "README.md", Size: 9},
		{Path: "link", Link: true},
		{Path: "main.go", Size: 7},
		{Path: "pkg", Folder: true},
		{Path: "vendor", Folder: true},
	}, entries)
	entries, err = r.List(Listing{Deep: true, Match: "*.go", Skip: []string{"vendor", ".*"}})
	require.NoError(t, err)
	require.Equal(t, []Entry{{Path: "main.go", Size: 7}, {Path: "pkg/deep/y.go", Size: 13}, {Path: "pkg/x.go", Size: 8}}, entries)
	_, err = r.List(Listing{Match: "[a"})
	require.ErrorContains(t, err, "as in *.go")
}
