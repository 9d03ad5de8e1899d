// SPDX-License-Identifier: GPL-3.0-or-later

// Package mutate breaks the code in one small place at a time, and says which of these mutants no test of the package notices (LO-853). All mutants of a
// package are in one build of its tests, each behind a switch that the environment turns on: so a mutant costs the run of its tests, and no build.
package mutate

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Goal is the share of a package's mutants that its tests should notice. Floor is what they notice at least; it only rises, until it is the goal.
const (
	Goal  = 0.85
	Floor = 0.65
)

//go:embed equivalent.txt
var equivalent string

// Options say what to mutate.
type Options struct {
	Dir      string   // where the packages' paths start; empty: here
	Env      []string // of go and of the tests
	Packages []string
	Sample   int    // so many mutants of all packages together, always the same; 0: all of them
	Cache    string // the folder of results; empty: none is kept
	Workers  int
	Within   time.Duration
	Out      io.Writer
}

// Result is what became of the mutants of one package.
type Result struct {
	Package    string
	Outcomes   map[string]string // by the mutant's name; those that there was no time for are missing
	Lines      map[string]int
	Equivalent int // known to do the same as the code, and left out
	Wanted     int
}

// Count says how many mutants were tried, and how many of them the tests noticed.
func (r Result) Count() (tried, killed int) {
	for _, outcome := range r.Outcomes {
		if outcome == Killed {
			killed++
		}
	}
	return len(r.Outcomes), killed
}

// String has the package's line, and one for each survivor.
func (r Result) String() string {
	tried, killed := r.Count()
	var text strings.Builder
	if tried == 0 {
		fmt.Fprintf(&text, "%s: none tried, %d equivalent", r.Package, r.Equivalent)
	} else {
		fmt.Fprintf(&text, "%s: %d of %d killed (%.1f %%), %d equivalent", r.Package, killed, tried, 100*share(tried, killed), r.Equivalent)
	}
	if tried < r.Wanted {
		fmt.Fprintf(&text, ", no time for %d", r.Wanted-tried)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Outcomes)) {
		if outcome := r.Outcomes[name]; outcome != Killed {
			fmt.Fprintf(&text, "\n  %s, line %d: %s", outcome, r.Lines[name], name)
		}
	}
	return text.String()
}

func share(tried, killed int) float64 {
	if tried == 0 {
		return 1
	}
	return float64(killed) / float64(tried)
}

// Judge is an error where the tests noticed too few of all mutants, or where there was no time for some.
func Judge(results []Result, least float64) error {
	var tried, killed, wanted int
	for _, r := range results {
		t, k := r.Count()
		tried, killed, wanted = tried+t, killed+k, wanted+r.Wanted
	}
	switch {
	case tried < wanted:
		return fmt.Errorf("there was time for %d of %d mutants: give them longer", tried, wanted)
	case share(tried, killed) < least:
		return fmt.Errorf("the tests noticed %d of %d mutants: write tests for the survivors, or say in equivalent.txt why no test can", killed, tried)
	}
	return nil
}

// JudgeEach is an error where that is so of a package.
func JudgeEach(results []Result, least float64) error {
	var all []error
	for _, r := range results {
		if err := Judge([]Result{r}, least); err != nil {
			all = append(all, fmt.Errorf("%s: %w", r.Package, err))
		}
	}
	return errors.Join(all...)
}

// Run judges the packages' mutants, one package after the other, and says each as it is done.
func Run(ctx context.Context, o Options) (results []Result, err error) {
	why, err := Equivalents(equivalent)
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeoutCause(ctx, o.Within, errTime)
	defer cancel()
	var subjects []subject
	var woven []map[string][]byte
	var all []Mutant
	for _, path := range o.Packages {
		s, w, err := read(ctx, o, path)
		if err != nil {
			return nil, err
		}
		subjects, woven, all = append(subjects, s), append(woven, w), append(all, s.mutants...)
	}
	chosen := map[string]bool(nil)
	if o.Sample > 0 {
		chosen = sample(all, o.Sample)
	}
	for i := range subjects {
		r, err := subjects[i].mutate(bounded, o, woven[i], chosen, why)
		if err != nil && (!errors.Is(context.Cause(bounded), errTime) || ctx.Err() != nil) {
			return results, err
		}
		results = append(results, r)
		fmt.Fprintln(o.Out, r)
	}
	return results, nil
}

var errTime = errors.New("the time for mutants is over")

// mutate judges the mutants of one package that are chosen; nil: all.
func (s *subject) mutate(ctx context.Context, o Options, woven map[string][]byte, chosen map[string]bool, why map[string]string) (r Result, err error) {
	r = Result{Package: s.ImportPath, Outcomes: map[string]string{}, Lines: map[string]int{}}
	s.sound = &soundness{are: map[string]bool{}}
	kept := recall(o.Cache, s)
	defer func() { err = errors.Join(err, kept.store()) }()
	var ids []int
	for id, m := range s.mutants {
		name := m.Name()
		switch {
		case chosen != nil && !chosen[name]:
			continue
		case why[name] != "":
			r.Equivalent++
			continue
		}
		r.Wanted++
		r.Lines[name] = m.Line
		if outcome := kept.Outcomes[name]; outcome != "" {
			r.Outcomes[name] = outcome
		} else {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return r, nil
	}
	dir, err := os.MkdirTemp("", "llama-orch-mutate-")
	if err != nil {
		return r, fmt.Errorf("making a folder for the mutants: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := s.build(ctx, o, woven, dir); err != nil {
		return r, err
	}
	if err := s.prepare(ctx, o); err != nil {
		return r, err
	}
	reached, err := s.trace(ctx, o, dir)
	if err != nil {
		return r, err
	}
	var mu sync.Mutex
	beside, ctx := errgroup.WithContext(ctx)
	beside.SetLimit(o.Workers)
	for _, id := range ids {
		beside.Go(func() error {
			outcome, err := s.judge(ctx, o, reached, id)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			name := s.mutants[id].Name()
			r.Outcomes[name], kept.Outcomes[name] = outcome, outcome
			return nil
		})
	}
	return r, beside.Wait()
}

// memo are results of earlier runs, as long as the package's files and what it imports are the same.
type memo struct {
	path     string
	Digest   string
	Outcomes map[string]string
}

func recall(dir string, s *subject) *memo {
	fresh := &memo{Digest: s.digest, Outcomes: map[string]string{}}
	if dir == "" {
		return fresh
	}
	fresh.path = filepath.Join(dir, strings.ReplaceAll(s.ImportPath, "/", "_")+".json")
	content, err := os.ReadFile(fresh.path)
	if err != nil {
		return fresh
	}
	old := memo{path: fresh.path}
	if json.Unmarshal(content, &old) != nil || old.Digest != s.digest || old.Outcomes == nil {
		return fresh
	}
	return &old
}

func (m *memo) store() error {
	if m.path == "" {
		return nil
	}
	content, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("keeping the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(m.path), 0o700); err != nil {
		return fmt.Errorf("keeping the results: %w", err)
	}
	if err := os.WriteFile(m.path, content, 0o600); err != nil {
		return fmt.Errorf("keeping the results: %w", err)
	}
	return nil
}

// Equivalents reads the list of mutants that do the same as the code: a name on each line, and below it, indented, why (LO-855).
func Equivalents(text string) (map[string]string, error) {
	why, last := map[string]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "  ") && last != "":
			why[last] = strings.TrimSpace(why[last] + " " + strings.TrimSpace(line))
		default:
			last = line
			why[last] = ""
		}
	}
	for name, reason := range why {
		if reason == "" {
			return nil, fmt.Errorf("equivalent.txt does not say why this mutant does the same as the code: %s", name)
		}
	}
	return why, nil
}
