// SPDX-License-Identifier: GPL-3.0-or-later

// Package step runs the parts of a check one after another, shows how far they are, and sums their tests.
package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/ci/tally"
)

// Step is one part of a check: its name, the target that runs just it, and what it does. A step that runs tests adds them to
// the tally and returns nil, or errTests when some failed; any other error makes the step itself a failure.
type Step struct {
	Name   string
	Target string
	Run    func(context.Context, *tally.Tally) error
}

var errTests = errors.New("tests failed")

// targetKey is where a context names the target of the step that runs.
type targetKey struct{}

// Run runs the steps in order, with progress, and with the time of each at the end. With stopAtFirst it ends at the
// first that fails.
func Run(ctx context.Context, t *tally.Tally, stopAtFirst bool, steps ...Step) (*tally.Tally, error) {
	// The daemon refuses a data folder that a group can write (LO-813), and the tests' folders are made under this process's mask.
	defer syscall.Umask(syscall.Umask(0o022))
	var times strings.Builder
	began := time.Now()
	for i, s := range steps {
		fmt.Printf("[%d/%d] %s\n", i+1, len(steps), s.Name)
		start := time.Now()
		err := s.Run(context.WithValue(ctx, targetKey{}, s.Target), t)
		took := time.Since(start).Seconds()
		if ctx.Err() != nil {
			return t, ctx.Err()
		}
		if err == nil {
			fmt.Printf("[%d/%d] %s: ok in %.1f s\n", i+1, len(steps), s.Name, took)
			fmt.Fprintf(&times, "%8.1f s  %s\n", took, s.Name)
			continue
		}
		if !errors.Is(err, errTests) {
			t.Fail("step " + s.Name)
		}
		fmt.Printf("[%d/%d] %s: FAILED after %.1f s: %v\n      run just this with: go tool mage %s\n",
			i+1, len(steps), s.Name, took, err, s.Target)
		fmt.Fprintf(&times, "%8.1f s  %s: FAILED; run just this with: go tool mage %s\n", took, s.Name, s.Target)
		if stopAtFirst {
			break
		}
	}
	if len(steps) > 1 {
		fmt.Printf("\n%s%8.1f s  in all\n", &times, time.Since(began).Seconds())
	}
	return t, nil
}

// Alone runs one step as a target of its own.
func Alone(ctx context.Context, s Step) error {
	return Finish(Run(ctx, tally.New(), true, s))
}

// Finish prints the closing line of a test run and ends the process with it as the last word: mage would add a line of
// its own after a returned error.
func Finish(t *tally.Tally, err error) error {
	if err != nil {
		return err
	}
	passed, err := closing(t, os.Stdout)
	if err == nil && !passed {
		os.Exit(1)
	}
	return err
}

// closing prints what failed and the closing line, and says whether all passed. A run without a test is an error.
func closing(t *tally.Tally, w io.Writer) (bool, error) {
	failed := t.Failed()
	if len(failed) > 0 {
		fmt.Fprintln(w, "\nfailed:")
		for _, name := range failed {
			fmt.Fprintln(w, "  "+name)
		}
	}
	passed, _, _ := t.Counts()
	fmt.Fprintf(w, "\n%s\n", t.Line())
	if len(failed) == 0 && passed == 0 {
		return false, errors.New("no test ran: that is not a pass")
	}
	return len(failed) == 0, nil
}

// Say prints the progress of what a step fetches or builds.
func Say(message string) { fmt.Println(message) }
