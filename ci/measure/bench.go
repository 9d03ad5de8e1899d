// SPDX-License-Identifier: GPL-3.0-or-later

// Package measure has the targets that say what things cost, and how well policies do.
package measure

import (
	"context"
	"fmt"
	"strings"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/page"
)

// benchtime is short: the figures say what a thing costs about. `go test -bench` with a longer one says it better.
const benchtime = "200ms"

// Bench runs every Go benchmark for a short time, with allocations, and then the quick form of harness/bench, which measures
// the running daemon beside a plain proxy. The long form is `go run ./harness/bench`; .docs/perf.md says what its tables mean.
func Bench(ctx context.Context) error {
	packages, err := benchmarked(ctx)
	if err != nil {
		return err
	}
	if ctx, err = page.Ready(ctx); err != nil {
		return err
	}
	args := append([]string{"test", "-run", "^$", "-bench", ".", "-benchmem", "-benchtime", benchtime, "-p", "1", "-timeout", "10m"}, packages...)
	if err := command.Run(ctx, "go", args...); err != nil {
		return err
	}
	return command.Run(ctx, "go", "run", "./harness/bench", "-quick")
}

// benchmarked lists the packages that have a benchmark.
func benchmarked(ctx context.Context) ([]string, error) {
	files, err := command.Git(ctx, "grep", "--untracked", "-l", "-E", `^func Benchmark`, "--", "*_test.go")
	if err != nil {
		return nil, fmt.Errorf("finding the benchmarks: %w", err)
	}
	seen := map[string]bool{}
	var packages []string
	for file := range strings.FieldsSeq(files) {
		dir := "./" + file[:strings.LastIndexByte(file, '/')]
		if !seen[dir] {
			seen[dir] = true
			packages = append(packages, dir)
		}
	}
	return packages, nil
}
