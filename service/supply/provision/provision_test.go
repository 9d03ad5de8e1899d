// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// entry is a member of a test tarball.
type entry struct {
	name string
	body string
	link string // makes a symbolic link
}

func tarball(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.body)), Typeflag: tar.TypeReg}
		if e.link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, e.link, 0
		}
		require.NoError(t, w.WriteHeader(h))
		if e.link == "" {
			_, err := w.Write([]byte(e.body))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return buf.Bytes()
}

func integrity(data []byte) string {
	sum := sha512.Sum512(data)
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

// bench is a cache folder, and an npm that hands out one tarball and counts how often it was asked.
type bench struct {
	o     Options
	calls string
	a     artifact
}

func setup(t *testing.T, data []byte) bench {
	t.Helper()
	dir := t.TempDir()
	tgz, calls, npm := filepath.Join(dir, "given.tgz"), filepath.Join(dir, "calls"), filepath.Join(dir, "npm")
	require.NoError(t, os.WriteFile(tgz, data, 0o644))
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >> %q\nwhile [ $# -gt 1 ]; do shift; done\ncp %q \"$1/package.tgz\"\n", calls, tgz)
	require.NoError(t, os.WriteFile(npm, []byte(script), 0o755))
	return bench{
		o:     Options{CacheDir: filepath.Join(dir, "cache"), NPM: npm},
		calls: calls,
		a:     artifact{kind: "engine-libs", pin: pin{name: "libs", version: "1.0.0", integrity: integrity(data)}, make: libsMaker("package/bins/" + platform() + "/")},
	}
}

func (b bench) fetches(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(b.calls)
	if os.IsNotExist(err) {
		return 0
	}
	require.NoError(t, err)
	return strings.Count(string(data), "\n")
}

func goodTarball(t *testing.T) []byte {
	in := "package/bins/" + platform() + "/"
	return tarball(t,
		entry{name: "package/package.json", body: "{}"},
		entry{name: in + "libllama.v0.5.0.so", body: "llama"},
		entry{name: in + "libggml.v0.5.0.so", body: "ggml"},
		entry{name: in + "libggml-base.so", body: "base"},
		entry{name: in + "llama-addon.node", body: "not a library"},
		entry{name: in + "../../escape.so", body: "outside"},
		entry{name: in + "libevil.so", link: "/etc/passwd"},
	)
}

// ORCH-3200
func TestEngineLibsArePreparedOnce(t *testing.T) {
	b := setup(t, goodTarball(t))
	dir, err := b.a.ensure(t.Context(), b.o)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(b.o.CacheDir, "engine-libs", "1.0.0-"+platform()), dir)

	got, err := os.ReadFile(filepath.Join(dir, "libllama.so"))
	require.NoError(t, err)
	require.Equal(t, "llama", string(got))
	to, err := os.Readlink(filepath.Join(dir, "libggml.so"))
	require.NoError(t, err)
	require.Equal(t, "libggml.v0.5.0.so", to)
	for _, absent := range []string{"llama-addon.node", "libevil.so", "escape.so"} {
		_, err := os.Lstat(filepath.Join(dir, absent))
		require.ErrorIs(t, err, os.ErrNotExist, absent)
	}

	again, err := b.a.ensure(t.Context(), b.o)
	require.NoError(t, err)
	require.Equal(t, dir, again)
	require.Equal(t, 1, b.fetches(t))

	left, err := os.ReadDir(filepath.Dir(dir))
	require.NoError(t, err)
	require.Len(t, left, 2, "the folder and the lock, no temporary folder")
}

// ORCH-3200
func TestBrokenCacheIsRepaired(t *testing.T) {
	for name, breakIt := range map[string]func(t *testing.T, dir string){
		"changed byte": func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "libggml-base.so"), []byte("bass"), 0o644))
		},
		"missing file": func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "libggml-base.so"))) },
		"missing link": func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "libllama.so"))) },
		"cut manifest": func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, manifestName), 20))
		},
		"no manifest": func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, manifestName))) },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, goodTarball(t))
			dir, err := b.a.ensure(t.Context(), b.o)
			require.NoError(t, err)
			breakIt(t, dir)
			_, err = verify(dir, b.a.pin)
			require.Error(t, err)
			_, err = b.a.ensure(t.Context(), b.o)
			require.NoError(t, err)
			_, err = verify(dir, b.a.pin)
			require.NoError(t, err)
			require.Equal(t, 2, b.fetches(t))
		})
	}
}

// ORCH-3200
func TestAnotherTarballIsRefused(t *testing.T) {
	b := setup(t, goodTarball(t))
	b.a.pin.integrity = integrity([]byte("what was pinned"))
	_, err := b.a.ensure(t.Context(), b.o)
	require.ErrorContains(t, err, "not the pinned one")
	_, err = os.Stat(b.a.dir(b.o.CacheDir))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// ORCH-3200
func TestTarballWithoutLibrariesIsRefused(t *testing.T) {
	b := setup(t, tarball(t, entry{name: "package/package.json", body: "{}"}))
	_, err := b.a.ensure(t.Context(), b.o)
	require.ErrorContains(t, err, "no libraries")
}

// ORCH-3200
func TestMissingToolsAreNamedWithTheirPackages(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := preflight("git", "cmake", "ninja", "c++")
	require.ErrorContains(t, err, "git, cmake, ninja, c++")
	require.ErrorContains(t, err, "apt-get install -y git cmake ninja-build g++")
	require.ErrorContains(t, err, "pacman -S --needed git cmake ninja gcc")

	_, err = fetch(t.Context(), Options{}, llamaSource.pin, t.TempDir())
	require.ErrorContains(t, err, "apt-get install -y npm")
}

// ORCH-3200
func TestLocateNeverFetchesAndSaysHow(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	t.Setenv(EnvEngineLibs, "")
	t.Setenv(EnvLlamaServer, "")
	_, err := LocateEngineLibs()
	require.ErrorContains(t, err, "orchestratord libs")
	_, err = LocateLlamaServer()
	require.ErrorContains(t, err, "go tool mage engine:llamaServer")
}

// ORCH-3200
func TestEnvironmentOverridesTheCache(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(EnvEngineLibs, dir)
	_, err := EngineLibs(t.Context(), Options{NPM: "/nonexistent"})
	require.ErrorContains(t, err, "lacks libllama.so")
	for _, name := range []string{"libllama.so", "libggml.so", "libggml-base.so"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	got, err := LocateEngineLibs()
	require.NoError(t, err)
	require.Equal(t, dir, got)
}

// ORCH-3200
func TestUnpackRefusesWhatWantNamesOutside(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.tgz")
	require.NoError(t, os.WriteFile(file, tarball(t, entry{name: "a", body: "b"}), 0o644))
	for _, name := range []string{"../a", "/a", "b/c", ".."} {
		_, err := unpack(file, t.TempDir(), func(string) string { return name })
		require.ErrorContains(t, err, "no plain file name", name)
	}
}

// ORCH-3200
func FuzzUnpack(f *testing.F) {
	f.Add([]byte("not a tarball"))
	f.Fuzz(func(t *testing.T, data []byte) {
		root := t.TempDir()
		file, dir := filepath.Join(root, "x.tgz"), filepath.Join(root, "out")
		require.NoError(t, os.Mkdir(dir, 0o755))
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		_, _ = z.Write(data)
		require.NoError(t, z.Close())
		require.NoError(t, os.WriteFile(file, buf.Bytes(), 0o644))
		_, _ = unpack(file, dir, filepath.Base)
		entries, err := os.ReadDir(root)
		require.NoError(t, err)
		require.Len(t, entries, 2, "nothing may be written beside the target folder")
	})
}

// ORCH-3200: a program of a package has the package's libraries beside it, whoever runs it.
func TestAPackageBringsTheLibraries(t *testing.T) {
	t.Setenv(EnvEngineLibs, "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	exe, err := os.Executable()
	require.NoError(t, err)
	dir := filepath.Join(filepath.Dir(exe), packaged)
	require.NoDirExists(t, dir)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	for _, name := range []string{"libllama.so", "libggml.so"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	_, err = LocateEngineLibs()
	require.ErrorContains(t, err, "orchestratord libs", "it is not whole")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "libggml-base.so"), nil, 0o600))
	got, err := LocateEngineLibs()
	require.NoError(t, err)
	require.Equal(t, dir, got)
}
