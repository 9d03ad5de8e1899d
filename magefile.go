// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

// The targets of `go tool mage`, one file a namespace. `go tool mage -l` lists them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/tally"
)

// Default is what `go tool mage` alone does.
var Default = Test

// Aliases are short names of namespaced targets.
var Aliases = map[string]interface{}{
	"gen":   Gen.All,
	"build": Build.All,
	"trace": Trace.Write,
}

// Test runs the whole check that gates a change. It fetches what it needs: links, format, vet, generated code, every test
// with the race detector, and the BDD features on the real daemon and engine; it ends with `N passed, N failed`.
func Test(ctx context.Context) error {
	mg.CtxDeps(ctx, Engine.Libs)
	return finish(runSteps(ctx, tally.New(), false,
		step{"links", "check:links", checkLinks},
		step{"format", "check:fmt", checkFmt},
		step{"vet", "check:vet", checkVet},
		step{"generated code", "gen:check", checkGen},
		step{"tests, race detector on", "check:race", checkRace},
		step{"BDD features", "check:bdd", checkBDD},
	))
}

// Bench runs every benchmark, with allocations.
func Bench(ctx context.Context) error {
	mg.CtxDeps(ctx, Engine.Libs)
	return command(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-timeout", "30m", "./...")
}

// Smoke runs the reference box's smoke test (HME-040), which fails where NVML finds no two unequal GPUs.
func Smoke(ctx context.Context) error {
	return command(ctx, "go", "run", "./ci/smoke")
}

// finish prints the closing line of a test run and ends the process with it as the last word: mage would add a line of
// its own after a returned error.
func finish(t *tally.Tally, err error) error {
	if err != nil {
		return err
	}
	failed := t.Failed()
	if len(failed) > 0 {
		fmt.Println("\nfailed:")
		for _, name := range failed {
			fmt.Println("  " + name)
		}
	}
	passed, _, _ := t.Counts()
	fmt.Printf("\n%s\n", t.Line())
	if len(failed) > 0 {
		os.Exit(1)
	}
	if passed == 0 {
		return errors.New("no test ran: that is not a pass")
	}
	return nil
}
