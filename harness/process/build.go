// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// Build compiles programs of the module at root into a folder, whose name ends in a slash, or one into a file. It keeps what it links in the
// user's cache folder: Go links nothing anew that is there and is the same, and linking takes 5 s of CPU for each suite otherwise.
func Build(ctx context.Context, root, out string, packages ...string) error {
	cache, unlock, err := programs()
	if err != nil {
		return fmt.Errorf("open the cache of programs: %w", err)
	}
	defer unlock()
	// Nobody debugs these programs, and their builds are those of the suites.
	args := append([]string{"build", "-ldflags=-w", "-buildvcs=false", "-o", cache + "/"}, packages...)
	build := exec.CommandContext(ctx, "go", args...)
	build.Dir = root
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(packages, ", "), err, said)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("make the folder of programs: %w", err)
	}
	// A copy, and no link, since suites change their programs. Another process makes it: a program cannot start while a child of this one still has it open.
	copies := []string{"--reflink=auto", "--remove-destination"}
	for _, p := range packages {
		if p == "." {
			if p, err = filepath.Abs(root); err != nil {
				return fmt.Errorf("find the module: %w", err)
			}
		}
		copies = append(copies, filepath.Join(cache, path.Base(p)))
	}
	if said, err := exec.CommandContext(ctx, "cp", append(copies, out)...).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w\n%s", strings.Join(packages, ", "), err, said)
	}
	return nil
}

// programs is the folder of programs that were linked. Until unlock nobody else has it: another checkout may put its own there.
func programs() (dir string, unlock func(), err error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(base, "llama-orch", "test-programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		_ = f.Close()
		return "", nil, err
	}
	return dir, func() { _ = f.Close() }, nil
}
