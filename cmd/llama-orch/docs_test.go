// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// LO-937: each command, argument and flag is in both forms of the manual.
func TestTheManualHasEverything(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	got := call(t.Context(), "http://127.0.0.1:1", "", "docs", folder)
	require.Zero(t, got.code, got.err)
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(folder, name))
		require.NoError(t, err)
		return string(text)
	}
	requests := []string{".TH", ".SH", ".TP", ".PP", ".br"}
	n := 0
	for _, top := range grammar(t).Children {
		if top.Hidden {
			require.NoFileExists(t, filepath.Join(folder, top.Name+".md"))
			continue
		}
		n++
		markdown, man := read(top.Name+".md"), read("man/llama-orch-"+top.Name+".1")
		each(top, func(node *kong.Node) {
			require.Contains(t, markdown, "# llama-orch "+nameOf(node)+"\n")
			require.Contains(t, markdown, node.Help)
			require.Contains(t, man, roff(node.Help))
			for _, p := range node.Positional {
				require.Contains(t, markdown, "| `"+p.Name+"` |")
				require.Contains(t, man, "\\fI"+p.Name+"\\fR\n"+roff(p.Help))
			}
			for _, f := range node.Flags {
				if f.Name != "help" {
					require.Contains(t, markdown, "--"+f.Name)
					require.Contains(t, man, roff("--"+f.Name))
				}
			}
		})
		require.Contains(t, read("README.md"), "[`"+top.Name+"`]("+top.Name+".md)")
		require.Contains(t, read("man/llama-orch.1"), roff("llama-orch "+top.Name))
		for line := range strings.Lines(man) {
			if strings.HasPrefix(line, ".") {
				require.True(t, slices.Contains(requests, strings.Fields(line)[0]), line)
			}
		}
	}
	require.Greater(t, n, 20)
	require.Regexp(t, `\| 130 \| interrupted`, read("README.md"))
	require.Equal(t, "\\&.x\n\\&'y\na\\-b\\ec", roff(".x\n'y\na-b\\c"))
}
