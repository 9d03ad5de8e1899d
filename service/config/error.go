// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Problem is one mistake: where, what, and what to do about it.
type Problem struct {
	File      string // or the name of an environment variable
	Line, Col int    // from 1; 0 where there is no line
	What      string
	Remedy    string
}

func (p Problem) String() string {
	where := p.File
	if p.Line > 0 {
		where = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
	}
	return fmt.Sprintf("%s: %s: %s", where, p.What, p.Remedy)
}

// Error holds every mistake found, in the order of the file. orchestratord then exits with 2.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

const (
	maxProblems = 50 // a longer list does not help anybody
	maxQuote    = 60 // bytes of what the file says that a message repeats
)

// problems collects the problems of a file.
type problems struct {
	file string
	list []Problem
}

func (ps *problems) add(at position, what, remedy string) {
	ps.list = append(ps.list, Problem{File: ps.file, Line: at.line, Col: at.col, What: what, Remedy: remedy})
}

func (ps *problems) addEnv(name, what, remedy string) {
	ps.list = append(ps.list, Problem{File: name, What: what, Remedy: remedy})
}

// err returns nil if there are no problems.
func (ps *problems) err() error {
	if len(ps.list) == 0 {
		return nil
	}
	slices.SortFunc(ps.list, func(a, b Problem) int { return cmp.Or(a.Line-b.Line, a.Col-b.Col, cmp.Compare(a.What, b.What)) })
	list := slices.Compact(ps.list)
	return &Error{Problems: list[:min(len(list), maxProblems)]}
}

// position is a place in the file. Lines and columns count from 1; the zero position is no place.
type position struct{ line, col int }

// positions knows the place of the value at a path such as pools[0].model.ref.
type positions struct{ values map[string]position }

// set reports whether the file has a value at the path.
func (ps *positions) set(path string) bool {
	_, ok := ps.values[path]
	return ok
}

// of returns the place of the value. If the file leaves the value out, it returns the place of the nearest value around it.
func (ps *positions) of(path string) position {
	for {
		if at, ok := ps.values[path]; ok {
			return at
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return ps.values[""]
		}
		path = path[:cut]
	}
}
