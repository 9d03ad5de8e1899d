// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/tally"
)

// Chaos kills workers and the daemon, fills queues and disk and cuts clients off for some seven minutes, and proves that
// nothing accepted was lost. LLORCH_CHAOS_SEED=N repeats a schedule; the disk is filled only when run as root.
func Chaos(ctx context.Context) error {
	mg.CtxDeps(ctx, Engine.Libs)
	return finish(runSteps(ctx, tally.New(), true, step{"chaos, long", "chaos", func(ctx context.Context, t *tally.Tally) error {
		if err := os.Setenv("LLORCH_CHAOS", "long"); err != nil {
			return fmt.Errorf("choosing the long run: %w", err)
		}
		defer os.Unsetenv("LLORCH_CHAOS")
		return checkChaos(ctx, t)
	}}))
}

// Chaos is the short run, as `test` does it.
func (Check) Chaos(ctx context.Context) error {
	return prepared(ctx, chaos)
}

// checkChaos never takes a cached result: the suite runs the daemon's binary, which Go's test cache cannot see. It passes the
// run's report on, and its seed.
func checkChaos(ctx context.Context, t *tally.Tally) error {
	dir, err := os.MkdirTemp("", "llama-orch-report-")
	if err != nil {
		return fmt.Errorf("making a folder for the suite's report: %w", err)
	}
	defer os.RemoveAll(dir)
	report := filepath.Join(dir, "report.txt")
	if err := os.Setenv("LLORCH_CHAOS_REPORT", report); err != nil {
		return fmt.Errorf("naming the suite's report: %w", err)
	}
	defer os.Unsetenv("LLORCH_CHAOS_REPORT")
	tested := goTest(ctx, t, "-count=1", "./harness/chaos/...")
	if lines, err := os.ReadFile(report); err == nil { // there is none when the suite could not begin
		fmt.Print(string(lines))
	}
	return tested
}
