// SPDX-License-Identifier: GPL-3.0-or-later

package trace

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Requirement is one line of .specs/.
type Requirement struct {
	ID      string
	Stages  []int
	Must    bool
	Aliases []string
	Text    string // with its continuation lines, without its refinements
	File    string // relative to the repository

	Refinements []string // their IDs, which are the line's with a number behind it
}

// Level is the word of the line.
func (r Requirement) Level() string {
	if r.Must {
		return "MUST"
	}
	return "SHOULD"
}

func (r Requirement) stages() string {
	words := make([]string, len(r.Stages))
	for i, s := range r.Stages {
		words[i] = strconv.Itoa(s)
	}
	return strings.Join(words, "+")
}

// The forms come from .specs/README.md.
var (
	requirementLine = regexp.MustCompile(`^- \*\*([A-Z]+(?:-[A-Z]+)*-[0-9]+)\*\* \(stage ([0-9]+(?:\+[0-9]+)*), (MUST|SHOULD)(?:; also: ([A-Z0-9, -]+))?\) (.+)$`)
	refinementLine  = regexp.MustCompile(`^  - \*\*([A-Z]+(?:-[A-Z]+)*-[0-9]+)\.([0-9]+)\*\* .+$`)
	likeRequirement = regexp.MustCompile(`^- \*\*[A-Z]+(?:-[A-Z]+)*-[0-9]`)
)

// readSpecs reads every requirement line below .specs/, in the order of files and lines.
func readSpecs(root string) ([]Requirement, []string, error) {
	var all []Requirement
	var wrong []string
	err := filepath.WalkDir(filepath.Join(root, ".specs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		file, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found, bad := parseSpec(filepath.ToSlash(file), string(text))
		all, wrong = append(all, found...), append(wrong, bad...)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading the specs: %w", err)
	}
	where := map[string]string{}
	for _, r := range all {
		if other, twice := where[r.ID]; twice {
			wrong = append(wrong, fmt.Sprintf("%s: %s is a line of %s already: an ID stands in one line only", r.File, r.ID, other))
		}
		where[r.ID] = r.File
		if slices.Contains(r.Aliases, r.ID) {
			wrong = append(wrong, fmt.Sprintf("%s: %s names itself as its alias", r.File, r.ID))
		}
	}
	return all, wrong, nil
}

func parseSpec(file, text string) (all []Requirement, wrong []string) {
	fenced, open := false, false // open: the last requirement's text may go on
	within := false              // the last requirement's item goes on
	for n, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		switch m := requirementLine.FindStringSubmatch(line); {
		case fenced:
			open = false
		case m != nil:
			all = append(all, Requirement{ID: m[1], Stages: numbers(m[2]), Must: m[3] == "MUST", Aliases: list(m[4]), Text: m[5], File: file})
			open = true
		case likeRequirement.MatchString(line):
			wrong = append(wrong, fmt.Sprintf("%s:%d: a list item that begins like a requirement and isn't one: %.80s; .specs/README.md has the form",
				file, n+1, line))
			open = false
		case open && strings.HasPrefix(line, "  ") && !strings.HasPrefix(line, "  - "):
			all[len(all)-1].Text += " " + strings.TrimSpace(line)
		default:
			open = false
		}
		within = requirementLine.MatchString(line) || within && (line == "" || strings.HasPrefix(line, "  "))
		if within && !fenced && strings.HasPrefix(line, "  - ") {
			if bad := all[len(all)-1].refine(line); bad != "" {
				wrong = append(wrong, fmt.Sprintf("%s:%d: %s", file, n+1, bad))
			}
		}
	}
	return all, wrong
}

// refine takes a refinement, and says what is wrong with its ID.
func (r *Requirement) refine(line string) string {
	m := refinementLine.FindStringSubmatch(line)
	switch {
	case m == nil:
		return fmt.Sprintf("a refinement of %s without an ID: %.60s; `go tool mage trace` gives it one", r.ID, line)
	case m[1] != r.ID:
		return fmt.Sprintf("%s.%s is below %s", m[1], m[2], r.ID)
	case slices.Contains(r.Refinements, r.ID+"."+m[2]):
		return fmt.Sprintf("%s.%s stands here twice", m[1], m[2])
	}
	r.Refinements = append(r.Refinements, r.ID+"."+m[2])
	return ""
}

// Number gives each refinement in a file of .specs/ that has no ID the next number of its line.
func Number(text string) string {
	lines := strings.Split(text, "\n")
	id, most, fenced := "", map[string]int{}, false
	for _, line := range lines {
		if m := refinementLine.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[2]) // digits, by the form of the line
			most[m[1]] = max(most[m[1]], n)
		}
	}
	for i, line := range lines {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		switch m := requirementLine.FindStringSubmatch(line); {
		case m != nil:
			id = m[1]
		case line != "" && !strings.HasPrefix(line, "  "):
			id = ""
		}
		if rest, is := strings.CutPrefix(line, "  - "); is && id != "" && !fenced && !refinementLine.MatchString(line) {
			most[id]++
			lines[i] = fmt.Sprintf("  - **%s.%d** %s", id, most[id], rest)
		}
	}
	return strings.Join(lines, "\n")
}

func numbers(text string) []int {
	var all []int
	for word := range strings.SplitSeq(text, "+") {
		n, _ := strconv.Atoi(word) // digits, by the form of the line
		all = append(all, n)
	}
	return all
}

func list(text string) []string {
	if text == "" {
		return nil
	}
	words := strings.Split(text, ",")
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	return words
}

// Stage is a row of the stage table of .specs/README.md.
type Stage struct {
	Number  int
	Subject string
}

var stageCells = regexp.MustCompile(`\|\s*([0-9]+)\s*\|\s*([^|]*[^|\s])\s*(?:\||$)`)

// readStages reads the stage table, whose rows hold one or two stages each.
func readStages(root string) ([]Stage, error) {
	text, err := os.ReadFile(filepath.Join(root, ".specs", "README.md"))
	if err != nil {
		return nil, fmt.Errorf("reading the stages: %w", err)
	}
	var all []Stage
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		// Neighbouring cells share a bar, so each search begins at the bar that ended the one before.
		for {
			at := stageCells.FindStringSubmatchIndex(line)
			if at == nil {
				break
			}
			n, _ := strconv.Atoi(line[at[2]:at[3]])
			all = append(all, Stage{n, line[at[4]:at[5]]})
			line = line[at[5]:]
		}
	}
	slices.SortFunc(all, func(a, b Stage) int { return a.Number - b.Number })
	return all, nil
}
