// SPDX-License-Identifier: GPL-3.0-or-later

// Package tally sums the tests of `go test -json` streams and shows what failed.
package tally

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
)

// event is one line of `go test -json`; `go doc test2json` describes it.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// Tally is the sum of several runs. A test is named by its package and its own name; one that runs twice counts once and
// has failed when either run failed. Only leaves count: a test with subtests is the sum of them. Several runs may be read at once.
type Tally struct {
	mu       sync.Mutex
	outcomes map[key]string
	extra    []string // failed steps that are no tests
}

type key struct{ pkg, test string }

// New makes an empty tally.
func New() *Tally { return &Tally{outcomes: map[key]string{}} }

// Read takes in one stream. It writes a line per package to w, and the whole output of what failed. Lines that are not
// JSON (the go command's own complaints) pass through.
func (t *Tally) Read(r io.Reader, w io.Writer) error {
	run := &run{out: w, output: map[key][]string{}, builds: map[string][]string{}, outcomes: map[key]string{}}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			run.line(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the test events: %w", err)
		}
	}
	t.Add(&Tally{outcomes: run.outcomes})
	return nil
}

// Add takes in what another tally has, which nobody adds to any more.
func (t *Tally) Add(o *Tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, outcome := range o.outcomes {
		if t.outcomes[k] != "fail" {
			t.outcomes[k] = outcome
		}
	}
	t.extra = append(t.extra, o.extra...)
}

// Fail counts a failed step that is no test, such as a link check.
func (t *Tally) Fail(step string) { t.Add(&Tally{extra: []string{step}}) }

// Counts are the sums.
func (t *Tally) Counts() (passed, failed, skipped int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	passed, failed, skipped = totals(maps.Values(leaves(t.outcomes)))
	return passed, failed + len(t.extra), skipped
}

func totals(outcomes iter.Seq[string]) (passed, failed, skipped int) {
	for outcome := range outcomes {
		switch outcome {
		case "pass":
			passed++
		case "skip":
			skipped++
		default:
			failed++
		}
	}
	return passed, failed, skipped
}

// Failed names what failed, sorted.
func (t *Tally) Failed() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	for k, outcome := range leaves(t.outcomes) {
		if outcome == "fail" || outcome == "run" {
			names = append(names, strings.TrimSpace(k.pkg+" "+k.test))
		}
	}
	slices.Sort(names)
	return append(names, t.extra...)
}

// Outcome is how the tests of a name ended, over all that a package has of it: testing calls the further subtests of one
// name NAME#01, NAME#02, …. A test that never ended has failed; one with subtests counts by its own outcome.
func (t *Tally) Outcome(pkg, test string) (passed, failed, skipped int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := maps.Clone(t.outcomes)
	maps.DeleteFunc(found, func(k key, _ string) bool { return k.pkg != pkg || !named(k.test, test) })
	return totals(maps.Values(found))
}

func named(test, name string) bool {
	rest, ok := strings.CutPrefix(test, name)
	number, again := strings.CutPrefix(rest, "#")
	return ok && (rest == "" || again && len(number) > 1 && strings.Trim(number, "0123456789") == "")
}

// Line is the closing line of a test run.
func (t *Tally) Line() string {
	passed, failed, skipped := t.Counts()
	if skipped == 0 {
		return fmt.Sprintf("%d passed, %d failed", passed, failed)
	}
	return fmt.Sprintf("%d passed, %d failed, %d skipped", passed, failed, skipped)
}

// leaves drops tests that have subtests, but keeps one that failed although none of its subtests did.
func leaves(all map[key]string) map[key]string {
	parents := map[key]bool{} // value: a descendant failed
	for k, outcome := range all {
		for i := strings.LastIndex(k.test, "/"); i >= 0; i = strings.LastIndex(k.test[:i], "/") {
			p := key{k.pkg, k.test[:i]}
			parents[p] = parents[p] || outcome == "fail" || outcome == "run"
		}
	}
	counted := maps.Clone(all)
	for p, childFailed := range parents {
		if counted[p] != "fail" || childFailed {
			delete(counted, p)
		}
	}
	return counted
}

type run struct {
	out      io.Writer
	output   map[key][]string    // buffered until the outcome is known
	builds   map[string][]string // build output by import path
	outcomes map[key]string      // "run" until it is known
}

func (r *run) line(line string) {
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil {
		fmt.Fprint(r.out, line)
		return
	}
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		r.builds[e.ImportPath] = append(r.builds[e.ImportPath], e.Output)
	case "run":
		r.outcomes[k] = "run"
	case "output":
		r.output[k] = append(r.output[k], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.packageDone(e)
			return
		}
		r.outcomes[k] = e.Action
		if e.Action == "fail" {
			r.show(r.output[k])
		}
		delete(r.output, k)
	}
}

func (r *run) packageDone(e event) {
	var passed, failed, skipped int
	mine := map[key]string{}
	for k, outcome := range r.outcomes {
		if k.pkg == e.Package {
			mine[k] = outcome
		}
	}
	for k, outcome := range leaves(mine) {
		switch outcome {
		case "pass":
			passed++
		case "skip":
			skipped++
		case "run": // cut off by a panic, an exit or the time limit
			failed++
			r.outcomes[k] = "fail"
			r.show(r.output[k])
		default:
			failed++
		}
	}
	own := key{e.Package, ""}
	if e.Action == "fail" {
		r.show(r.builds[e.FailedBuild])
		r.show(r.output[own])
		if failed == 0 { // did not build, or TestMain failed
			failed++
			r.outcomes[own] = "fail"
		}
	}
	delete(r.output, own)
	switch {
	case e.Action == "fail":
		fmt.Fprintf(r.out, "FAIL  %s  %d passed, %d failed, %d skipped  %.1f s\n", e.Package, passed, failed, skipped, e.Elapsed)
	case passed+skipped > 0:
		fmt.Fprintf(r.out, "ok    %s  %s  %.1f s\n", e.Package, sum(passed, skipped), e.Elapsed)
	}
}

func sum(passed, skipped int) string {
	if skipped == 0 {
		return fmt.Sprintf("%d passed", passed)
	}
	return fmt.Sprintf("%d passed, %d skipped", passed, skipped)
}

func (r *run) show(lines []string) {
	fmt.Fprint(r.out, strings.Join(lines, "")) // at once: other suites may write beside it
}
