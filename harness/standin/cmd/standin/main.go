// SPDX-License-Identifier: GPL-3.0-or-later

// Command standin passes for a CUDA llama-server in tests on machines without a GPU; see package standin.
package main

import (
	"context"
	"os"

	"github.com/llama-orch/llama-orch/harness/standin"
)

func main() {
	os.Exit(standin.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
