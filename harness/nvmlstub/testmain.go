// SPDX-License-Identifier: GPL-3.0-or-later

package nvmlstub

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Main is the TestMain of a package whose tests bind to the stand-in. It puts the stand-in's path into lib, and fails if goroutines are
// left. A process can bind to one NVML only, so all tests of the package share it, and none runs in parallel.
func Main(m *testing.M, lib *string) {
	dir, err := os.MkdirTemp("", "llorch-nvml-")
	if err == nil {
		*lib, err = Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}
