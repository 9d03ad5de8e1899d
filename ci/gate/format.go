// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/tally"
)

// Fmt formats all Go files with gofumpt.
func Fmt(ctx context.Context) error {
	files, err := goFiles(ctx)
	if err != nil {
		return err
	}
	return command.Run(ctx, "go", command.Tool("gofumpt", append([]string{"-l", "-w"}, files...)...)...)
}

func checkFmt(ctx context.Context, _ *tally.Tally) error {
	files, err := goFiles(ctx)
	if err != nil {
		return err
	}
	bad, err := command.Output(ctx, "go", command.Tool("gofumpt", append([]string{"-l"}, files...)...)...)
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
	list, err := command.Git(ctx, "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "*.go")
	if err != nil {
		return nil, err
	}
	gone, err := command.Git(ctx, "ls-files", "--deleted", "*.go")
	if err != nil {
		return nil, err
	}
	deleted := strings.Fields(gone)
	return slices.DeleteFunc(strings.Fields(list), func(f string) bool {
		return strings.HasPrefix(f, "gen/") || strings.HasSuffix(f, "_templ.go") || slices.Contains(deleted, f)
	}), nil
}
