// SPDX-License-Identifier: GPL-3.0-or-later

// Package soak has the target that runs a daemon for long, to see whether something of it grows.
package soak

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/engine"
)

// Soak runs a daemon for an hour (-minutes=N) under everything that clients do, at -perHour tasks (100000), and shows what of the daemon, its workers and its data
// folder grows with the tasks (LO-880). build/soak has the plot. It is no part of `test`; `proof` soaks for ten minutes.
func Soak(ctx context.Context, minutes, perHour *int) error {
	args := []string{}
	if minutes != nil {
		args = append(args, fmt.Sprintf("-for=%dm", *minutes))
	}
	if perHour != nil {
		args = append(args, fmt.Sprintf("-per-hour=%d", *perHour))
	}
	return run(ctx, args...)
}

// Into soaks for so many minutes, and leaves the plot and the samples in a folder.
func Into(minutes int, dir string) func(context.Context) error {
	return func(ctx context.Context) error {
		return run(ctx, fmt.Sprintf("-for=%dm", minutes), "-results="+dir)
	}
}

func run(ctx context.Context, args ...string) error {
	mg.CtxDeps(ctx, engine.Engine.Libs)
	// The daemon refuses a data folder that a group can write (LO-813).
	defer syscall.Umask(syscall.Umask(0o022))
	// A program of its own, built where NVML's header and SQLite are built anyway: mage itself stays small.
	dir, err := os.MkdirTemp("", "llama-orch-soak-")
	if err != nil {
		return fmt.Errorf("making a folder for the soak's program: %w", err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "soak")
	if err := command.Run(ctx, "go", "build", "-o", program, "./harness/soak/cmd/soak"); err != nil {
		return err
	}
	return command.Run(ctx, program, args...)
}
