// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

import (
	"context"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/tally"
)

// Dev is the daily work.
type Dev mg.Namespace

// Loop runs every check, the fastest first, and stops at the first that fails.
func (Dev) Loop(ctx context.Context) error {
	mg.CtxDeps(ctx, Engine.Libs)
	return finish(runSteps(ctx, tally.New(), true,
		format, links, vet, lint, generated, unit, race, pacts, metricsLint, bdd, determinism, chaos, traced))
}

// Fmt formats all Go files with gofumpt.
func Fmt(ctx context.Context) error {
	files, err := goFiles(ctx)
	if err != nil {
		return err
	}
	return command(ctx, "go", pinned("gofumpt", append([]string{"-l", "-w"}, files...)...)...)
}
