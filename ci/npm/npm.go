// SPDX-License-Identifier: GPL-3.0-or-later

// Package npm installs pinned packages from npm into the user's cache folder, for the suites that need programs from there.
package npm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/step"
)

// Set is packages that are installed together.
type Set struct {
	Name     string // of its folder in the cache
	Needs    string // what cannot be done without it, for the error: "the checks of the API's document"
	Packages []byte // package.json
	Lock     []byte // package-lock.json. It names no registry
	// Partial is for packages with programs for many systems, not all of which every registry has: the lock holds those that were there.
	// Without it, the lock has to name every package.
	Partial bool
}

// Install installs the set, unless it is there, and returns its folder. The lock file's digest names it. No package's scripts are run.
func (s Set) Install(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return s.install(ctx, filepath.Join(cache, "llama-orch", s.Name))
}

func (s Set) install(ctx context.Context, cache string) (string, error) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%s need %s: install it (Debian: apt-get install -y npm)", s.Needs, program)
		}
	}
	sum := sha256.Sum256(s.Lock)
	dir := filepath.Join(cache, hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	step.Say("installing " + s.Name + " from npm")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the folder of %s: %w", s.Name, err)
	}
	fresh, err := os.MkdirTemp(cache, ".new-")
	if err != nil {
		return "", fmt.Errorf("make a folder for %s: %w", s.Name, err)
	}
	defer os.RemoveAll(fresh) // it is gone once it has its name
	for name, content := range map[string][]byte{"package.json": s.Packages, "package-lock.json": s.Lock} {
		if err := os.WriteFile(filepath.Join(fresh, name), content, 0o644); err != nil {
			return "", fmt.Errorf("name %s to npm: %w", s.Name, err)
		}
	}
	how := "ci"
	if s.Partial {
		how = "install"
	}
	npm := command.New(ctx, "npm", how, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	npm.Dir = fresh
	if err := npm.Run(); err != nil {
		return "", fmt.Errorf("install %s with npm: %w", s.Name, err)
	}
	// Another run may have been faster, with the same packages.
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, os.ErrExist) {
		if _, there := os.Stat(dir); there != nil {
			return "", fmt.Errorf("put %s in its place: %w", s.Name, err)
		}
	}
	return dir, nil
}

// OnPath is a context whose children have the set's programs in front of their PATH. A set may bring the Node that it needs: a distribution's may be older.
func OnPath(ctx context.Context, dir string) context.Context {
	return command.Setting(ctx, "PATH="+filepath.Join(dir, "node_modules", ".bin")+string(filepath.ListSeparator)+os.Getenv("PATH"))
}
