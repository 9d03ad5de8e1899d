// SPDX-License-Identifier: GPL-3.0-or-later

// Package command runs the programs that the targets of mage need: go, git, and what they build.
package command

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// settingsKey is where a context has what its children's environment has besides.
type settingsKey struct{}

// Setting is a context whose children have the settings, each NAME=VALUE, in their environment. Other children do not see them: what a test reads of
// its environment is part of the key of Go's test cache.
func Setting(ctx context.Context, settings ...string) context.Context {
	before, _ := ctx.Value(settingsKey{}).([]string)
	return context.WithValue(ctx, settingsKey{}, slices.Concat(before, settings))
}

// Environ is the environment of every child process. NVIDIA's header warns about its own deprecated names in each build.
func Environ(ctx context.Context) []string {
	const quiet = "-Wno-deprecated-declarations"
	flags := os.Getenv("CGO_CFLAGS")
	if flags == "" {
		flags = "-O2 -g"
	}
	if !strings.Contains(flags, quiet) {
		flags += " " + quiet
	}
	settings, _ := ctx.Value(settingsKey{}).([]string)
	return append(append(os.Environ(), "CGO_ENABLED=1", "CGO_CFLAGS="+flags), settings...)
}

// New is a child that writes where this process does. It is asked to stop, not killed, when ctx ends.
func New(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = Environ(ctx)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Run runs a child to its end.
func Run(ctx context.Context, name string, args ...string) error {
	if err := New(ctx, name, args...).Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

// Output runs a child to its end and returns what it wrote to its standard output, without the space around it.
func Output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := New(ctx, name, args...)
	cmd.Stdout = nil
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Git runs git whoever owns the checkout: CI often clones as another user.
func Git(ctx context.Context, args ...string) (string, error) {
	return Output(ctx, "git", append([]string{"-c", "safe.directory=*"}, args...)...)
}

// Tool are the arguments of go that run a tool at the version of ci/tools/go.mod. The first run builds it.
func Tool(name string, args ...string) []string {
	return append([]string{"tool", "-modfile=ci/tools/go.mod", name}, args...)
}
