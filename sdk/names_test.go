// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every exported name of the SDK stands in names.txt with who needs it, and is needed: CLI and Utils by what they use, API by the contract, or by the
// signature of another name. Constants of an enum go with its type.
//
// LO-906
func TestEveryNameIsNeeded(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("names.txt")
	require.NoError(t, err)
	listed := map[string][]string{}
	var order []string
	for line := range strings.Lines(string(text)) {
		if name, who, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			require.NotContains(t, listed, name, "it stands there twice")
			listed[name] = strings.Fields(who)
			order = append(order, name)
		}
	}
	require.True(t, slices.IsSorted(order), "the names are sorted")
	declared, mentioned := names(t)
	for name := range declared {
		require.Contains(t, listed, name, "say in sdk/names.txt who needs it, or make it unexported")
	}
	used := map[string]map[string]bool{"CLI": uses(t, "../cmd/llama-orch"), "Utils": uses(t, "../utils")}
	for name, who := range listed {
		from, ok := declared[name]
		require.True(t, ok, "sdk/names.txt lists %s, which the SDK does not have", name)
		require.NotEmpty(t, who, name)
		_, bare, method := strings.Cut(name, ".")
		if !method {
			bare = name
		}
		for _, w := range who {
			if w == "API" {
				require.True(t, from == "types_gen.go" || strings.HasPrefix(name, "Client.") || mentioned[name], "%s is no part of the contract, and nothing exported has it", name)
				continue
			}
			require.Contains(t, used, w, name)
			require.True(t, used[w][bare], "nothing of %s uses %s any more", w, name)
		}
	}
}

// The SDK brings a program no module that gen does not bring.
//
// LO-901
func TestTheSDKNeedsWhatGenNeeds(t *testing.T) {
	t.Parallel()
	modules := func(dir string) map[string]bool {
		p, err := build.Default.ImportDir(dir, 0)
		require.NoError(t, err)
		found := map[string]bool{}
		for _, path := range p.Imports {
			if parts := strings.Split(path, "/"); strings.Contains(parts[0], ".") {
				found[strings.Join(parts[:3], "/")] = true
			}
		}
		return found
	}
	gens := modules("../gen")
	require.NotEmpty(t, gens)
	for module := range modules(".") {
		require.True(t, gens[module] || module == "github.com/llama-orch/llama-orch", "the SDK imports %s", module)
	}
}

// names are the exported names, with the file that has each, and those that stand in exported types and signatures.
func names(t *testing.T) (declared map[string]string, mentioned map[string]bool) {
	t.Helper()
	declared, mentioned = map[string]string{}, map[string]bool{}
	enums := map[string]bool{}
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		note := func(name string) {
			if ast.IsExported(name) {
				declared[name] = file
			}
		}
		for _, d := range tree.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				receiver := ""
				if d.Recv != nil {
					ast.Inspect(d.Recv, func(n ast.Node) bool {
						if id, ok := n.(*ast.Ident); ok && ast.IsExported(id.Name) {
							receiver = id.Name
						}
						return true
					})
				}
				if d.Recv == nil {
					note(d.Name.Name)
				}
				if ast.IsExported(d.Name.Name) && receiver == "Client" {
					declared["Client."+d.Name.Name] = file
				}
				if ast.IsExported(d.Name.Name) {
					mention(d.Type, mentioned)
				}
				if d.Name.Name == "Error" { // what methods return as an error
					mentioned[receiver] = true
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						note(s.Name.Name)
						mention(s.Type, mentioned)
						if fields, ok := s.Type.(*ast.StructType); ok && len(fields.Fields.List) > 0 && isFrame(fields.Fields.List[0]) { // an event
							mentioned[s.Name.Name] = true
						}
						if basic, ok := s.Type.(*ast.Ident); ok && basic.Name == "string" {
							enums[s.Name.Name] = true
						}
					case *ast.ValueSpec:
						of, typed := s.Type.(*ast.Ident)
						for _, n := range s.Names {
							if !typed || !enums[of.Name] && !strings.HasPrefix(n.Name, of.Name) {
								note(n.Name)
							}
						}
					}
				}
			}
		}
	}
	return declared, mentioned
}

func isFrame(f *ast.Field) bool {
	id, ok := f.Type.(*ast.Ident)
	return ok && len(f.Names) == 0 && id.Name == "Frame"
}

func mention(in ast.Node, to map[string]bool) {
	ast.Inspect(in, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			to[id.Name] = true
		}
		return true
	})
}

// uses are the names that packages below a folder select from the SDK, and the methods that they call on a client or ask one for. Tests do not count.
func uses(t *testing.T, folder string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		tree, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				switch of := n.X.(type) {
				case *ast.Ident:
					found[n.Sel.Name] = found[n.Sel.Name] || of.Name == "sdk" || of.Name == "client"
				case *ast.SelectorExpr:
					found[n.Sel.Name] = found[n.Sel.Name] || of.Sel.Name == "client"
				}
			case *ast.InterfaceType: // what a package asks a client for
				for _, m := range n.Methods.List {
					for _, name := range m.Names {
						found[name.Name] = true
					}
				}
			}
			return true
		})
		return nil
	}))
	return found
}
