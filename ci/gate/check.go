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

// Check holds the single steps of `test` and `dev:loop`.
type Check mg.Namespace

var (
	links       = step{"links", "check:links", checkLinks}
	format      = step{"format", "check:fmt", checkFmt}
	vet         = step{"vet", "check:vet", checkVet}
	lint        = step{"lint", "check:lint", checkLint}
	generated   = step{"generated code", "gen:check", checkGen}
	unit        = step{"tests", "check:unit", checkUnit}
	race        = step{"tests, race detector on", "check:race", checkRace}
	bdd         = step{"BDD features", "check:bdd", checkBDD}
	pacts       = step{"pacts", "pact", checkPact}
	metricsLint = step{"metrics contract", "metrics:lint", checkMetrics}
	determinism = step{"determinism", "determinism", checkDeterminism}
	chaos       = step{"chaos, a minute of it", "check:chaos", checkChaos}
	traced      = step{"traceability", "trace:check", checkTrace}
)

// suites are steps of their own: they run the daemon's program, which Go's test cache cannot see, so that a cached result
// of theirs never counts.
var suites = []string{"harness/bdd", "harness/chaos", "harness/determinism", "harness/metrics", "harness/pact"}

// Links checks the relative links and anchors of all Markdown files.
func (Check) Links(ctx context.Context) error { return checkLinks(ctx, nil) }

// Fmt lists Go files that gofumpt would change.
func (Check) Fmt(ctx context.Context) error { return checkFmt(ctx, nil) }

// Vet runs go vet, under every build tag.
func (Check) Vet(ctx context.Context) error { return checkVet(ctx, nil) }

// Lint runs golangci-lint with .golangci.yml. It is built at its first run, which takes some four minutes.
func (Check) Lint(ctx context.Context) error { return checkLint(ctx, nil) }

// Vuln asks the Go project's database for known vulnerabilities in what is called. It needs vuln.go.dev, so no other
// target runs it.
func (Check) Vuln(ctx context.Context) error {
	return command(ctx, "go", pinned("govulncheck", "./...")...)
}

// Unit runs the tests of all packages but the suites', without the race detector.
func (Check) Unit(ctx context.Context) error { return prepared(ctx, unit) }

// Race is the same with the race detector.
func (Check) Race(ctx context.Context) error { return prepared(ctx, race) }

// BDD runs the Gherkin features on the real daemon and engine.
func (Check) BDD(ctx context.Context) error { return prepared(ctx, bdd) }

// prepared runs one step that needs the engine's libraries.
func prepared(ctx context.Context, s step) error {
	mg.CtxDeps(ctx, Engine.Libs)
	return finish(runSteps(ctx, tally.New(), true, s))
}

func checkLinks(ctx context.Context, _ *tally.Tally) error {
	return command(ctx, "bash", "ci/scripts/check_links.sh")
}

func checkFmt(ctx context.Context, _ *tally.Tally) error {
	files, err := goFiles(ctx)
	if err != nil {
		return err
	}
	bad, err := output(ctx, "go", pinned("gofumpt", append([]string{"-l"}, files...)...)...)
	if err != nil {
		return err
	}
	if bad != "" {
		return fmt.Errorf("`go tool mage fmt` would change:\n%s", bad)
	}
	return nil
}

// goFiles are those that are written by hand.
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
	return slices.DeleteFunc(strings.Fields(list), func(f string) bool {
		return strings.HasPrefix(f, "gen/") || slices.Contains(deleted, f)
	}), nil
}

func checkVet(ctx context.Context, _ *tally.Tally) error {
	if err := command(ctx, "go", "vet", "./..."); err != nil {
		return err
	}
	if err := command(ctx, "go", "vet", "-tags", "llamaserver", "./service/..."); err != nil {
		return err
	}
	return command(ctx, "go", "vet", "-tags", "mage", ".")
}

// checkLint needs Pact's library, for the pacts' tests are linted, too.
func checkLint(ctx context.Context, _ *tally.Tally) error {
	if _, err := pactLibrary(ctx); err != nil {
		return err
	}
	return command(ctx, "go", pinned("golangci-lint", "run", "--allow-parallel-runners")...)
}

func checkUnit(ctx context.Context, t *tally.Tally) error { return checkPackages(ctx, t) }

func checkRace(ctx context.Context, t *tally.Tally) error { return checkPackages(ctx, t, "-race") }

// checkPackages tests every package but those of the suites.
func checkPackages(ctx context.Context, t *tally.Tally, flags ...string) error {
	module, err := output(ctx, "go", "list", "-m")
	if err != nil {
		return err
	}
	list, err := output(ctx, "go", "list", "./...")
	if err != nil {
		return err
	}
	packages := slices.DeleteFunc(strings.Fields(list), func(p string) bool {
		return slices.ContainsFunc(suites, func(s string) bool { return strings.HasPrefix(p+"/", module+"/"+s+"/") })
	})
	return goTest(ctx, t, append(flags, packages...)...)
}

func checkBDD(ctx context.Context, t *tally.Tally) error {
	return goTest(ctx, t, "-count=1", "./harness/bdd/...")
}
