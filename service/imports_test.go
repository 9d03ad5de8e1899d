// SPDX-License-Identifier: GPL-3.0-or-later

// Package service_test holds the import map of service/.
package service_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/llama-orch/llama-orch/"

// everyone may import these: they know of nothing else in service/ but task.
var leaves = []string{"task", "observe", "engine"}

// mayImport is what a package under service/ may import of its siblings, beside the leaves. app joins them all.
var mayImport = map[string][]string{
	"admission":       {"placement"},
	"api":             {"auth"},
	"auth":            {},
	"config":          {},
	"engine":          {},
	"engine/httpsse":  {},
	"engine/llamacpp": {"engine/httpsse"},
	"ledger":          {},
	"observe":         {},
	"placement":       {},
	"pool":            {},
	"provision":       {},
	"queue":           {},
	"scheduler":       {"queue", "placement", "stream"},
	"stream":          {},
	"task":            {},
	"worker":          {},
}

// Siblings don't import each other; nothing under service/ or cmd/ reaches a test's fake (ORCH-3058), and task stands on
// the standard library alone.
//
// ORCH-3058
func TestImportMap(t *testing.T) {
	seen := map[string]bool{}
	each(t, ".", func(pkg, path string) {
		seen[pkg] = true
		require.False(t, strings.HasPrefix(path, module+"harness"), "service/%s imports %s", pkg, path)
		require.False(t, strings.HasPrefix(path, module+"sdk"), "service/%s imports %s", pkg, path)
		if pkg == "task" {
			require.NotContains(t, path, ".", "task imports the standard library only")
		}
		sibling, ok := strings.CutPrefix(path, module+"service/")
		if !ok || pkg == "app" {
			return
		}
		allowed, known := mayImport[pkg]
		require.True(t, known, "service/%s is new: give it a place in the import map", pkg)
		if slices.Contains(allowed, sibling) || slices.Contains(leaves, sibling) && pkg != "observe" && pkg != "task" {
			return
		}
		require.Equal(t, "task", sibling, "service/%s may not import service/%s", pkg, sibling)
	})
	for pkg := range mayImport {
		require.True(t, seen[pkg], "service/%s is in the import map and not in the tree", pkg)
	}
	each(t, "../cmd", func(pkg, path string) {
		require.False(t, strings.HasPrefix(path, module+"harness"), "cmd/%s imports %s", pkg, path)
	})
	each(t, "../sdk", func(pkg, path string) {
		require.False(t, strings.HasPrefix(path, module+"service/"), "sdk imports %s", path)
	})
}

// each calls visit for every import of every package below root, its tests left out.
func each(t *testing.T, root string, visit func(pkg, path string)) {
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		for _, i := range parsed.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			visit(filepath.ToSlash(pkg), path)
		}
		return nil
	})
	require.NoError(t, err)
}
