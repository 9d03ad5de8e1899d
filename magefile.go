// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

// The targets of `go tool mage`, one file a namespace. `go tool mage -l` lists them.
package main

import (
	"context"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/tally"
)

// Default is what `go tool mage` alone does.
var Default = Test

// Aliases are short names of namespaced targets.
var Aliases = map[string]any{
	"gen":   Gen.All,
	"build": Build.All,
	"trace": Trace.Write,
}

// Test runs the whole check that gates a change, each part once: links, format, vet, lint, generated code, every test with
// the race detector, and all suites on the real daemon and engine. It fetches what it needs and ends with `N passed, N failed`.
func Test(ctx context.Context) error {
	return finish(runGate(ctx))
}

func runGate(ctx context.Context) (*tally.Tally, error) {
	mg.CtxDeps(ctx, Engine.Libs)
	return runSteps(ctx, tally.New(), false,
		links, format, vet, lint, generated, race, bdd, pacts, metricsLint, determinism, chaos, traced)
}

// Smoke runs the reference box's smoke test (HME-040), which fails where NVML finds no two unequal GPUs.
func Smoke(ctx context.Context) error {
	return command(ctx, "go", "run", "./ci/smoke")
}
