// SPDX-License-Identifier: GPL-3.0-or-later

// Package contract holds the API's document against linters, and what the suites saw of the daemon against the document, with tools from npm
// (LO-845, ADR 023).
package contract

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/npm"
	"github.com/llama-orch/llama-orch/ci/step"
	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/harness/tape"
)

var (
	//go:embed package.json
	packages []byte
	//go:embed package-lock.json
	lock []byte
)

// toolsEnv names the folder of the tools to the tests, reportEnv the file for their figures.
const (
	toolsEnv  = "LLORCH_CONTRACT_TOOLS"
	reportEnv = "LLORCH_CONTRACT_REPORT"
)

// Tools installs the pinned packages, unless they are there, and returns their folder.
func Tools(ctx context.Context) (string, error) {
	return npm.Set{Name: "contract-tools", Needs: "the checks of the API's document", Packages: packages, Lock: lock}.Install(ctx)
}

// recordKey is where a context names the folder of the exchanges.
type recordKey struct{}

// Recording is a context whose suites leave their exchanges in a folder, which done removes.
func Recording(ctx context.Context) (_ context.Context, done func(), err error) {
	dir, err := os.MkdirTemp("", "llama-orch-tape-")
	if err != nil {
		return ctx, nil, fmt.Errorf("make a folder for the suites' exchanges: %w", err)
	}
	return context.WithValue(ctx, recordKey{}, dir), func() { _ = os.RemoveAll(dir) }, nil
}

// Recorded runs a suite, whose exchanges are recorded where the context says so.
func Recorded(run func(context.Context, *tally.Tally) error) func(context.Context, *tally.Tally) error {
	return func(ctx context.Context, t *tally.Tally) error {
		if dir, recording := ctx.Value(recordKey{}).(string); recording {
			ctx = command.Setting(ctx, tape.Env+"="+dir)
		}
		return run(ctx, t)
	}
}

// Test lints the document and replays what the suites have recorded. Where none has run, suite does, and is recorded.
func Test(suite func(context.Context, *tally.Tally) error) func(context.Context, *tally.Tally) error {
	return func(ctx context.Context, t *tally.Tally) error {
		dir, err := Tools(ctx)
		if err != nil {
			return err
		}
		var failed error
		if ctx.Value(recordKey{}) == nil {
			recording, done, err := Recording(ctx)
			if err != nil {
				return err
			}
			defer done()
			ctx, failed = recording, Recorded(suite)(recording, t)
		}
		ctx = npm.OnPath(command.Setting(ctx, toolsEnv+"="+dir), dir)
		return errors.Join(failed, Recorded(func(ctx context.Context, t *tally.Tally) error {
			return step.GoTestReported(ctx, t, reportEnv, "-count=1", "./harness/contract/...")
		})(ctx, t))
	}
}
