// SPDX-License-Identifier: GPL-3.0-or-later

// Package build has the target that makes the binaries.
package build

import (
	"context"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/command"
)

// Build makes the binaries.
type Build mg.Namespace

// All builds bin/orchestratord and bin/llama-orch, stamped with the version.
func (Build) All(ctx context.Context) error {
	version, commit, err := stamp(ctx)
	if err != nil {
		return err
	}
	return command.Run(ctx, "go", "build", "-trimpath", "-ldflags", "-X main.version="+version+" -X main.commit="+commit, "-o", "bin/",
		"./cmd/orchestratord", "./cmd/llama-orch")
}

// stamp is what the binaries say of themselves. An archive of the source has no commits, and builds nevertheless.
func stamp(ctx context.Context) (version, commit string, err error) {
	if commit, err = command.Git(ctx, "rev-parse", "--verify", "--quiet", "HEAD"); err != nil {
		return "dev", "unknown", nil //nolint:nilerr // there is no commit
	}
	version, err = command.Git(ctx, "describe", "--tags", "--always", "--dirty")
	return version, commit, err
}
