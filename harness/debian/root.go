// SPDX-License-Identifier: GPL-3.0-or-later

package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoRoot says what Root needs.
var ErrNoRoot = errors.New("a Debian of its own cannot be made: it takes root, and a Debian with apt-get and package lists (apt-get update)")

// Root returns a folder with the smallest Debian of this machine's release, and the packages that are named. It is made once, with debootstrap, from where apt gets its packages, and kept in
// the cache. Nobody may change it.
func Root(ctx context.Context, progress func(string), packages ...string) (string, error) {
	sources, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(SITE) $(CODENAME) $(LABEL)", "Created-By: Packages").Output()
	if err != nil {
		return "", errors.Join(ErrNoRoot, err)
	}
	mirror, release := "", ""
	for line := range strings.Lines(string(sources)) {
		if words := strings.Fields(line); len(words) == 3 && words[2] == "Debian" && !strings.Contains(words[1], "-") {
			mirror, release = words[0], words[1]
		}
	}
	if mirror == "" || os.Geteuid() != 0 {
		return "", ErrNoRoot
	}
	dir, err := fetched(strings.Join(append([]string{"debian-" + release}, packages...), "+"))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	progress("making a small Debian " + release + " with debootstrap")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("making a Debian: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "debian-")
	if err != nil {
		return "", fmt.Errorf("making a Debian: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := run(ctx, work, "apt-get", "-q", "-o", "APT::Sandbox::User=", "download", "debootstrap"); err != nil {
		return "", errors.Join(ErrNoRoot, err)
	}
	archives, err := filepath.Glob(filepath.Join(work, "debootstrap_*.deb"))
	if err != nil || len(archives) != 1 {
		return "", errors.Join(ErrNoRoot, err)
	}
	if err := run(ctx, work, "dpkg-deb", "-x", archives[0], "tool"); err != nil {
		return "", err
	}
	root, tool := filepath.Join(work, "root"), filepath.Join(work, "tool", "usr")
	if err := os.Mkdir(root, 0o755); err != nil { // a temporary folder would be its user's alone
		return "", fmt.Errorf("making a Debian: %w", err)
	}
	args := []string{
		"DEBOOTSTRAP_DIR=" + filepath.Join(tool, "share", "debootstrap"), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", filepath.Join(tool, "sbin", "debootstrap"), "--variant=minbase",
	}
	if len(packages) > 0 {
		args = append(args, "--include="+strings.Join(packages, ","))
	}
	if err := run(ctx, work, "env", append(args, release, root, mirror)...); err != nil {
		return "", err
	}
	if err := os.Rename(root, dir); err != nil {
		return "", fmt.Errorf("keeping a Debian: %w", err)
	}
	return dir, nil
}
