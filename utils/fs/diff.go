// SPDX-License-Identifier: GPL-3.0-or-later

package fs

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxHunks bounds a diff's hunks: each may search a whole file.
const maxHunks = 1000

// DiffError says that a diff cannot be read, or does not apply. No file was changed.
type DiffError struct {
	File    string // as the diff names it; "" before the first file
	Hunk    int    // of that file, counted from 1; 0: none of its hunks
	Line    int    // of the diff, counted from 1
	Problem string // what is wrong, and what to do
}

func (e *DiffError) Error() string {
	where := fmt.Sprintf("line %d of the diff", e.Line)
	if e.File != "" {
		where = fmt.Sprintf("%q, %s", e.File, where)
	}
	if e.Hunk > 0 {
		where = fmt.Sprintf("hunk %d of %s", e.Hunk, where)
	}
	return fmt.Sprintf("%s: %s; no file was changed", where, e.Problem)
}

// section is what a diff says about one file.
type section struct {
	old, new string // names below the root; "" where there is no such file
	line     int    // of the diff
	perm     fs.FileMode
	hunks    []hunk
}

func (s *section) name() string {
	if s.new != "" {
		return s.new
	}
	return s.old
}

func (s *section) wrong(h *hunk, format string, args ...any) error {
	e := &DiffError{File: s.name(), Line: s.line, Problem: fmt.Sprintf(format, args...)}
	if h != nil {
		e.Hunk, e.Line = h.number, h.line
	}
	return e
}

// hunk is a run of old lines and the new ones in their place.
type hunk struct {
	number, line int
	at           int // the first old line, counted from 1, as the header says; what is only added stands behind that line
	old, new     string
	firsts       []string // the old lines, each with its end
}

var header = regexp.MustCompile(`^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@`)

// parse reads a diff as git and diff -u write it, with prose around it. Counts in the headers of hunks are believed only where they fit: models miscount.
func parse(diff string) ([]*section, error) {
	return newParser(diff).parse()
}

type parser struct {
	lines    []string
	at       int
	sections []*section
	inGit    bool // the last section began with `diff --git`, and its names have not come yet
	hunks    int
	end      int // the line behind the last that belongs to the diff
}

func newParser(text string) *parser {
	p := &parser{}
	for line := range strings.Lines(text) {
		p.lines = append(p.lines, line)
	}
	return p
}

func (p *parser) parse() ([]*section, error) {
	for p.at < len(p.lines) {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	for _, s := range p.sections {
		if s.old == "" && s.new == "" {
			return nil, s.wrong(nil, "it names no file")
		}
	}
	if len(p.sections) == 0 {
		return nil, &DiffError{Line: 1, Problem: "there is no diff: it needs the lines --- OLD, +++ NEW and @@ -LINE,COUNT +LINE,COUNT @@ before each change"}
	}
	return p.sections, nil
}

func (p *parser) line(i int) string {
	if i < len(p.lines) {
		return p.lines[i]
	}
	return ""
}

func (p *parser) last() *section { return p.sections[len(p.sections)-1] }

func (p *parser) begin(git bool) *section {
	s := &section{line: p.at + 1}
	p.sections, p.inGit = append(p.sections, s), git
	return s
}

// next reads one line outside of a hunk, or a whole hunk.
func (p *parser) next() error {
	line := strings.TrimRight(p.lines[p.at], "\r\n")
	word := func(prefix string) (string, bool) { return strings.CutPrefix(line, prefix) }
	if rest, ok := word("diff --git "); ok {
		s := p.begin(true)
		s.old, s.new = twice(rest)
	} else if strings.HasPrefix(line, "--- ") && strings.HasPrefix(p.line(p.at+1), "+++ ") {
		named := section{}
		named.old, named.new = pair(name(line[4:]), name(p.lines[p.at+1][4:]))
		if !p.inGit || p.last().name() != "" && p.last().name() != named.name() {
			p.begin(false)
		}
		s := p.last()
		s.old, s.new = named.old, named.new
		p.inGit = false
		p.at++
		p.end = p.at + 1
	} else if strings.HasPrefix(line, "@@") {
		return p.hunk(line)
	} else if p.inGit {
		if err := p.extended(line); err != nil {
			return err
		}
	}
	p.at++
	return nil
}

// extended reads a line between `diff --git` and the names.
func (p *parser) extended(line string) error {
	s := p.last()
	for _, one := range []struct {
		prefix string
		take   func(rest string)
	}{
		{"new file mode ", func(string) { s.old = "" }},
		{"deleted file mode ", func(string) { s.new = "" }},
		{"rename from ", func(rest string) { s.old = name(rest) }},
		{"rename to ", func(rest string) { s.new = name(rest) }},
	} {
		if rest, ok := strings.CutPrefix(line, one.prefix); ok {
			one.take(rest)
			p.end = p.at + 1
		}
	}
	for _, prefix := range []string{"new file mode ", "new mode "} {
		mode, ok := strings.CutPrefix(line, prefix)
		if !ok {
			continue
		}
		switch mode {
		case "100644":
			s.perm = 0o644
		case "100755":
			s.perm = 0o755
		default:
			return s.wrong(nil, "a file of mode %s cannot be made: only regular files can", mode)
		}
	}
	for _, prefix := range []string{"copy from ", "Binary files ", "GIT binary patch"} {
		if strings.HasPrefix(line, prefix) {
			return s.wrong(nil, "%q cannot be applied: only changes of text can; write the file instead", strings.TrimSpace(prefix))
		}
	}
	return nil
}

func (p *parser) hunk(line string) error {
	if len(p.sections) == 0 {
		return &DiffError{Line: p.at + 1, Problem: "a hunk without a file: put the lines --- OLD and +++ NEW before it"}
	}
	s := p.last()
	h := hunk{number: len(s.hunks) + 1, line: p.at + 1}
	p.inGit = false
	found := header.FindStringSubmatch(line)
	if found == nil {
		return s.wrong(&h, "its header has to be @@ -LINE,COUNT +LINE,COUNT @@")
	}
	if p.hunks++; p.hunks > maxHunks {
		return s.wrong(&h, "the diff has more than %d hunks: apply it in parts", maxHunks)
	}
	var err error
	if h.at, err = strconv.Atoi(found[1]); err != nil {
		return s.wrong(&h, "its line number is too large")
	}
	p.at++
	end, ok := p.counted(count(found[2]), count(found[4]))
	if !ok {
		end = p.bounded()
	}
	var before, after strings.Builder
	changed := false
	for last := byte(' '); p.at < end; p.at++ {
		op, text := p.lines[p.at][0], p.lines[p.at][1:]
		if op == '\n' || op == '\r' { // a space at the line's end is easily lost
			op, text = ' ', p.lines[p.at]
		}
		if op == '\\' { // no line feed at the end of the file
			if last != '+' {
				trim(&before)
				h.firsts = chop(h.firsts)
			}
			if last != '-' {
				trim(&after)
			}
			continue
		}
		if last = op; !strings.HasSuffix(text, "\n") { // the diff's own end
			text += "\n"
		}
		if op != '+' {
			before.WriteString(text)
			h.firsts = append(h.firsts, text)
		}
		if op != '-' {
			after.WriteString(text)
		}
		changed = changed || op != ' '
	}
	if !changed {
		return s.wrong(&h, "it changes nothing: lines to add begin with +, lines to remove with -")
	}
	h.old, h.new = before.String(), after.String()
	s.hunks = append(s.hunks, h)
	p.end = p.at
	return nil
}

// counted finds the hunk's end by the counts of its header. It is false where they do not fit what stands there.
func (p *parser) counted(old, fresh int) (end int, ok bool) {
	i := p.at
	for ; old > 0 || fresh > 0; i++ {
		switch op := p.line(i); {
		case op == "":
			return 0, false
		case op[0] == ' ', op[0] == '\n', op[0] == '\r':
			old, fresh = old-1, fresh-1
		case op[0] == '-':
			old--
		case op[0] == '+':
			fresh--
		case op[0] != '\\':
			return 0, false
		}
	}
	if old < 0 || fresh < 0 {
		return 0, false
	}
	if strings.HasPrefix(p.line(i), "\\") {
		i++
	}
	follows := p.line(i)
	return i, follows == "" || !strings.ContainsRune(" +-", rune(follows[0])) || p.heads(i) || strings.HasPrefix(follows, "-- ")
}

// bounded finds the hunk's end by what cannot belong to it.
func (p *parser) bounded() int {
	i := p.at
	for i < len(p.lines) && strings.ContainsRune(" +-\\\r\n", rune(p.lines[i][0])) && !p.heads(i) {
		i++
	}
	for i > p.at && strings.TrimRight(p.lines[i-1], "\r\n") == "" { // empty lines before what follows
		i--
	}
	return i
}

// heads reports whether the names of another file stand at a line.
func (p *parser) heads(i int) bool {
	after := p.line(i + 2)
	return strings.HasPrefix(p.line(i), "--- ") && strings.HasPrefix(p.line(i+1), "+++ ") && (after == "" || strings.HasPrefix(after, "@@"))
}

func count(text string) int {
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1 // too large to fit
	}
	return n
}

func trim(b *strings.Builder) {
	text := strings.TrimSuffix(b.String(), "\n")
	b.Reset()
	b.WriteString(text)
}

func chop(lines []string) []string {
	if n := len(lines); n > 0 {
		lines[n-1] = strings.TrimSuffix(lines[n-1], "\n")
	}
	return lines
}

// name reads a file's name as diffs have it: perhaps in quotes, perhaps with a time behind a tab.
func name(text string) string {
	text = strings.TrimRight(text, "\r\n")
	if strings.HasPrefix(text, `"`) {
		if end := strings.LastIndexByte(text, '"'); end > 0 {
			if plain, err := strconv.Unquote(text[:end+1]); err == nil {
				return plain
			}
		}
	}
	text, _, _ = strings.Cut(text, "\t")
	return strings.TrimRight(text, " ")
}

// pair takes git's a/ and b/ off two names, where both have them.
func pair(old, fresh string) (string, string) {
	const none = "/dev/null"
	if (old == none || strings.HasPrefix(old, "a/")) && (fresh == none || strings.HasPrefix(fresh, "b/")) {
		old, fresh = strings.TrimPrefix(old, "a/"), strings.TrimPrefix(fresh, "b/")
	}
	if old == none {
		old = ""
	}
	if fresh == none {
		fresh = ""
	}
	return old, fresh
}

// twice reads the names behind `diff --git`, which have nothing between them but a space. They count only where both are the same, as where a file is
// made empty or its mode changes; everywhere else they come once more.
func twice(text string) (string, string) {
	half := len(text) / 2
	if len(text)%2 == 0 || text[half] != ' ' {
		return "", ""
	}
	old, fresh := pair(name(text[:half]), name(text[half+1:]))
	if old != fresh {
		return "", ""
	}
	return old, fresh
}

// FindDiff returns the part of a text that is a diff, such as of a model's answer: from the first file's names to the end of the last hunk.
func FindDiff(text string) (string, error) {
	p := newParser(text)
	if _, err := p.parse(); err != nil {
		return "", err
	}
	return strings.TrimSuffix(strings.Join(p.lines[p.sections[0].line-1:p.end], ""), "\n") + "\n", nil
}

// Names lists the files that a diff is about.
func Names(diff string) ([]string, error) {
	sections, err := parse(diff)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range sections {
		for _, name := range []string{s.old, s.new} {
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}
