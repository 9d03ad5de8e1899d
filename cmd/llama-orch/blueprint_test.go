// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const sorted = `name: sorted
doc: Sorts the lines of a file.
inputs:
  file: {doc: its name below the root}
steps:
  - {id: read, use: fs.read, with: {path: "${inputs.file}"}}
  - {id: sort, use: exec.run, with: {name: sort, stdin: "${steps.read.text}"}}
  - {id: write, if: '${steps.sort.code} == 0', use: fs.write, with: {path: "sorted/${inputs.file}", text: "${steps.sort.stdout}"}}
result: ${steps.sort.stdout}
`

// LO-925, LO-926, LO-928
func TestBlueprintsAtTheTerminal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, out := filepath.Join(dir, "sorted.yaml"), filepath.Join(dir, "run")
	require.NoError(t, os.WriteFile(file, []byte(sorted), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "poem"), []byte("b\na\n"), 0o600))

	code, text, said := offline(t, "", "blueprint", "check", file)
	require.Zero(t, code, said)
	require.Equal(t, "sorted is in order: 3 steps\n", text)
	code, text, _ = offline(t, "", "blueprint", "plan", file)
	require.Zero(t, code)
	require.Regexp(t, `(?m)^write +fs\.write +read, sort|^write +fs\.write +sort +if \$\{steps\.sort\.code\} == 0$`, text)

	code, _, said = offline(t, "", "blueprint", "run", file, "--root", dir, "--allow", "sort")
	require.Equal(t, exitUsage, code)
	require.Contains(t, said, `the input "file" has no default`)
	code, text, said = offline(t, "", "blueprint", "run", file, "--dir", out, "--root", dir, "--allow", "sort", "-i", "file=poem", "-v")
	require.Zero(t, code, said)
	require.Equal(t, "a\nb\n", text)
	require.Regexp(t, `(?m)^done +write +fs\.write`, said)
	content, err := os.ReadFile(filepath.Join(dir, "sorted", "poem"))
	require.NoError(t, err)
	require.Equal(t, "a\nb\n", string(content))

	code, text, _ = offline(t, "", "blueprint", "show", out)
	require.Zero(t, code)
	require.Regexp(t, `(?m)^sorted: done\n(.*\n)*write +done +fs\.write`, text)
	code, text, _ = offline(t, "", "--json", "blueprint", "show", out)
	require.Zero(t, code)
	require.Contains(t, text, `"result":"a\nb\n"`)

	code, _, said = offline(t, "", "blueprint", "run", file, "--dir", out, "--root", dir, "-i", "file=poem")
	require.Equal(t, exitFailed, code)
	require.Contains(t, said, "step sort (exec.run): applet exec.run needs a list of allowed commands")
	require.Contains(t, said, "the same command goes on from there")

	require.NoError(t, os.WriteFile(file, []byte("name: sorted\nsteps:\n  - {id: a, use: fs.raed, with: {path: x}}\n"), 0o600))
	for _, what := range []string{"check", "plan", "run"} {
		code, _, said = offline(t, "", "blueprint", what, file)
		require.Equal(t, exitUsage, code)
		require.Contains(t, said, "sorted.yaml:3: steps[0].use: there is no applet")
	}
	code, text, _ = offline(t, "", "--json", "blueprint", "check", file)
	require.Equal(t, exitUsage, code)
	require.Contains(t, text, `"line":3`)
	code, _, said = offline(t, "", "blueprint", "show", filepath.Join(dir, "none"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, said, "there is no folder")
}
