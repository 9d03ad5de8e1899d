// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/ci/tally"
)

// step is one part of a check: its name, the target that runs just it, and what it does. A step that runs tests adds them to
// the tally and returns nil, or errTests when some failed; any other error makes the step itself a failure.
type step struct {
	name   string
	target string
	run    func(context.Context, *tally.Tally) error
}

var errTests = errors.New("tests failed")

// runSteps runs the steps in order, with progress, and with the time of each at the end. With stopAtFirst it ends at the
// first that fails.
func runSteps(ctx context.Context, t *tally.Tally, stopAtFirst bool, steps ...step) (*tally.Tally, error) {
	var times strings.Builder
	began := time.Now()
	for i, s := range steps {
		fmt.Printf("[%d/%d] %s\n", i+1, len(steps), s.name)
		start := time.Now()
		err := s.run(context.WithValue(ctx, stepKey{}, s.target), t)
		took := time.Since(start).Seconds()
		if ctx.Err() != nil {
			return t, ctx.Err()
		}
		if err == nil {
			fmt.Printf("[%d/%d] %s: ok in %.1f s\n", i+1, len(steps), s.name, took)
			fmt.Fprintf(&times, "%8.1f s  %s\n", took, s.name)
			continue
		}
		if !errors.Is(err, errTests) {
			t.Fail("step " + s.name)
		}
		fmt.Printf("[%d/%d] %s: FAILED after %.1f s: %v\n      run just this with: go tool mage %s\n",
			i+1, len(steps), s.name, took, err, s.target)
		fmt.Fprintf(&times, "%8.1f s  %s: FAILED; run just this with: go tool mage %s\n", took, s.name, s.target)
		if stopAtFirst {
			break
		}
	}
	if len(steps) > 1 {
		fmt.Printf("\n%s%8.1f s  in all\n", &times, time.Since(began).Seconds())
	}
	return t, nil
}

// stepKey is where a context names the step's target, and eventsKey the folder that keeps the events of its tests.
type (
	stepKey   struct{}
	eventsKey struct{}
)

// finish prints the closing line of a test run and ends the process with it as the last word: mage would add a line of
// its own after a returned error.
func finish(t *tally.Tally, err error) error {
	if err != nil {
		return err
	}
	failed := t.Failed()
	if len(failed) > 0 {
		fmt.Println("\nfailed:")
		for _, name := range failed {
			fmt.Println("  " + name)
		}
	}
	passed, _, _ := t.Counts()
	fmt.Printf("\n%s\n", t.Line())
	if len(failed) > 0 {
		os.Exit(1)
	}
	if passed == 0 {
		return errors.New("no test ran: that is not a pass")
	}
	return nil
}

// environ is the environment of every child process. NVIDIA's header warns about its own deprecated names in each build.
func environ() []string {
	const quiet = "-Wno-deprecated-declarations"
	flags := os.Getenv("CGO_CFLAGS")
	if flags == "" {
		flags = "-O2 -g"
	}
	if !strings.Contains(flags, quiet) {
		flags += " " + quiet
	}
	return append(os.Environ(), "CGO_ENABLED=1", "CGO_CFLAGS="+flags)
}

// newCommand is a child that is asked to stop, not killed, when ctx ends.
func newCommand(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = environ()
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func command(ctx context.Context, name string, args ...string) error {
	if err := newCommand(ctx, name, args...).Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := newCommand(ctx, name, args...)
	cmd.Stdout = nil
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// git runs git whoever owns the checkout: CI often clones as another user.
func git(ctx context.Context, args ...string) (string, error) {
	return output(ctx, "git", append([]string{"-c", "safe.directory=*"}, args...)...)
}

// pinned are the arguments of go that run a tool at the version of ci/tools/go.mod. The first run builds it.
func pinned(tool string, args ...string) []string {
	return append([]string{"tool", "-modfile=ci/tools/go.mod", tool}, args...)
}

// goTest runs `go test -json` with the given arguments and adds its tests to the tally.
func goTest(ctx context.Context, t *tally.Tally, args ...string) error {
	cmd := newCommand(ctx, "go", append([]string{"test", "-json", "-timeout", "20m"}, args...)...)
	cmd.Stdout = nil
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting go test: %w", err)
	}
	events, closeEvents, err := keepEvents(ctx, pipe)
	if err != nil {
		return err
	}
	defer closeEvents()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting go test: %w", err)
	}
	_, before, _ := t.Counts()
	readErr := t.Read(events, os.Stdout)
	if readErr != nil {
		_, _ = io.Copy(io.Discard, pipe)
	}
	waitErr := cmd.Wait()
	_, after, _ := t.Counts()
	switch {
	case readErr != nil:
		return readErr
	case waitErr == nil:
		return nil
	case after > before:
		return errTests
	default: // it broke before any test could
		return fmt.Errorf("go test %s: %w", strings.Join(args, " "), waitErr)
	}
}
