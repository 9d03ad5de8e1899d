// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/harness/pact/libpact"
)

const pactPackages = "./harness/pact/..."

// Pact runs the consumers against Pact's mock server, compares what they rely on with the committed pacts, and verifies the
// real daemon against these. It fetches Pact's library.
func Pact(ctx context.Context) error { return prepared(ctx, pacts) }

// Pacts rewrites contracts/pacts from what the consumers rely on.
func (Gen) Pacts(ctx context.Context) error {
	return finish(runSteps(ctx, tally.New(), true, step{"consumers", "gen:pacts", func(ctx context.Context, t *tally.Tally) error {
		return testPacts(ctx, t, "-run", "^TestConsumers$", pactPackages, "-update")
	}}))
}

// checkPact never takes a cached result: the tests build and run the programs, which Go's test cache cannot see.
func checkPact(ctx context.Context, t *tally.Tally) error { return testPacts(ctx, t, pactPackages) }

// testPacts lets the tests find the library where it is cached.
func testPacts(ctx context.Context, t *tally.Tally, args ...string) error {
	dir, err := pactLibrary(ctx)
	if err != nil {
		return err
	}
	return goTest(ctx, t, append([]string{"-count=1", "-tags", "pact", "-ldflags", "-extldflags=-Wl,-rpath," + dir}, args...)...)
}

// pactLibrary fetches Pact's library, if it isn't there, and names its folder to the linker alone. CGO_LDFLAGS would do, too,
// but the go command keys its cache by it, and would build every cgo package, and all that import one, a second time.
func pactLibrary(ctx context.Context) (dir string, err error) {
	if dir, err = libpact.Ensure(ctx, preparing); err != nil {
		return "", fmt.Errorf("preparing Pact's library: %w", err)
	}
	set := filepath.SplitList(os.Getenv("LIBRARY_PATH"))
	if slices.Contains(set, dir) {
		return dir, nil
	}
	if err := os.Setenv("LIBRARY_PATH", strings.Join(append([]string{dir}, set...), string(filepath.ListSeparator))); err != nil {
		return "", fmt.Errorf("naming the folder of Pact's library: %w", err)
	}
	return dir, nil
}
