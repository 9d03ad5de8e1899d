// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/engine"
	"github.com/llama-orch/llama-orch/ci/generate"
	"github.com/llama-orch/llama-orch/ci/pact"
	"github.com/llama-orch/llama-orch/ci/repeat"
	"github.com/llama-orch/llama-orch/ci/step"
	"github.com/llama-orch/llama-orch/ci/tally"
)

// Check holds the single steps of `test` and `dev:loop`.
type Check mg.Namespace

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
	return command.Run(ctx, "go", command.Tool("govulncheck", "./...")...)
}

// Unit runs the tests of all packages but the suites', without the race detector.
func (Check) Unit(ctx context.Context) error { return prepared(ctx, unit) }

// Race is the same with the race detector.
func (Check) Race(ctx context.Context) error { return prepared(ctx, race) }

// Repeat runs one package's tests again and again, under two busy loops a core, and shows which failed in how many runs (LO-850): `check:repeat ./service/control`.
// -only is a regular expression of their names, -times how many runs (20), -within how long they may take together (10m), -race=true the race detector. It is no
// part of `test`.
func (Check) Repeat(ctx context.Context, pkg string, only *string, times *int, within *time.Duration, race *bool) error {
	mg.CtxDeps(ctx, engine.Engine.Libs)
	// The daemon refuses a data folder that a group can write (LO-813), and the tests' folders are made under this process's mask.
	defer syscall.Umask(syscall.Umask(0o022))
	report, err := repeat.Run(ctx, repeat.Options{
		Package: pkg, Only: or(only, ""), Times: or(times, 20), Within: or(within, 10*time.Minute), Race: or(race, false), Out: os.Stdout,
	})
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n", report)
	return report.Err()
}

// or is what a flag says, or else what it says without being given.
func or[T any](flag *T, without T) T {
	if flag == nil {
		return without
	}
	return *flag
}

func checkLinks(ctx context.Context, _ *tally.Tally) error {
	return command.Run(ctx, "bash", "ci/scripts/check_links.sh")
}

// checkVet gives the tags to those packages alone that have files behind them. The tag mage hides the magefile only.
func checkVet(ctx context.Context, _ *tally.Tally) error {
	if err := command.Run(ctx, "go", "vet", "./..."); err != nil {
		return err
	}
	for tag, packages := range map[string]string{"llamaserver": "./service/...", "agents": "./harness/agents/...", "packaged": "./ci/release/..."} {
		if err := command.Run(ctx, "go", "vet", "-tags", tag, packages); err != nil {
			return err
		}
	}
	return command.Run(ctx, "go", "vet", "-tags", "mage", ".")
}

// checkLint needs Pact's library, for the pacts' tests are linted, too.
func checkLint(ctx context.Context, _ *tally.Tally) error {
	if _, err := pact.Library(ctx); err != nil {
		return err
	}
	return command.Run(ctx, "go", command.Tool("golangci-lint", "run", "--allow-parallel-runners")...)
}

func checkGen(ctx context.Context, _ *tally.Tally) error { return generate.Gen{}.Check(ctx) }

func checkUnit(ctx context.Context, t *tally.Tally) error { return checkPackages(ctx, t) }

// checkRace leaves out what of SQLite is translated from C: it has one writer, and takes twice the time with the race detector in it. It leaves out nothing that is written in Go: of
// a generic function that two packages have the linker keeps one, and one without the detector hides what makes others safe. More packages run at a time than there are
// cores, since many tests wait.
func checkRace(ctx context.Context, t *tally.Tally) error {
	return checkPackages(ctx, t, "-race", "-gcflags=modernc.org/sqlite/lib=-race=false", "-p", strconv.Itoa(2*runtime.NumCPU()))
}

// checkPackages tests every package but those of the suites.
func checkPackages(ctx context.Context, t *tally.Tally, flags ...string) error {
	module, err := command.Output(ctx, "go", "list", "-m")
	if err != nil {
		return err
	}
	list, err := command.Output(ctx, "go", "list", "./...")
	if err != nil {
		return err
	}
	// Vet is a step of its own.
	return step.GoTest(ctx, t, slices.Concat(flags, []string{"-vet=off"}, notSuites(module, strings.Fields(list)))...)
}
