// SPDX-License-Identifier: GPL-3.0-or-later

package fs

import (
	"errors"
	"io/fs"
	"strings"
)

// Change is what a diff did to one file.
type Change struct {
	Path string `json:"path"`
	From string `json:"from,omitempty"` // its name before, where the diff renames it
	Kind Kind   `json:"kind"`
}

// Kind of a change.
type Kind string

// The kinds of changes.
const (
	Created Kind = "created"
	Changed Kind = "changed"
	Renamed Kind = "renamed"
	Removed Kind = "removed"
)

// state is what a file holds in the middle of a diff. A nil content is no file.
type state struct {
	name    string
	content []byte
	perm    fs.FileMode
}

// Patch applies a unified diff. A hunk is taken where its header says, or else at the one place where its lines stand; they have to be the same to the
// byte. If any of it does not apply, no file is changed. If writing fails in the middle, what was written is put back.
func (r *Root) Patch(diff string) ([]Change, error) {
	if int64(len(diff)) > r.limits.File {
		return nil, &SizeError{Path: "the diff", Limit: r.limits.File}
	}
	sections, err := parse(diff)
	if err != nil {
		return nil, err
	}
	before, after := map[string]state{}, map[string]state{}
	var order []string
	load := func(name string) (string, state, error) {
		at, err := local(name)
		if err != nil {
			return "", state{}, err
		}
		if s, ok := after[at]; ok {
			return at, s, nil
		}
		content, perm, err := r.read(name, at)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", state{}, err
		}
		if err == nil && content == nil {
			content = []byte{}
		}
		s := state{name: name, content: content, perm: perm}
		before[at], after[at] = s, s
		order = append(order, at)
		return at, s, nil
	}
	var changes []Change
	for _, s := range sections {
		change, err := s.apply(load, after)
		if err != nil {
			return nil, err
		}
		changes = append(changes, change)
	}
	for i, at := range order {
		if err := r.put(at, after[at]); err != nil {
			for _, at := range order[:i+1] {
				err = errors.Join(err, r.put(at, before[at]))
			}
			return nil, err
		}
	}
	return changes, nil
}

// put makes a file what it should be.
func (r *Root) put(at string, s state) error {
	if s.content != nil {
		return r.write(s.name, at, s.content, s.perm)
	}
	if err := r.root.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r.typed("remove", s.name, err)
	}
	return nil
}

// apply applies what the diff says about one file.
func (s *section) apply(load func(string) (string, state, error), after map[string]state) (Change, error) {
	change := Change{Path: s.name(), Kind: Changed}
	if len(s.hunks) == 0 && s.old == s.new && s.perm == 0 {
		return change, s.wrong(nil, "nothing follows its names: a change begins with @@ -LINE,COUNT +LINE,COUNT @@")
	}
	was := state{content: []byte{}, perm: 0o644}
	if s.old != "" {
		at, old, err := load(s.old)
		if err != nil {
			return change, err
		}
		if old.content == nil {
			return change, s.wrong(nil, "there is no file %q: check its name, or make it with --- /dev/null", s.old)
		}
		was = old
		if s.old != s.new {
			after[at] = state{name: s.old}
		}
	}
	if s.new == "" {
		change.Kind = Removed
		rest, err := s.change(string(was.content))
		if err == nil && rest != "" {
			err = s.wrong(nil, "it removes the file, but not all of its lines")
		}
		return change, err
	}
	at, there, err := load(s.new)
	if err != nil {
		return change, err
	}
	if s.old != s.new {
		if there.content != nil {
			return change, s.wrong(nil, "there is a file %q already: remove it first, or change it with --- %s", s.new, s.new)
		}
		if change.Kind = Created; s.old != "" {
			change.Kind, change.From = Renamed, s.old
		}
	}
	content, err := s.change(string(was.content))
	if err != nil {
		return change, err
	}
	if s.perm != 0 {
		was.perm = s.perm
	}
	after[at] = state{name: s.new, content: []byte(content), perm: was.perm}
	return change, nil
}

// change applies the hunks, in their order, to a text.
func (s *section) change(text string) (string, error) {
	var out strings.Builder
	rest, line := text, 1 // what is not copied yet, and the number of its first line
	for i := range s.hunks {
		h := &s.hunks[i]
		skip, err := s.find(h, rest, line)
		if err != nil {
			return "", err
		}
		line += strings.Count(rest[:skip], "\n") + strings.Count(h.old, "\n")
		out.WriteString(rest[:skip])
		out.WriteString(h.new)
		rest = rest[skip+len(h.old):]
	}
	out.WriteString(rest)
	return out.String(), nil
}

// find returns how far into the rest of a text a hunk belongs.
func (s *section) find(h *hunk, rest string, line int) (int, error) {
	at := h.at
	if h.old == "" {
		at++ // behind the line that the header names
	}
	said, reached := advance(rest, at-line)
	if h.old == "" {
		if !reached {
			return 0, s.wrong(h, "it adds lines behind line %d, which is not there or was changed before: give lines of context around the change", h.at)
		}
		return said, nil
	}
	fits := func(at int) bool {
		return strings.HasPrefix(rest[at:], h.old) && (strings.HasSuffix(h.old, "\n") || at+len(h.old) == len(rest))
	}
	if reached && fits(said) {
		return said, nil
	}
	places, place := 0, 0
	if end := len(rest) - len(h.old); !strings.HasSuffix(h.old, "\n") { // it can only stand at the file's end
		if end >= 0 && (end == 0 || rest[end-1] == '\n') && fits(end) {
			places, place = 1, end
		}
	} else if next := strings.Index("\n"+rest, "\n"+h.old); next >= 0 {
		places, place = 1, next
		if strings.Contains(rest[next:], "\n"+h.old) {
			places = 2
		}
	}
	switch places {
	case 1:
		return place, nil
	case 2:
		return 0, s.wrong(h, "its lines do not stand at line %d, but at several places: give more lines of context", h.at)
	}
	return 0, s.differs(h, rest, said, reached)
}

// differs says at which line a hunk does not fit, where its header says that it belongs.
func (s *section) differs(h *hunk, rest string, at int, reached bool) error {
	if reached {
		line := h.at
		for _, want := range h.firsts {
			have := rest[at:]
			if end := strings.IndexByte(have, '\n'); end >= 0 {
				have = have[:end+1]
			}
			if have != want {
				return s.wrong(h, "line %d is %s, and the diff wants %s: read the file again and make the diff from what it holds now", line, shown(have), shown(want))
			}
			at, line = at+len(have), line+1
		}
	}
	return s.wrong(h, "its lines stand nowhere behind the hunk before: read the file again and make the diff from what it holds now")
}

// shown quotes a line, cut where it is long.
func shown(line string) string {
	const most = 120
	if line == "" {
		return "the end of the file"
	}
	end := ""
	if !strings.HasSuffix(line, "\n") {
		end = " without a line feed"
	}
	line = strings.TrimSuffix(line, "\n")
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "…"
	}
	return "`" + line + "`" + end
}

// advance returns where the text's n-th line begins, counted from 0, and whether there is such a place.
func advance(text string, n int) (at int, ok bool) {
	for ; n > 0; n-- {
		end := strings.IndexByte(text[at:], '\n')
		if end < 0 {
			return at, false
		}
		at += end + 1
	}
	return at, n == 0
}
