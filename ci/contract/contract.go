// SPDX-License-Identifier: GPL-3.0-or-later

// Package contract holds the API's document against linters, and what the suites saw of the daemon against the document, with tools from npm
// (LO-845, ADR 023).
package contract

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/llama-orch/llama-orch/ci/command"
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

// Tools installs the pinned packages into the user's cache folder, unless they are there, and returns their folder. The lock file's digest names it.
func Tools(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return install(ctx, filepath.Join(cache, "llama-orch", "contract-tools"))
}

func install(ctx context.Context, cache string) (string, error) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("the checks of the API's document need %s: install it (Debian: apt-get install -y npm)", program)
		}
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	step.Say("installing spectral, redocly and prism")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the folder of the tools: %w", err)
	}
	fresh, err := os.MkdirTemp(cache, ".new-")
	if err != nil {
		return "", fmt.Errorf("make a folder for the tools: %w", err)
	}
	defer os.RemoveAll(fresh) // it is gone once it has its name
	for name, content := range map[string][]byte{"package.json": packages, "package-lock.json": lock} {
		if err := os.WriteFile(filepath.Join(fresh, name), content, 0o644); err != nil {
			return "", fmt.Errorf("name the tools to npm: %w", err)
		}
	}
	npm := command.New(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	npm.Dir = fresh
	if err := npm.Run(); err != nil {
		return "", fmt.Errorf("install the tools with npm: %w", err)
	}
	// Another run may have been faster, with the same packages.
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, os.ErrExist) {
		if _, there := os.Stat(dir); there != nil {
			return "", fmt.Errorf("put the tools in their place: %w", err)
		}
	}
	return dir, nil
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

// Recorded runs a suite, whose exchanges are recorded where the context says so. Other tests do not see the setting, which is part of the key of
// Go's test cache.
func Recorded(run func(context.Context, *tally.Tally) error) func(context.Context, *tally.Tally) error {
	return func(ctx context.Context, t *tally.Tally) error {
		dir, recording := ctx.Value(recordKey{}).(string)
		if !recording {
			return run(ctx, t)
		}
		if err := os.Setenv(tape.Env, dir); err != nil {
			return fmt.Errorf("name the folder of the exchanges: %w", err)
		}
		defer os.Unsetenv(tape.Env)
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
		if err := os.Setenv(toolsEnv, dir); err != nil {
			return fmt.Errorf("name the folder of the tools: %w", err)
		}
		defer os.Unsetenv(toolsEnv)
		// The tools bring the Node that they need: a distribution's may be older.
		path := os.Getenv("PATH")
		if err := os.Setenv("PATH", filepath.Join(dir, "node_modules", ".bin")+string(filepath.ListSeparator)+path); err != nil {
			return fmt.Errorf("name the folder of the tools: %w", err)
		}
		defer os.Setenv("PATH", path)
		return errors.Join(failed, Recorded(func(ctx context.Context, t *tally.Tally) error {
			return step.GoTestReported(ctx, t, reportEnv, "-count=1", "./harness/contract/...")
		})(ctx, t))
	}
}
