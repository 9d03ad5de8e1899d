// SPDX-License-Identifier: GPL-3.0-or-later

// Command soak soaks a daemon of the repository that it is run in. `go tool mage soak` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/harness/soak"
)

func main() { os.Exit(run()) }

func run() int {
	o := soak.Options{Root: ".", Out: os.Stdout}
	flag.DurationVar(&o.For, "for", time.Hour, "how long")
	flag.StringVar(&o.Results, "results", "build/soak", "folder for the plot and the samples")
	perHour := flag.Int("per-hour", soak.PerHour, "acts of clients in an hour; most of them are one task")
	flag.Parse()
	o.Rate = float64(*perHour) / time.Hour.Seconds()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := soak.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 1
	}
	return 0
}
