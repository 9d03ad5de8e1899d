// SPDX-License-Identifier: GPL-3.0-or-later

// Package clients runs the official SDKs against the daemon, with packages from npm (LO-420).
package clients

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

// toolsEnv names the folder of the packages to the tests.
const toolsEnv = "LLORCH_CLIENTS"

// Install installs the packages where they are missing, and returns their folder.
func Install(ctx context.Context) (string, error) {
	return npm.Set{Name: "clients", Needs: "the tests of the official SDKs, and the types for TypeScript,", Packages: packages, Lock: lock}.Install(ctx)
}

// Test runs the SDKs' programs.
func Test(ctx context.Context, t *tally.Tally) error {
	dir, err := Install(ctx)
	if err != nil {
		return err
	}
	return step.GoTest(command.Setting(ctx, toolsEnv+"="+dir), t, "-count=1", "./harness/clients/...")
}
