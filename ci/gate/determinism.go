// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/llama-orch/llama-orch/ci/tally"
)

// Determinism holds the receipts' promise (same fingerprint, same bytes) against the daemon, on every engine of this machine.
func Determinism(ctx context.Context) error {
	return prepared(ctx, determinism)
}

// checkDeterminism never takes a cached result: the suite runs the daemon's binary, which Go's test cache cannot see. It
// passes the suite's figures on, and which engines were not run.
func checkDeterminism(ctx context.Context, t *tally.Tally) error {
	dir, err := os.MkdirTemp("", "llama-orch-report-")
	if err != nil {
		return fmt.Errorf("making a folder for the suite's report: %w", err)
	}
	defer os.RemoveAll(dir)
	report := filepath.Join(dir, "report.txt")
	if err := os.Setenv("LLORCH_DETERMINISM_REPORT", report); err != nil {
		return fmt.Errorf("naming the suite's report: %w", err)
	}
	defer os.Unsetenv("LLORCH_DETERMINISM_REPORT")
	tested := goTest(ctx, t, "-count=1", "./harness/determinism/...")
	if lines, err := os.ReadFile(report); err == nil { // there is none when the suite could not begin
		fmt.Print(string(lines))
	}
	return tested
}
