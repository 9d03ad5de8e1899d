// SPDX-License-Identifier: GPL-3.0-or-later

package trace

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/cucumber/godog"
)

// Test is a test that names requirements: a Go test or a scenario.
type Test struct {
	File    string // relative to the repository
	Name    string // the function's, or the scenario's
	IDs     []string
	Package string // import path, as `go test -json` names it
	Run     string // the test's name in `go test -json`; if scenarios share it, the later ones get #01, #02, …
	Count   int    // of tests with this Run
	Tagged  bool   // needs a build tag that no step of `mage test` sets, so it does not count
}

var (
	idPattern  = regexp.MustCompile(`^[A-Z]+(?:-[A-Z]+)*-[0-9]+(?:\.[0-9]+)?$`)
	markerLine = regexp.MustCompile(`^([A-Z]+(?:-[A-Z]+)*-[0-9]+(?:\.[0-9]+)?(?:, [A-Z]+(?:-[A-Z]+)*-[0-9]+(?:\.[0-9]+)?)*)(?:: .*)?$`)
	leadingID  = regexp.MustCompile(`^[A-Z]+(?:-[A-Z]+)*-[0-9]+\b`)
	moduleLine = regexp.MustCompile(`(?m)^module (\S+)`)
)

// reader collects the tests, and what is wrong with their markers.
type reader struct {
	root   string
	module string
	build  build.Context
	areas  map[string]bool // the specs' ID prefixes, such as OC-CORE
	tests  []Test
	wrong  []string
}

// areaOf returns an ID without its number.
func areaOf(id string) string { return id[:strings.LastIndex(id, "-")] }

// newReader reads for a Linux build with cgo, so that the catalogue is the same on every machine.
func newReader(root string, tags []string, known map[string][]int) (*reader, error) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, fmt.Errorf("reading the module's name: %w", err)
	}
	module := moduleLine.FindSubmatch(text)
	if module == nil {
		return nil, fmt.Errorf("%s names no module", filepath.Join(root, "go.mod"))
	}
	r := &reader{root: root, module: string(module[1]), build: build.Default, areas: map[string]bool{}}
	r.build.GOOS, r.build.GOARCH, r.build.CgoEnabled, r.build.BuildTags = "linux", "amd64", true, tags
	for id := range known {
		r.areas[areaOf(id)] = true
	}
	return r, nil
}

// goTests reads the markers of every _test.go of the module.
func (r *reader) goTests() error {
	return filepath.WalkDir(r.root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if file == r.root {
				return nil
			}
			if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(file, "go.mod")); err == nil {
				return filepath.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		return r.goFile(file)
	})
}

func (r *reader) goFile(file string) error {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("reading the markers of tests: %w", err)
	}
	built, err := r.build.MatchFile(filepath.Dir(file), filepath.Base(file))
	if err != nil {
		return fmt.Errorf("reading the build constraints of tests: %w", err)
	}
	name, err := filepath.Rel(r.root, file)
	if err != nil {
		return err
	}
	name = filepath.ToSlash(name)
	mayMark := map[*ast.CommentGroup]bool{}
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !marksTest(f.Name.Name) {
			continue
		}
		mayMark[f.Doc] = true
		ids := r.marker(set, name, f.Doc)
		if len(ids) == 0 || strings.HasPrefix(f.Name.Name, "Benchmark") { // `mage test` runs no benchmark
			continue
		}
		r.tests = append(r.tests, Test{
			File: name, Name: f.Name.Name, IDs: ids, Package: path.Join(r.module, path.Dir(name)), Run: f.Name.Name, Count: 1, Tagged: !built,
		})
	}
	for _, group := range parsed.Comments {
		if mayMark[group] {
			continue
		}
		for _, c := range group.List {
			if m := markerLine.FindStringSubmatch(words(c)); m != nil && r.areas[areaOf(list(m[1])[0])] {
				r.wrong = append(r.wrong, fmt.Sprintf("%s:%d: the marker %s is not in the comment above a test function", name, set.Position(c.Pos()).Line, m[1]))
			}
		}
	}
	return nil
}

func marksTest(name string) bool {
	return name != "TestMain" && (strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz") || strings.HasPrefix(name, "Benchmark"))
}

func words(c *ast.Comment) string {
	return strings.TrimSpace(strings.TrimPrefix(c.Text, "//"))
}

// marker reads the lines of a comment that name requirements.
func (r *reader) marker(set *token.FileSet, file string, doc *ast.CommentGroup) (ids []string) {
	if doc == nil {
		return nil
	}
	for _, c := range doc.List {
		text := words(c)
		m := markerLine.FindStringSubmatch(text)
		switch {
		case m != nil && (r.areas[areaOf(list(m[1])[0])] || m[1] == text):
			ids = append(ids, list(m[1])...)
		case m == nil && leadingID.MatchString(text) && r.areas[areaOf(leadingID.FindString(text))]:
			r.wrong = append(r.wrong, fmt.Sprintf("%s:%d: a line begins with an ID and is no marker: write `// ID, ID` or `// ID: why`, not %q",
				file, set.Position(c.Pos()).Line, text))
		}
	}
	return ids
}

// scenarios reads the tags of all scenarios below features/. They run as subtests of one Go test.
func (r *reader) scenarios(pkg, parent string) error {
	dir := filepath.Join(r.root, "features")
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return nil
	}
	features, err := godog.TestSuite{Options: &godog.Options{Paths: []string{dir}}}.RetrieveFeatures()
	if err != nil {
		return fmt.Errorf("reading the features: %w", err)
	}
	at := map[string]int{}    // position in r.tests by file and name
	count := map[string]int{} // scenarios by the name of their run
	for _, feature := range features {
		file, err := filepath.Rel(r.root, feature.Uri)
		if err != nil {
			return err
		}
		file = filepath.ToSlash(file)
		for _, pickle := range feature.Pickles {
			var ids []string
			for _, tag := range pickle.Tags {
				if id := strings.TrimPrefix(tag.Name, "@"); idPattern.MatchString(id) {
					ids = append(ids, id)
				}
			}
			run := parent + "/" + subtest(pickle.Name)
			count[run]++
			key := file + "\n" + pickle.Name
			if i, again := at[key]; again { // an outline: its examples are one entry
				r.tests[i].IDs = append(r.tests[i].IDs, ids...)
				continue
			}
			at[key] = len(r.tests)
			r.tests = append(r.tests, Test{File: file, Name: pickle.Name, IDs: ids, Package: path.Join(r.module, pkg), Run: run})
		}
	}
	for _, i := range at {
		r.tests[i].Count = count[r.tests[i].Run]
	}
	return nil
}

// subtest returns the name that testing gives to a subtest.
func subtest(name string) string {
	var b strings.Builder
	for _, c := range name {
		switch {
		case unicode.IsSpace(c):
			b.WriteByte('_')
		case !strconv.IsPrint(c):
			quoted := strconv.QuoteRune(c)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}
