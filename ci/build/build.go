// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

import (
	"context"

	"github.com/magefile/mage/mg"
)

// Build makes the binaries.
type Build mg.Namespace

// All builds bin/orchestratord and bin/llama-orch, stamped with the version.
func (Build) All(ctx context.Context) error {
	version, commit := "dev", "unknown"
	if head, err := git(ctx, "rev-parse", "--verify", "--quiet", "HEAD"); err == nil {
		commit = head
		if version, err = git(ctx, "describe", "--tags", "--always", "--dirty"); err != nil {
			return err
		}
	}
	return command(ctx, "go", "build", "-trimpath", "-ldflags", "-X main.version="+version+" -X main.commit="+commit, "-o", "bin/",
		"./cmd/orchestratord", "./cmd/llama-orch")
}
