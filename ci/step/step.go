// SPDX-License-Identifier: GPL-3.0-or-later

// Package step runs the parts of a check, some beside one another, shows how far they are, and sums their tests.
package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

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

// Stage are steps that run beside one another, as many at a time as there are processors and one more: they wait more than they work.
type Stage []Step

// InOrder are stages of one step each.
func InOrder(steps ...Step) (stages []Stage) {
	for _, s := range steps {
		stages = append(stages, Stage{s})
	}
	return stages
}

// Run runs the stages in order, with progress, and with the time of each step at the end. With stopAtFirst it ends behind the
// first stage in which one fails.
func Run(ctx context.Context, t *tally.Tally, stopAtFirst bool, stages ...Stage) (*tally.Tally, error) {
	// The daemon refuses a data folder that a group can write (LO-813), and the tests' folders are made under this process's mask.
	defer syscall.Umask(syscall.Umask(0o022))
	r := run{tally: t, of: len(slices.Concat(stages...))}
	began := time.Now()
	for _, stage := range stages {
		var beside errgroup.Group
		beside.SetLimit(runtime.NumCPU() + 1)
		for _, s := range stage {
			beside.Go(func() error { return r.step(ctx, s) })
		}
		failed := beside.Wait()
		if ctx.Err() != nil {
			return t, ctx.Err()
		}
		if failed != nil && stopAtFirst {
			break
		}
	}
	if r.of > 1 {
		fmt.Printf("\n%s%8.1f s  in all\n", &r.times, time.Since(began).Seconds())
	}
	return t, nil
}

// run is one run of steps.
type run struct {
	tally *tally.Tally
	of    int // how many steps there are

	mu    sync.Mutex
	begun int
	times strings.Builder
}

// step runs one step, shows how it went, and returns why it failed.
func (r *run) step(ctx context.Context, s Step) error {
	r.mu.Lock()
	r.begun++
	name := fmt.Sprintf("[%d/%d] %s", r.begun, r.of, s.Name)
	fmt.Println(name)
	r.mu.Unlock()
	start := time.Now()
	err := s.Run(context.WithValue(ctx, targetKey{}, s.Target), r.tally)
	took := time.Since(start).Seconds()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		fmt.Printf("%s: ok in %.1f s\n", name, took)
		fmt.Fprintf(&r.times, "%8.1f s  %s\n", took, s.Name)
		return nil
	}
	if !errors.Is(err, errTests) {
		r.tally.Fail("step " + s.Name)
	}
	fmt.Printf("%s: FAILED after %.1f s: %v\n      run just this with: go tool mage %s\n", name, took, err, s.Target)
	fmt.Fprintf(&r.times, "%8.1f s  %s: FAILED; run just this with: go tool mage %s\n", took, s.Name, s.Target)
	return err
}

// Alone runs one step as a target of its own.
func Alone(ctx context.Context, s Step) error {
	return Finish(Run(ctx, tally.New(), true, Stage{s}))
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
