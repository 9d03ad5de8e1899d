// SPDX-License-Identifier: GPL-3.0-or-later

// Command studio passes for a server of speech and images; see package studio.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/llama-orch/llama-orch/harness/studio"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	code := studio.Main(ctx, os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}
