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

// Loop runs the checks from the fastest to the slowest and stops at the first that fails.
func (Dev) Loop(ctx context.Context) error {
	mg.CtxDeps(ctx, Engine.Libs)
	return finish(runSteps(ctx, tally.New(), true,
		step{"format", "check:fmt", checkFmt},
		step{"vet", "check:vet", checkVet},
		step{"generated code", "gen:check", checkGen},
		step{"tests", "check:unit", checkUnit},
		step{"tests, race detector on", "check:race", checkRace},
		step{"BDD features", "check:bdd", checkBDD},
		step{"links", "check:links", checkLinks},
	))
}
