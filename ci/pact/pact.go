// SPDX-License-Identifier: GPL-3.0-or-later

// Package pact runs the tests of the pacts with Pact's library.
package pact

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/ci/step"
	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/harness/pact/libpact"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

const packages = "./harness/pact/..."

// Test runs the consumers against Pact's mock server and verifies the daemon. It never takes a cached result: the tests build
// and run the programs, which Go's test cache cannot see.
func Test(ctx context.Context, t *tally.Tally) error { return test(ctx, t, packages) }

// Update rewrites contracts/pacts from what the consumers rely on.
func Update(ctx context.Context, t *tally.Tally) error {
	return test(ctx, t, "-run", "^TestConsumers$", packages, "-update")
}

// test lets the tests find the library where it is cached.
func test(ctx context.Context, t *tally.Tally, args ...string) error {
	dir, err := Library(ctx)
	if err != nil {
		return err
	}
	return step.GoTest(ctx, t, append([]string{"-count=1", "-tags", "pact", "-ldflags", "-w -extldflags=-Wl,-rpath," + dir}, args...)...)
}

// Library fetches Pact's library, if it isn't there, and names its folder to the linker.
func Library(ctx context.Context) (dir string, err error) {
	if dir, err = libpact.Ensure(ctx, provision.Options{Progress: step.Say}); err != nil {
		return "", fmt.Errorf("preparing Pact's library: %w", err)
	}
	return dir, toLinker(dir)
}

// toLinker names a folder of libraries to the linker alone. CGO_LDFLAGS would do, too, but the go command keys its cache by it,
// and would build every cgo package, and all that import one, a second time.
func toLinker(dir string) error {
	set := filepath.SplitList(os.Getenv("LIBRARY_PATH"))
	if slices.Contains(set, dir) {
		return nil
	}
	if err := os.Setenv("LIBRARY_PATH", strings.Join(append([]string{dir}, set...), string(filepath.ListSeparator))); err != nil {
		return fmt.Errorf("naming the folder of Pact's library: %w", err)
	}
	return nil
}
