// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/service/app"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/observe"
)

// profiledMain runs the daemon, wired by the same package as the product, with a profiler around it, which the product does not have. Its
// arguments are the configuration and the file of the profile.
func profiledMain(args []string) (err error) {
	c, err := config.Load(args[0], func(string) string { return "" })
	if err != nil {
		return err
	}
	log, err := observe.NewLogger(observe.Options{Level: c.Log.Level, Redactor: observe.NewRedactor("")})
	if err != nil {
		return err
	}
	a, err := app.New(app.Options{Config: c, Log: log, Version: "profiled"})
	if err != nil {
		return err
	}
	f, err := os.Create(args[1])
	if err != nil {
		return fmt.Errorf("make the profile: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := pprof.StartCPUProfile(f); err != nil {
		return fmt.Errorf("start the profile: %w", err)
	}
	defer pprof.StopCPUProfile()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := a.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	bounded, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return a.Stop(bounded)
}
