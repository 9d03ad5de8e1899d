// SPDX-License-Identifier: GPL-3.0-or-later

// Package todo has the target that keeps the tracker short.
package todo

import (
	"context"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/command"
)

// Todo keeps TODO.md.
type Todo mg.Namespace

// Archive moves the finished log of TODO.md to .docs/DONE/ and leaves a fresh template.
func (Todo) Archive(ctx context.Context) error {
	return command.Run(ctx, "bash", "ci/scripts/archive_todo.sh")
}
