// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

import (
	"context"

	"github.com/magefile/mage/mg"
)

// Todo keeps TODO.md.
type Todo mg.Namespace

// Archive moves the finished log of TODO.md to .docs/DONE/ and leaves a fresh template.
func (Todo) Archive(ctx context.Context) error {
	return command(ctx, "bash", "ci/scripts/archive_todo.sh")
}
