// SPDX-License-Identifier: GPL-3.0-or-later

// Package provision prepares engines. It plans the exact steps, which can be printed before any is done. It does them, and puts the result into
// the user's cache folder, where a manifest lets later starts tell a whole copy from a broken one (ORCH-3200).
package provision

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Environment variables that name a prepared copy. It is used as it is, and never fetched.
const (
	EnvEngineLibs     = "LLORCH_ENGINE_LIBS"
	EnvLlamaServer    = "LLORCH_LLAMA_SERVER"
	EnvLlamaServerRPC = "LLORCH_LLAMA_SERVER_RPC"
)

// Version is the version of the pinned npm packages.
const Version = "3.22.1"

// LlamaVersion is the release of llama.cpp in them.
const LlamaVersion = "v0.5.0"

// Options say where to prepare things and how. The zero value is right for everything but tests.
type Options struct {
	CacheDir string               // default: llama-orch in the user's cache folder
	NPM      string               // the npm client; default: npm on PATH
	Progress func(message string) // called before each slow step; nil: silent
	Output   func(line string)    // gets what commands print; nil: nobody does
	Fetch    Fetcher              // nil: only tools download
	Decide   Decider              // nil: no call of a plan leaves the machine
	Record   Recorder             // nil: nobody records what was prepared
}

func (o Options) say(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

func (o Options) cacheDir() (string, error) {
	if o.CacheDir != "" {
		return o.CacheDir, nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w (set HOME or XDG_CACHE_HOME)", err)
	}
	return filepath.Join(base, "llama-orch"), nil
}

func (o Options) npm() string {
	if o.NPM != "" {
		return o.NPM
	}
	return "npm"
}

// platform returns Node's name for the machine, which the packages use.
func platform() string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	return runtime.GOOS + "-" + arch
}

// artifact is one prepared folder of the cache: what it is made from, and where it goes.
type artifact struct {
	kind string // sub-folder of the cache
	pin  pin
	// make fills dir from the package's tarball.
	make func(ctx context.Context, o Options, tarball, dir string) error
}

func (a artifact) dir(cache string) string {
	return filepath.Join(cache, a.kind, a.pin.version+"-"+platform())
}

// work returns the folder for unfinished work. Whoever holds the lock owns it. So anything in it was left by a process that was killed.
func (a artifact) work(cache string) string {
	dir := a.dir(cache)
	return filepath.Join(filepath.Dir(dir), ".preparing-"+filepath.Base(dir))
}

// there reports whether a's folder is in the cache and whole.
func (a artifact) there(o Options) bool {
	cache, err := o.cacheDir()
	if err == nil {
		_, err = verify(a.dir(cache), a.pin)
	}
	return err == nil
}

// ensure returns a's folder. It prepares the folder if it is absent, or if its content is not what its manifest says. Processes that prepare at
// the same time take turns, and nobody ever sees a half-written folder.
func (a artifact) ensure(ctx context.Context, o Options) (string, error) {
	cache, err := o.cacheDir()
	if err != nil {
		return "", err
	}
	dir := a.dir(cache)
	if _, err := verify(dir, a.pin); err == nil {
		return dir, nil
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("making the cache folder: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(parent, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := verify(dir, a.pin); err == nil { // another process was faster
		return dir, nil
	}
	tmp := a.work(cache)
	if err := os.RemoveAll(tmp); err != nil {
		return "", fmt.Errorf("removing what a run before left: %w", err)
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", fmt.Errorf("making a temporary folder: %w", err)
	}
	defer os.RemoveAll(tmp)
	tarball, err := fetch(ctx, o, a.pin, tmp)
	if err != nil {
		return "", err
	}
	out := filepath.Join(tmp, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return "", err
	}
	if err := a.make(ctx, o, tarball, out); err != nil {
		return "", err
	}
	if err := writeManifest(out, a.pin, nil); err != nil {
		return "", err
	}
	if err := replace(out, dir, filepath.Join(tmp, "old")); err != nil {
		return "", err
	}
	return dir, nil
}

// locate returns a's folder if it is whole. It never fetches.
func (a artifact) locate(remedy string) (string, error) {
	cache, err := Options{}.cacheDir()
	if err != nil {
		return "", err
	}
	dir := a.dir(cache)
	if _, err := verify(dir, a.pin); err != nil {
		return "", fmt.Errorf("%s is not prepared (%w): run `%s`", a.pin.name, err, remedy)
	}
	return dir, nil
}

// replace moves next to dir. It first moves the old folder out of the way, since a rename cannot replace a folder that is not empty.
func replace(next, dir, old string) error {
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("moving the broken copy away: %w", err)
	}
	if err := os.Rename(next, dir); err != nil {
		return fmt.Errorf("moving the prepared folder into the cache: %w", err)
	}
	return nil
}

// lockEvery is the time between two tries to get a lock. The process that holds it may build for minutes.
const lockEvery = 100 * time.Millisecond

func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the cache lock: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("locking the cache: %w", err)
		}
		select {
		case <-time.After(lockEvery):
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

const manifestName = "manifest.json"

// manifest says what a prepared folder must hold, and what it was made from.
type manifest struct {
	Package   string                  `json:"package"`
	Version   string                  `json:"version"`
	Integrity string                  `json:"integrity"`
	Engine    *Prepared               `json:"engine,omitempty"`
	Files     map[string]manifestFile `json:"files"`
}

type manifestFile struct {
	Size   int64  `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	Link   string `json:"link,omitempty"`
}

func writeManifest(dir string, p pin, e *Prepared) error {
	m := manifest{Package: p.name, Version: p.version, Integrity: p.integrity, Engine: e, Files: map[string]manifestFile{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		m.Files[name], err = inspect(path)
		return err
	})
	if err != nil {
		return fmt.Errorf("listing what was prepared: %w", err)
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestName), append(data, '\n'), 0o644)
}

// verify returns the manifest of dir, or an error that says why dir is no whole copy of p.
func verify(dir string, p pin) (manifest, error) {
	var m manifest
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return m, fmt.Errorf("reading its manifest: %w", err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("reading its manifest: %w", err)
	}
	if m.Package != p.name || m.Version != p.version || m.Integrity != p.integrity || len(m.Files) == 0 {
		return m, errors.New("it was made from another package")
	}
	for name, want := range m.Files {
		if !filepath.IsLocal(name) {
			return m, fmt.Errorf("its manifest names %q, which is not in it", name)
		}
		got, err := inspect(filepath.Join(dir, name))
		if err != nil {
			return m, err
		}
		if got != want {
			return m, fmt.Errorf("%s has changed since it was prepared", name)
		}
	}
	return m, nil
}

func inspect(path string) (manifestFile, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return manifestFile{}, err
	}
	if st.Mode()&os.ModeSymlink != 0 {
		to, err := os.Readlink(path)
		return manifestFile{Link: to}, err
	}
	return inspectFile(path)
}

// inspectFile is inspect for the file that a link leads to.
func inspectFile(path string) (manifestFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return manifestFile{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return manifestFile{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return manifestFile{Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}
