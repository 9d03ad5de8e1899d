// SPDX-License-Identifier: GPL-3.0-or-later

package fuzz

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// LO-860: each parser of bytes from outside has a target that is there, and each target is some parser's.
func TestEveryParserHasItsTargets(t *testing.T) {
	targets, err := Targets()
	require.NoError(t, err)
	var named []string
	for _, target := range targets {
		named = append(named, target.String())
	}
	slices.Sort(named)
	require.Equal(t, slices.Compact(slices.Clone(named)), named, "a target is named twice")
	require.Equal(t, inTree(t, "../.."), named)
}

// inTree are the targets that the tree has.
func inTree(t *testing.T, root string) (found []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != root) {
			return skip(err, d)
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Fuzz") && len(f.Type.Params.List) == 1 {
				pkg, err := filepath.Rel(root, filepath.Dir(path))
				if err != nil {
					return err
				}
				found = append(found, filepath.ToSlash(pkg)+"."+f.Name.Name)
			}
		}
		return nil
	}))
	slices.Sort(found)
	return found
}

// skip leaves a folder out.
func skip(err error, d fs.DirEntry) error {
	if err == nil && d.IsDir() {
		return fs.SkipDir
	}
	return err
}

// LO-860
func TestTheTimeIsSharedAndWhatIsFoundIsTold(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, Run(t.Context(), Options{Dir: "../..", Only: regexp.MustCompile(`^service/flow/stream\.FuzzParseID$`), Within: time.Second, Out: &out}))
	require.Regexp(t, `^1 targets, 1s each\n\n(.*\n){2}\| service/flow/stream\.FuzzParseID \| \d+ \| \d+ \| nothing \|\n$`, out.String())

	require.ErrorContains(t, Run(t.Context(), Options{Only: regexp.MustCompile("no such"), Out: &out}), `no target of ci/fuzz/parsers.txt matches "no such"`)
}

// LO-860
func TestATargetThatFindsSomethingFails(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module found\n\ngo 1.26\n"), 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "parse"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "parse", "parse_test.go"), []byte(`package parse

import "testing"

func FuzzParse(f *testing.F) {
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 3 {
			t.Fatal("it is too long")
		}
	})
}
`), 0o600))
	said, err := run(t.Context(), dir, Target{Package: "parse", Name: "FuzzParse"}, 20*time.Second)
	require.Error(t, err)
	require.Contains(t, said, "it is too long")
	require.DirExists(t, filepath.Join(dir, "parse", "testdata", "fuzz", "FuzzParse"))
}
