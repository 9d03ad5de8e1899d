// SPDX-License-Identifier: GPL-3.0-or-later

// Package repeat runs the tests of one package many times on a busy machine, and says which of them failed, and how often (LO-850).
package repeat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/harness/process"
)

// perCore is how many busy loops there are for each processor: the tests get about a third of it.
const perCore = 2

// Options say what to run.
type Options struct {
	Dir     string // where the package's path starts; empty: here
	Package string
	Only    string // a regular expression of tests' names; empty: all of them
	Race    bool
	Times   int
	Within  time.Duration // bounds all runs together; the build comes before
	Out     io.Writer
}

// Report is what the runs showed.
type Report struct {
	Package  string
	Wanted   int
	Done     int // runs
	Passed   int // tests, over all runs
	Failures map[string]int
	Took     time.Duration
}

// Run builds the package's tests once and runs them again and again, each time as a new process, beside busy loops. The error is of the build, of a
// package without tests, or of ctx; what the tests did is in the report.
func Run(ctx context.Context, o Options) (r Report, err error) {
	dir, err := os.MkdirTemp("", "llama-orch-repeat-")
	if err != nil {
		return r, fmt.Errorf("making a folder for the built tests: %w", err)
	}
	defer os.RemoveAll(dir)
	b, err := build(ctx, o, filepath.Join(dir, "tests"))
	if err != nil {
		return r, err
	}
	end, err := busy(perCore * runtime.NumCPU())
	if err != nil {
		return r, err
	}
	defer end()
	r = Report{Package: b.name, Wanted: o.Times, Failures: map[string]int{}}
	began := time.Now()
	for longest := time.Duration(0); r.Done < o.Times; {
		left := o.Within - time.Since(began)
		if left <= longest { // a run that is cut off would tell nothing
			break
		}
		start := time.Now()
		fmt.Fprintf(o.Out, "run %d of %d\n", r.Done+1, o.Times)
		if err := b.run(ctx, o, left, &r); err != nil {
			return r, err
		}
		r.Done++
		longest = max(longest, time.Since(start))
	}
	r.Took = time.Since(began)
	return r, nil
}

// built are the tests of a package, as a program.
type built struct{ name, dir, exe string }

func build(ctx context.Context, o Options, exe string) (b built, err error) {
	list := command.New(ctx, "go", "list", "-f", "{{.ImportPath}}\t{{.Dir}}", o.Package)
	list.Dir, list.Stdout = o.Dir, nil
	out, err := list.Output()
	if err != nil {
		return b, fmt.Errorf("finding package %s: %w", o.Package, err)
	}
	packages := strings.Split(strings.TrimSpace(string(out)), "\n")
	name, at, found := strings.Cut(packages[0], "\t")
	if !found || len(packages) > 1 {
		return b, fmt.Errorf("%s is not one package: name one, such as ./service/control", o.Package)
	}
	args := []string{"test", "-c", "-vet=off", "-ldflags=-w", "-o", exe}
	if o.Race {
		args = append(args, "-race", "-gcflags=modernc.org/sqlite/lib=-race=false")
	}
	compile := command.New(ctx, "go", append(args, o.Package)...)
	compile.Dir, compile.Stdout, compile.Stderr = o.Dir, o.Out, o.Out
	if err := compile.Run(); err != nil {
		return b, fmt.Errorf("building the tests of %s: %w", name, err)
	}
	if _, err := os.Stat(exe); err != nil {
		return b, fmt.Errorf("%s has no tests", name)
	}
	return built{name, at, exe}, nil
}

// run runs the tests once and adds what they did to the report. Tests that are not done in time end with the stacks of all goroutines, as failures.
func (b built) run(ctx context.Context, o Options, within time.Duration, r *Report) error {
	args := []string{"tool", "test2json", "-t", "-p", b.name, b.exe, "-test.v=test2json", "-test.timeout=" + within.String()}
	if o.Only != "" {
		args = append(args, "-test.run="+o.Only)
	}
	cmd := command.New(ctx, "go", args...)
	cmd.Dir, cmd.Stdout = b.dir, nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the tests, too
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting the tests: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the tests: %w", err)
	}
	own := tally.New()
	readErr := own.Read(pipe, o.Out)
	waitErr := cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, exited := errors.AsType[*exec.ExitError](waitErr); waitErr != nil && !exited {
		return errors.Join(readErr, waitErr)
	}
	if readErr != nil {
		return readErr
	}
	passed, failed, _ := own.Counts()
	if passed+failed == 0 {
		return fmt.Errorf("no test ran: %s has none whose name matches %q", b.name, o.Only)
	}
	r.Passed += passed
	for _, name := range own.Failed() {
		r.Failures[strings.TrimPrefix(name, b.name+" ")]++
	}
	return nil
}

// busy starts loops that do nothing but turn. They are processes of their own, which the kernel ends with this one, however that ends.
func busy(n int) (end func(), err error) {
	l := process.NewLauncher()
	var loops []*process.Process
	end = func() {
		for _, p := range loops {
			p.Kill()
		}
		l.Close()
	}
	for range n {
		p, err := l.Start(process.Options{Name: "busy loop", Exe: "/bin/sh", Args: []string{"-c", "while :; do :; done"}, Keep: 1})
		if err != nil {
			end()
			return nil, err
		}
		loops = append(loops, p)
	}
	return end, nil
}

// String says how often each test failed.
func (r Report) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d runs of %s under load, in %.1f s: %d tests passed", r.Done, r.Package, r.Took.Seconds(), r.Passed)
	if len(r.Failures) == 0 {
		text.WriteString(", none failed")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Failures)) {
		fmt.Fprintf(&text, "\n  failed in %d of %d runs: %s", r.Failures[name], r.Done, name)
	}
	return text.String()
}

// Err is nil where all runs were done and no test failed.
func (r Report) Err() error {
	switch {
	case len(r.Failures) > 0:
		return fmt.Errorf("%d tests of %s failed under load", len(r.Failures), r.Package)
	case r.Done < r.Wanted:
		return fmt.Errorf("there was time for %d of %d runs of %s: give them longer with -within, or leave tests out with -only", r.Done, r.Wanted, r.Package)
	}
	return nil
}
