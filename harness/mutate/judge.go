// SPDX-License-Identifier: GPL-3.0-or-later

package mutate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Outcomes of a mutant.
const (
	Killed    = "killed"
	Survived  = "survived"
	Unreached = "not reached" // no test runs the code: it survives too
)

// memory bounds the address space of a test, in KiB: some mutants never stop to append.
const memory = 16 << 20

// reach says for each mutant which tests run it, and how long each test takes alone.
type reach struct {
	tests [][]string
	takes map[string]time.Duration
}

// trace runs each test alone, without a mutant. One that fails then cannot judge.
func (s *subject) trace(ctx context.Context, o Options, dir string) (reach, error) {
	r := reach{tests: make([][]string, len(s.mutants)), takes: map[string]time.Duration{}}
	names, _, err := s.run(ctx, o, nil, 60*time.Second, "-test.list=.")
	if err != nil {
		return r, fmt.Errorf("listing the tests of %s: %w", s.ImportPath, err)
	}
	var mu sync.Mutex
	var beside errgroup.Group
	beside.SetLimit(o.Workers)
	for i, name := range strings.Fields(names) {
		if strings.HasPrefix(name, "Benchmark") {
			continue
		}
		beside.Go(func() error {
			at := fmt.Sprintf("%s/reached-%d", dir, i)
			if err := os.WriteFile(at, nil, 0o600); err != nil {
				return fmt.Errorf("tracing the tests: %w", err)
			}
			start := time.Now()
			_, failed, err := s.run(ctx, o, []string{"LLORCH_MUTANT_TRACE=" + at}, 5*time.Minute, "-test.run=^"+name+"$")
			if err != nil {
				return err
			}
			if failed {
				fmt.Fprintf(o.Out, "%s fails without a mutant, so it judges none\n", name)
				return nil
			}
			ids, err := os.ReadFile(at)
			if err != nil {
				return fmt.Errorf("tracing the tests: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			r.takes[name] = time.Since(start)
			for id := range strings.FieldsSeq(string(ids)) {
				if n, err := strconv.Atoi(id); err == nil && n < len(r.tests) {
					r.tests[n] = append(r.tests[n], name)
				}
			}
			return nil
		})
	}
	return r, beside.Wait()
}

// judge runs the tests that reach a mutant, the quick ones first.
func (s *subject) judge(ctx context.Context, o Options, r reach, id int) (string, error) {
	const quick = 500 * time.Millisecond
	if len(r.tests[id]) == 0 {
		return Unreached, nil
	}
	var groups [2][]string
	var takes [2]time.Duration
	for _, name := range r.tests[id] {
		g := 0
		if r.takes[name] > quick {
			g = 1
		}
		groups[g] = append(groups[g], name)
		takes[g] += r.takes[name]
	}
	for g, names := range groups {
		if len(names) == 0 {
			continue
		}
		slices.Sort(names)
		only := "-test.run=^(" + strings.Join(names, "|") + ")$"
		_, failed, err := s.run(ctx, o, []string{"LLORCH_MUTANT=" + strconv.Itoa(id)}, 5*takes[g]+10*time.Second, only, "-test.failfast")
		if err != nil {
			return "", err
		}
		if failed {
			if failed, err = s.confirm(ctx, o, r, id, names, 5*takes[g]+10*time.Second); err != nil {
				return "", err
			}
		}
		if failed {
			return Killed, nil
		}
	}
	return Survived, nil
}

// confirm reports whether it was the mutant that failed these tests. Where they fail together without one too, each has to judge alone.
func (s *subject) confirm(ctx context.Context, o Options, r reach, id int, names []string, within time.Duration) (bool, error) {
	only := "-test.run=^(" + strings.Join(names, "|") + ")$"
	s.sound.mu.Lock()
	sound, known := s.sound.are[only]
	s.sound.mu.Unlock()
	if !known {
		_, failed, err := s.run(ctx, o, nil, within, only, "-test.failfast")
		if err != nil {
			return false, err
		}
		sound = !failed
		s.sound.mu.Lock()
		s.sound.are[only] = sound
		s.sound.mu.Unlock()
		if failed {
			fmt.Fprintf(o.Out, "%d tests of %s fail together without a mutant, so each judges alone\n", len(names), s.ImportPath)
		}
	}
	if sound {
		return true, nil
	}
	for _, name := range names {
		_, failed, err := s.run(ctx, o, []string{"LLORCH_MUTANT=" + strconv.Itoa(id)}, 5*r.takes[name]+10*time.Second, "-test.run=^"+name+"$")
		if failed || err != nil {
			return failed, err
		}
	}
	return false, nil
}

var usesRapid = regexp.MustCompile(`rapid\.nofailfile`)

// run runs the built tests. What is not done in time has failed.
func (s *subject) run(ctx context.Context, o Options, env []string, within time.Duration, args ...string) (out string, failed bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	script := fmt.Sprintf(`ulimit -v %d; exec "$@"`, memory)
	cmd := exec.CommandContext(bounded, "sh", append([]string{"-c", script, "sh", s.exe}, append(args, s.flags...)...)...)
	cmd.Dir, cmd.Env = s.Dir, append(slices.Clone(o.Env), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // what the tests started, too
	cmd.WaitDelay = 5 * time.Second
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	waitErr := cmd.Run()
	if ctx.Err() != nil {
		return "", false, ctx.Err()
	}
	_, exited := errors.AsType[*exec.ExitError](waitErr)
	if waitErr != nil && !exited && bounded.Err() == nil && !errors.Is(waitErr, exec.ErrWaitDelay) {
		return "", false, fmt.Errorf("running the tests of %s: %w", s.ImportPath, waitErr)
	}
	return text.String(), waitErr != nil, nil
}

// prepare keeps rapid from writing down each failure beside the tests, and from looking for a smaller one.
func (s *subject) prepare(ctx context.Context, o Options) error {
	usage, _, err := s.run(ctx, o, nil, time.Minute, "-help")
	if err == nil && usesRapid.MatchString(usage) {
		s.flags = []string{"-rapid.nofailfile", "-rapid.shrinktime=1ms"}
	}
	return err
}
