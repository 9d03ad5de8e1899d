// SPDX-License-Identifier: GPL-3.0-or-later

// Package soak has the target that runs a daemon for long, to see whether something of it grows.
package soak

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/engine"
	"github.com/llama-orch/llama-orch/harness/soak"
)

// Soak runs a daemon for an hour (-minutes=N) under everything that clients do, at -perHour tasks (100000), and shows what of the daemon, its workers and its data
// folder grows with the tasks (LO-880). build/soak has the plot. It is no part of `test`; `proof` soaks for ten minutes.
func Soak(ctx context.Context, minutes, perHour *int) error {
	o := soak.Options{For: time.Hour, Rate: soak.PerHour / time.Hour.Seconds()}
	if minutes != nil {
		o.For = time.Duration(*minutes) * time.Minute
	}
	if perHour != nil {
		o.Rate = float64(*perHour) / time.Hour.Seconds()
	}
	mg.CtxDeps(ctx, engine.Engine.Libs)
	// The daemon refuses a data folder that a group can write (LO-813).
	defer syscall.Umask(syscall.Umask(0o022))
	o.Root, o.Results, o.Out = ".", filepath.Join("build", "soak"), os.Stdout
	return soak.Run(ctx, o)
}
