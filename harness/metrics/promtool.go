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

// ErrNoPrometheus says how to get Prometheus's programs.
var ErrNoPrometheus = errors.New("promtool or prometheus is missing: `go tool mage metrics:lint` fetches them where there is apt-get; " +
	"elsewhere install it (Debian: apt-get install --no-install-recommends prometheus; Arch: pacman -S prometheus)")

// The programs of Prometheus that the suite runs.
const (
	promtool   = "promtool"
	prometheus = "prometheus"
)

// fetched is where FetchPrometheus puts a program.
func fetched(program string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w", err)
	}
	return filepath.Join(cache, "llama-orch", "tools", program), nil
}

// FindPromtool returns the installed promtool, or otherwise the fetched one.
func FindPromtool() (string, error) { return find(promtool) }

// FindPrometheus returns the installed Prometheus, or otherwise the fetched one.
func FindPrometheus() (string, error) { return find(prometheus) }

func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	path, err := fetched(program)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", ErrNoPrometheus
	}
	return path, nil
}

// FetchPrometheus takes the programs out of Debian's package, which apt checks, if one is missing. It installs nothing and starts no
// server, so it needs no root, except if there are no package lists yet.
func FetchPrometheus(ctx context.Context, progress func(string)) error {
	_, noTool := FindPromtool()
	_, noServer := FindPrometheus()
	if err := errors.Join(noTool, noServer); !errors.Is(err, ErrNoPrometheus) {
		return err
	}
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return ErrNoPrometheus
		}
	}
	progress("promtool or prometheus is missing: taking them out of Debian's package of prometheus")
	dir, err := os.MkdirTemp("", "llama-orch-prometheus-")
	if err != nil {
		return fmt.Errorf("making a folder for Prometheus: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// If it can, apt fetches as a user of its own, who may not look into this user's folder.
	const asThisUser = "APT::Sandbox::User="
	if err := run(ctx, dir, "apt-get", "-q", "-o", asThisUser, "download", "prometheus"); err != nil {
		if os.Geteuid() != 0 {
			return errors.Join(ErrNoPrometheus, err)
		}
		if err := run(ctx, dir, "apt-get", "-q", "update"); err != nil {
			return errors.Join(ErrNoPrometheus, err)
		}
		if err := run(ctx, dir, "apt-get", "-q", "-o", asThisUser, "download", "prometheus"); err != nil {
			return errors.Join(ErrNoPrometheus, err)
		}
	}
	packages, err := filepath.Glob(filepath.Join(dir, "prometheus_*.deb"))
	if err != nil || len(packages) != 1 {
		return errors.Join(ErrNoPrometheus, err)
	}
	if err := run(ctx, dir, "dpkg-deb", "-x", packages[0], "tree"); err != nil {
		return errors.Join(ErrNoPrometheus, err)
	}
	return errors.Join(place(dir, promtool), place(dir, prometheus))
}

// place copies a program of the unpacked package to the cache.
func place(dir, program string) error {
	path, err := fetched(program)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(dir, "tree", "usr", "bin", program))
	if err != nil {
		return fmt.Errorf("taking %s out of its package: %w", program, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("keeping %s: %w", program, err)
	}
	if err := atomicfile.Write(path, content, 0o755); err != nil {
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

// Promtool has `promtool check metrics` read an exposition. It returns remarks that the contract does not know, and known remarks that promtool did not
// make.
func (c Contract) Promtool(ctx context.Context, program string, exposition []byte) ([]string, error) {
	const remarked = 3 // the exit code of promtool with remarks
	cmd := exec.CommandContext(ctx, program, "check", "metrics")
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
