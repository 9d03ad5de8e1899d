// SPDX-License-Identifier: GPL-3.0-or-later

// Package agents runs agents from npm against the daemon (LO-423).
package agents

import (
	"context"
	_ "embed"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/npm"
	"github.com/llama-orch/llama-orch/ci/step"
	"github.com/llama-orch/llama-orch/ci/tally"
)

var (
	//go:embed package.json
	packages []byte
	//go:embed package-lock.json
	lock []byte
)

// toolsEnv names the folder of the packages to the tests, reportEnv the file for their transcripts.
const (
	toolsEnv  = "LLORCH_AGENTS"
	reportEnv = "LLORCH_AGENTS_REPORT"
)

// Test installs the agents where they are missing, which takes 1.5 GB, runs them, and prints what each did.
func Test(ctx context.Context, t *tally.Tally) error {
	dir, err := npm.Set{Name: "agents", Needs: "the agents", Packages: packages, Lock: lock, Partial: true}.Install(ctx)
	if err != nil {
		return err
	}
	return step.GoTestReported(command.Setting(ctx, toolsEnv+"="+dir), t, reportEnv, "-count=1", "-tags", "agents", "./harness/agents/...")
}
