// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/tally"
)

const bddPath = "github.com/llama-orch/llama-orch/harness/bdd"

// Check holds the single steps of `test` and `dev:loop`.
type Check mg.Namespace

// Links checks the relative links and anchors of all Markdown files.
func (Check) Links(ctx context.Context) error { return checkLinks(ctx, nil) }

// Fmt lists Go files that gofmt would change.
func (Check) Fmt(ctx context.Context) error { return checkFmt(ctx, nil) }

// Vet runs go vet.
func (Check) Vet(ctx context.Context) error { return checkVet(ctx, nil) }

// Unit runs every test but the BDD features, without the race detector.
func (Check) Unit(ctx context.Context) error { return alone(ctx, "tests", "check:unit", checkUnit) }

// Race runs every test but the BDD features, with the race detector.
func (Check) Race(ctx context.Context) error {
	return alone(ctx, "tests, race detector on", "check:race", checkRace)
}

// BDD runs the Gherkin features on the real daemon and engine.
func (Check) BDD(ctx context.Context) error { return alone(ctx, "BDD features", "check:bdd", checkBDD) }

func alone(ctx context.Context, name, target string, run func(context.Context, *tally.Tally) error) error {
	mg.CtxDeps(ctx, Engine.Libs)
	return finish(runSteps(ctx, tally.New(), true, step{name, target, run}))
}

func checkLinks(ctx context.Context, _ *tally.Tally) error {
	return command(ctx, "bash", "ci/scripts/check_links.sh")
}

func checkFmt(ctx context.Context, _ *tally.Tally) error {
	files, err := goFiles(ctx)
	if err != nil {
		return err
	}
	bad, err := output(ctx, "gofmt", append([]string{"-l"}, files...)...)
	if err != nil {
		return err
	}
	if bad != "" {
		return fmt.Errorf("gofmt -w would change:\n%s", bad)
	}
	return nil
}

func goFiles(ctx context.Context) ([]string, error) {
	list, err := git(ctx, "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "*.go")
	if err != nil {
		return nil, err
	}
	gone, err := git(ctx, "ls-files", "--deleted", "*.go")
	if err != nil {
		return nil, err
	}
	deleted := strings.Fields(gone)
	return slices.DeleteFunc(strings.Fields(list), func(f string) bool { return slices.Contains(deleted, f) }), nil
}

func checkVet(ctx context.Context, _ *tally.Tally) error {
	if err := command(ctx, "go", "vet", "./..."); err != nil {
		return err
	}
	return command(ctx, "go", "vet", "-tags", "mage", ".")
}

func checkUnit(ctx context.Context, t *tally.Tally) error { return checkPackages(ctx, t) }

func checkRace(ctx context.Context, t *tally.Tally) error { return checkPackages(ctx, t, "-race") }

// checkPackages tests every package but the BDD features, which are a step of their own.
func checkPackages(ctx context.Context, t *tally.Tally, flags ...string) error {
	list, err := output(ctx, "go", "list", "./...")
	if err != nil {
		return err
	}
	packages := slices.DeleteFunc(strings.Fields(list), func(p string) bool {
		return p == bddPath || strings.HasPrefix(p, bddPath+"/")
	})
	return goTest(ctx, t, append(flags, packages...)...)
}

// checkBDD never takes a cached result: the features run the daemon's binary, which Go's test cache cannot see.
func checkBDD(ctx context.Context, t *tally.Tally) error {
	return goTest(ctx, t, "-count=1", "./harness/bdd/...")
}
