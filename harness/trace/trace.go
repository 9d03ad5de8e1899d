// SPDX-License-Identifier: GPL-3.0-or-later

// Package trace joins the requirement lines of .specs/ with the tests that name them (TRACE-12).
//
// A line is done when a test names it, or one of its aliases, and it is not in the open list. The open list, open.txt, admits which lines are not built,
// or only in part, although a test may serve that part. A MUST line that is neither done nor in the open list is an error. A refinement has an ID too, which a
// test may name; byline.txt has those that none names. The committed catalogue
// says what is done, and a run of the tests has to prove it.
package trace

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Where things are, relative to the repository.
const (
	CatalogPath = ".docs/testing/spec-derived-test-catalog.md"
	OpenPath    = "harness/trace/open.txt"
	ByLinePath  = "harness/trace/byline.txt"
	StagesPath  = ".docs/testing/README.md"

	scenarioPackage = "harness/bdd"
	scenarioParent  = "TestFeatures"
)

// Options say what to read.
type Options struct {
	Root string   // of the repository
	Tags []string // build tags whose tests `mage test` runs too
}

// Trace is what the repository says about its requirements.
type Trace struct {
	Lines  []Line // by stage and ID
	Stages []Stage
	wrong  []string

	own map[string][]Test // of refinements that a test names itself
}

// Line is a requirement with its tests.
type Line struct {
	Requirement
	Tests []Test // that count, by file and name
	Other []Test // behind build tags
	Open  string // why the open list has it; empty if it does not
}

// Done reports whether the repository claims that the line holds.
func (l Line) Done() bool { return l.Open == "" && len(l.Tests) > 0 }

func (l Line) state() string {
	if l.Done() {
		return "done"
	}
	return "open"
}

// Read reads specs, tests and the open list. An error means that they could not be read. Findings says what is wrong with their content.
func Read(o Options) (*Trace, error) {
	requirements, wrong, err := readSpecs(o.Root)
	if err != nil {
		return nil, err
	}
	t := &Trace{wrong: wrong, own: map[string][]Test{}}
	if t.Stages, err = readStages(o.Root); err != nil {
		return nil, err
	}
	serves := map[string][]int{} // an ID or alias, and the lines that a test of it serves
	for i, r := range requirements {
		t.Lines = append(t.Lines, Line{Requirement: r})
		for _, id := range append([]string{r.ID}, r.Aliases...) {
			serves[id] = append(serves[id], i)
		}
		for _, id := range r.Refinements {
			serves[id] = []int{i}
		}
	}
	reader, err := newReader(o.Root, o.Tags, serves)
	if err != nil {
		return nil, err
	}
	if err := reader.goTests(); err != nil {
		return nil, err
	}
	if err := reader.scenarios(scenarioPackage, scenarioParent); err != nil {
		return nil, err
	}
	t.wrong = append(t.wrong, reader.wrong...)
	t.join(reader.tests, serves)
	if err := t.readOpen(o.Root); err != nil {
		return nil, err
	}
	if err := t.readByLine(o.Root); err != nil {
		return nil, err
	}
	t.judge()
	slices.SortFunc(t.Lines, func(a, b Line) int {
		return cmp.Or(slices.Compare(a.Stages, b.Stages), cmp.Compare(a.ID, b.ID))
	})
	return t, nil
}

// join gives every line its tests.
func (t *Trace) join(tests []Test, serves map[string][]int) {
	slices.SortStableFunc(tests, func(a, b Test) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Name, b.Name)) })
	for _, test := range tests {
		served := map[int]bool{}
		for _, id := range test.IDs {
			if len(serves[id]) == 0 {
				t.wrong = append(t.wrong, fmt.Sprintf("%s: %s names %s, which is no line of .specs/ and no alias of one", test.File, test.Name, id))
			}
			for _, i := range serves[id] {
				served[i] = true
			}
			if strings.Contains(id, ".") && !test.Tagged {
				t.own[id] = append(t.own[id], test)
			}
		}
		for i := range served {
			if test.Tagged {
				t.Lines[i].Other = append(t.Lines[i].Other, test)
			} else {
				t.Lines[i].Tests = append(t.Lines[i].Tests, test)
			}
		}
	}
}

// readOpen reads the open list: lines `ID: why`, and comments that begin with #.
func (t *Trace) readOpen(root string) error {
	text, err := os.ReadFile(filepath.Join(root, OpenPath))
	if err != nil {
		return fmt.Errorf("reading the list of open requirements: %w", err)
	}
	at := map[string]int{}
	for i, l := range t.Lines {
		at[l.ID] = i
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, why, _ := strings.Cut(line, ":")
		why = strings.TrimSpace(why)
		i, known := at[id]
		switch {
		case !known:
			t.wrong = append(t.wrong, fmt.Sprintf("%s:%d: %s is no line of .specs/", OpenPath, n, id))
		case why == "":
			t.wrong = append(t.wrong, fmt.Sprintf("%s:%d: say why %s is open: `%s: why`", OpenPath, n, id, id))
		case t.Lines[i].Open != "":
			t.wrong = append(t.wrong, fmt.Sprintf("%s:%d: %s stands here twice", OpenPath, n, id))
		default:
			t.Lines[i].Open = why
		}
	}
	return nil
}

// readByLine holds the list of refinements that only the tests of their line cover against the tests. A refinement that is new has to have a test of its own, so
// the list gets shorter only.
func (t *Trace) readByLine(root string) error {
	text, err := os.ReadFile(filepath.Join(root, ByLinePath))
	if err != nil {
		return fmt.Errorf("reading the list of refinements without tests of their own: %w", err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, numbers, _ := strings.Cut(line, ": ")
		for _, n := range list(numbers) {
			listed[id+"."+n] = true
		}
	}
	for _, l := range t.Lines {
		for _, id := range l.Refinements {
			switch named := len(t.own[id]) > 0; {
			case named && listed[id]:
				t.wrong = append(t.wrong, fmt.Sprintf("%s: take %s off, a test names it", ByLinePath, id))
			case !named && !listed[id] && l.Must && l.Open == "":
				t.wrong = append(t.wrong, fmt.Sprintf("%s: no test that `mage test` runs names the refinement %s: name it in one", l.File, id))
			}
			delete(listed, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(listed)) {
		t.wrong = append(t.wrong, fmt.Sprintf("%s: %s is no refinement of .specs/", ByLinePath, id))
	}
	return nil
}

// judge finds MUST lines that are neither tested nor in the open list, and stages without a name.
func (t *Trace) judge() {
	named := map[int]bool{}
	for _, s := range t.Stages {
		named[s.Number] = true
	}
	for _, l := range t.Lines {
		if l.Must && !l.Done() && l.Open == "" {
			t.wrong = append(t.wrong, fmt.Sprintf("%s: no test that `mage test` runs names %s (stage %s, MUST): name it in one, or admit in %s why it is open",
				l.File, l.ID, l.stages(), OpenPath))
		}
		for _, n := range l.Stages {
			if !named[n] {
				t.wrong = append(t.wrong, fmt.Sprintf("%s: %s is due in stage %d, which the table of .specs/README.md does not have", l.File, l.ID, n))
			}
		}
	}
}

// Findings says what is wrong in the repository itself, before any test has run.
func (t *Trace) Findings() []string { return t.wrong }

// Count says how far a stage is.
type Count struct{ Must, MustDone, Should, ShouldDone int }

// Count counts a stage's lines. A line of two stages counts in both.
func (t *Trace) Count(stage int) Count {
	var c Count
	for _, l := range t.Lines {
		if !slices.Contains(l.Stages, stage) {
			continue
		}
		done := 0
		if l.Done() {
			done = 1
		}
		if l.Must {
			c.Must, c.MustDone = c.Must+1, c.MustDone+done
		} else {
			c.Should, c.ShouldDone = c.Should+1, c.ShouldDone+done
		}
	}
	return c
}
