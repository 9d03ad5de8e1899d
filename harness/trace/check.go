// SPDX-License-Identifier: GPL-3.0-or-later

package trace

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Outcome says how all tests with one name ended.
type Outcome struct{ Passed, Failed, Skipped int }

// Ran knows the results of a run. It returns how the tests with one name ended.
type Ran func(pkg, run string) Outcome

// NumberSpecs gives each refinement of .specs/ an ID that has none.
func NumberSpecs(root string) error {
	return filepath.WalkDir(filepath.Join(root, ".specs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading the specs: %w", err)
		}
		if numbered := Number(string(text)); numbered != string(text) {
			if err := os.WriteFile(path, []byte(numbered), 0o644); err != nil {
				return fmt.Errorf("numbering the refinements: %w", err)
			}
		}
		return nil
	})
}

// Write brings the catalogue and the stage table up to date. It returns the lines that are no longer done.
func (t *Trace) Write(root string) (lost []string, err error) {
	committed, err := os.ReadFile(filepath.Join(root, CatalogPath))
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("reading the catalogue: %w", err)
	}
	page, err := os.ReadFile(filepath.Join(root, StagesPath))
	if err != nil {
		return nil, fmt.Errorf("reading the page with the stage table: %w", err)
	}
	updated, err := t.WithStages(string(page))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(root, CatalogPath), []byte(t.Catalog()), 0o644); err != nil {
		return nil, fmt.Errorf("writing the catalogue: %w", err)
	}
	if updated != string(page) {
		if err := os.WriteFile(filepath.Join(root, StagesPath), []byte(updated), 0o644); err != nil {
			return nil, fmt.Errorf("writing the stage table: %w", err)
		}
	}
	return t.Lost(string(committed)), nil
}

// Check says everything that is wrong in the repository, and where the committed catalogue and stage table differ from it.
func (t *Trace) Check(root string) ([]string, error) {
	wrong := slices.Clone(t.wrong)
	committed, err := os.ReadFile(filepath.Join(root, CatalogPath))
	if err != nil {
		return nil, fmt.Errorf("reading the catalogue, which `go tool mage trace` writes: %w", err)
	}
	lost := t.Lost(string(committed))
	wrong = append(wrong, lost...)
	if string(committed) != t.Catalog() && len(lost) == 0 {
		wrong = append(wrong, CatalogPath+" is out of date: "+t.firstChange(string(committed))+"; run `go tool mage trace` and commit the result")
	}
	page, err := os.ReadFile(filepath.Join(root, StagesPath))
	if err != nil {
		return nil, fmt.Errorf("reading the page with the stage table: %w", err)
	}
	updated, err := t.WithStages(string(page))
	if err != nil {
		return nil, err
	}
	if updated != string(page) && len(lost) == 0 {
		wrong = append(wrong, "the stage table of "+StagesPath+" is out of date; run `go tool mage trace` and commit the result")
	}
	return wrong, nil
}

// firstChange names the first row in which a catalogue differs from what it should be.
func (t *Trace) firstChange(committed string) string {
	was, _ := parseCatalog(committed)
	is, ids := parseCatalog(t.Catalog())
	for _, id := range ids {
		if was[id] != is[id] {
			return "first at " + id
		}
	}
	return "in its text"
}

// Unproven says which done lines a run has not proven: none of the line's tests passed, or one of them did not run at all.
func (t *Trace) Unproven(ran Ran) []string {
	var wrong []string
	for _, l := range t.Lines {
		if !l.Done() {
			continue
		}
		proven := false
		for _, test := range l.Tests {
			o := ran(test.Package, test.Run)
			if n := o.Passed + o.Failed + o.Skipped; n < test.Count {
				wrong = append(wrong, fmt.Sprintf("%s is done by the catalogue, and its test %s (%s) was not run", l.ID, test.Name, test.where()))
			}
			proven = proven || o.Passed >= test.Count
		}
		if !proven {
			wrong = append(wrong, fmt.Sprintf("%s (stage %s, %s) is done by the catalogue, and none of its tests passed: %s", l.ID, l.stages(), l.Level(), l.tests()))
		}
		for _, id := range l.Refinements {
			tests := t.own[id]
			if len(tests) > 0 && !slices.ContainsFunc(tests, func(test Test) bool { return ran(test.Package, test.Run).Passed >= test.Count }) {
				wrong = append(wrong, fmt.Sprintf("the refinement %s has tests of its own, and none of them passed: %s", id, strings.Join(names(tests), " ")))
			}
		}
	}
	return wrong
}
