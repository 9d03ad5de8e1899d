// SPDX-License-Identifier: GPL-3.0-or-later

package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
)

// ErrNoPromtool says how to get promtool.
var ErrNoPromtool = errors.New("promtool is missing: `go tool mage metrics:lint` fetches it where there is apt-get; " +
	"elsewhere install it (Debian: apt-get install --no-install-recommends prometheus; Arch: pacman -S prometheus)")

// fetched is where FetchPromtool puts the program.
func fetched() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w", err)
	}
	return filepath.Join(cache, "llama-orch", "tools", "promtool"), nil
}

// FindPromtool returns the installed promtool, or otherwise the fetched one.
func FindPromtool() (string, error) {
	if path, err := exec.LookPath("promtool"); err == nil {
		return path, nil
	}
	path, err := fetched()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", ErrNoPromtool
	}
	return path, nil
}

// FetchPromtool takes promtool out of Debian's package of prometheus, which apt checks, if there is no promtool yet. It installs nothing and starts no
// server, so it needs no root, except if there are no package lists yet.
func FetchPromtool(ctx context.Context, progress func(string)) error {
	if _, err := FindPromtool(); !errors.Is(err, ErrNoPromtool) {
		return err
	}
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return ErrNoPromtool
		}
	}
	progress("promtool is missing: taking it out of Debian's package of prometheus")
	dir, err := os.MkdirTemp("", "llama-orch-promtool-")
	if err != nil {
		return fmt.Errorf("making a folder for promtool: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// If it can, apt fetches as a user of its own, who may not look into this user's folder.
	const asThisUser = "APT::Sandbox::User="
	if err := run(ctx, dir, "apt-get", "-q", "-o", asThisUser, "download", "prometheus"); err != nil {
		if os.Geteuid() != 0 {
			return errors.Join(ErrNoPromtool, err)
		}
		if err := run(ctx, dir, "apt-get", "-q", "update"); err != nil {
			return errors.Join(ErrNoPromtool, err)
		}
		if err := run(ctx, dir, "apt-get", "-q", "-o", asThisUser, "download", "prometheus"); err != nil {
			return errors.Join(ErrNoPromtool, err)
		}
	}
	packages, err := filepath.Glob(filepath.Join(dir, "prometheus_*.deb"))
	if err != nil || len(packages) != 1 {
		return errors.Join(ErrNoPromtool, err)
	}
	if err := run(ctx, dir, "dpkg-deb", "-x", packages[0], "tree"); err != nil {
		return errors.Join(ErrNoPromtool, err)
	}
	return place(filepath.Join(dir, "tree", "usr", "bin", "promtool"))
}

// place copies the program to the cache.
func place(from string) error {
	path, err := fetched()
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("taking promtool out of its package: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("keeping promtool: %w", err)
	}
	if err := atomicfile.Write(path, content, 0o755); err != nil {
		return fmt.Errorf("keeping promtool: %w", err)
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

// Promtool has `promtool check metrics` read an exposition. It returns remarks that the contract does not know, and known remarks that promtool did not
// make.
func (c Contract) Promtool(ctx context.Context, promtool string, exposition []byte) ([]string, error) {
	const remarked = 3 // the exit code of promtool with remarks
	cmd := exec.CommandContext(ctx, promtool, "check", "metrics")
	cmd.Stdin = bytes.NewReader(exposition)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != remarked) {
		return nil, fmt.Errorf("promtool check metrics: %w\n%s", err, bytes.TrimSpace(append(stdout.Bytes(), stderr.Bytes()...)))
	}
	return c.remarks(stdout.String() + stderr.String()), nil
}

func (c Contract) remarks(output string) []string {
	var wrong, made []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case slices.Contains(c.Remarks, line):
			made = append(made, line)
		default:
			wrong = append(wrong, "promtool: "+line)
		}
	}
	for _, known := range c.Remarks {
		if !slices.Contains(made, known) {
			wrong = append(wrong, "promtool does not remark any more: "+known+"; take it off "+LintPath)
		}
	}
	return wrong
}
