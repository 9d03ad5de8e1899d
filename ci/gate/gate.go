// SPDX-License-Identifier: GPL-3.0-or-later

// Package gate has the targets of the whole check that gates a change, and of its single steps.
package gate

import (
	"context"
	"slices"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/clients"
	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/contract"
	"github.com/llama-orch/llama-orch/ci/engine"
	"github.com/llama-orch/llama-orch/ci/pact"
	"github.com/llama-orch/llama-orch/ci/page"
	"github.com/llama-orch/llama-orch/ci/step"
	"github.com/llama-orch/llama-orch/ci/tally"
)

var (
	links       = step.Step{Name: "links", Target: "check:links", Run: checkLinks}
	format      = step.Step{Name: "format", Target: "check:fmt", Run: checkFmt}
	vet         = step.Step{Name: "vet", Target: "check:vet", Run: checkVet}
	lint        = step.Step{Name: "lint", Target: "check:lint", Run: checkLint}
	generated   = step.Step{Name: "generated code", Target: "gen:check", Run: checkGen}
	unit        = step.Step{Name: "tests", Target: "check:unit", Run: checkUnit}
	race        = step.Step{Name: "tests, race detector on", Target: "check:race", Run: checkRace}
	daemon      = step.Step{Name: "the daemon from outside", Target: "check:outside", Run: checkOutside}
	bdd         = step.Step{Name: "BDD features", Target: "check:bdd", Run: contract.Recorded(checkBDD)}
	pacts       = step.Step{Name: "pacts", Target: "pact", Run: contract.Recorded(pact.Test)}
	document    = step.Step{Name: "API document", Target: "contract", Run: contract.Test(checkBDD)}
	sdks        = step.Step{Name: "official SDKs", Target: "clients", Run: clients.Test}
	statusPage  = step.Step{Name: "status page in a browser", Target: "check:page", Run: page.Test}
	metricsLint = step.Step{Name: "metrics contract", Target: "metrics:lint", Run: checkMetrics}
	smoke       = step.Step{Name: "smoke test on stand-ins", Target: "check:smoke", Run: checkSmoke}
	determinism = step.Step{Name: "determinism", Target: "determinism", Run: checkDeterminism}
	haiku       = step.Step{Name: "haiku of the minute", Target: "haiku", Run: checkHaiku}
	chaos       = step.Step{Name: "chaos, a minute of it", Target: "check:chaos", Run: checkChaos}
	traced      = step.Step{Name: "traceability", Target: "trace:check", Run: checkTrace}
)

// waiting are the suites on the real daemon, the longest first. They run beside one another.
var waiting = step.Stage{daemon, bdd, sdks, statusPage, determinism, chaos, pacts, smoke, haiku, metricsLint}

// The two orders of the steps. The gate runs each part once; the daily loop runs the fastest first. Traceability comes last in
// both: it asks whether the tests have passed. What the features and the pacts saw is held against the API's document behind them.
var (
	whole = slices.Concat(step.InOrder(links, format, vet, lint, generated, race), []step.Stage{waiting}, step.InOrder(document, traced))
	loop  = slices.Concat(step.InOrder(format, links, vet, lint, generated, unit, race), []step.Stage{waiting}, step.InOrder(document, traced))
)

// Test runs the whole check that gates a change, each part once: links, format, vet, lint, generated code, every test in the
// process with the race detector, and all suites on the real daemon and engine. It fetches what it needs and ends with `N passed, N failed`.
func Test(ctx context.Context) error {
	return step.Finish(Run(ctx))
}

// Run is the whole check, without its closing line.
func Run(ctx context.Context) (*tally.Tally, error) {
	mg.CtxDeps(ctx, engine.Engine.Libs)
	ctx, done, err := contract.Recording(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return step.Run(ctx, tally.New(), false, whole...)
}

// Dev is the daily work.
type Dev mg.Namespace

// Loop runs every check, the fastest first, and stops at the first that fails.
func (Dev) Loop(ctx context.Context) error {
	mg.CtxDeps(ctx, engine.Engine.Libs)
	ctx, done, err := contract.Recording(ctx)
	if err != nil {
		return err
	}
	t, err := step.Run(ctx, tally.New(), true, loop...)
	done() // Finish may end the process
	return step.Finish(t, err)
}

// Smoke runs the reference box's smoke test (HME-040), which fails where NVML finds no two unequal GPUs.
func Smoke(ctx context.Context) error {
	return command.Run(ctx, "go", "run", "./ci/smoke")
}

// prepared runs one step that needs the engine's libraries.
func prepared(ctx context.Context, s step.Step) error {
	mg.CtxDeps(ctx, engine.Engine.Libs)
	return step.Alone(ctx, s)
}
