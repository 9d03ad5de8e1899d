// SPDX-License-Identifier: GPL-3.0-or-later

// Package mutate has the target that breaks the code in small places, to see whether the tests notice.
package mutate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/harness/mutate"
)

// core are the packages that decide: what they get wrong, every client sees.
var core = []string{
	"./service/flow/queue", "./service/flow/placement", "./service/flow/admission", "./service/flow/budget", "./service/flow/stream", "./service/flow/scheduler",
	"./service/fleet/vram", "./service/fleet/residency", "./service/front/gate", "./service/supply/policy", "./service/record/ledger/sqlite",
}

// Mutate breaks the core in one small place at a time, and shows which of these mutants no test of the package notices (LO-853). -in names other packages, with
// commas between them; -sample tries that many mutants only, always the same; -within is how long all of it may take (2h). Results are kept in the user's
// cache folder for as long as the package's files, and what it imports, are the same. It is no part of `test`.
func Mutate(ctx context.Context, in *string, sample *int, within *time.Duration) error {
	o := mutate.Options{Packages: core, Within: 2 * time.Hour}
	if in != nil {
		o.Packages = strings.Split(*in, ",")
	}
	if sample != nil {
		o.Sample = *sample
	}
	if within != nil {
		o.Within = *within
	}
	if o.Sample > 0 { // a package has too few of them to be judged alone
		return run(ctx, o, mutate.Judge, mutate.Goal)
	}
	return run(ctx, o, mutate.JudgeEach, mutate.Goal)
}

// Mutants has the target that `proof` uses.
type Mutants mg.Namespace

// Sample tries 200 mutants of the core, always the same (LO-854), as part of `proof`.
func (Mutants) Sample(ctx context.Context) error {
	return run(ctx, mutate.Options{Packages: core, Sample: 200, Within: time.Hour}, mutate.Judge, mutate.Floor)
}

func run(ctx context.Context, o mutate.Options, judge func([]mutate.Result, float64) error, least float64) error {
	// The daemon refuses a data folder that a group can write (LO-813), and the tests' folders are made under this process's mask.
	defer syscall.Umask(syscall.Umask(0o022))
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("finding the cache folder: %w", err)
	}
	o.Cache, o.Env = filepath.Join(cache, "llama-orch", "mutate"), command.Environ(ctx)
	o.Workers, o.Out = runtime.NumCPU(), os.Stdout
	results, err := mutate.Run(ctx, o)
	if err != nil {
		return err
	}
	return judge(results, least)
}
