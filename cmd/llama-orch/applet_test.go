// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// offline runs the program without a server.
func offline(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, func(string) string { return "" }, strings.NewReader(stdin), &out, &err)
	return code, out.String(), err.String()
}

// LO-910
func TestAppletsAtTheTerminal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "poem"), []byte("one\n"), 0o600))

	code, out, _ := offline(t, "", "applet", "list")
	require.Zero(t, code)
	require.Regexp(t, `(?m)^fs\.list +\[deep\] \[dir\] \[match\] \[skip\] +Lists a folder below the root\.$`, out)
	code, all, _ := offline(t, "", "--json", "applet")
	require.Zero(t, code)
	require.Contains(t, all, `"name":"extract.json"`)
	code, out, _ = offline(t, "", "applet", "show", "fs.read")
	require.Zero(t, code)
	require.Contains(t, out, "fs.read: Reads a text file")
	require.Contains(t, out, `"path": {`)

	code, out, _ = offline(t, `{"path": "poem"}`, "applet", "run", "fs.read", "--root", dir)
	require.Zero(t, code)
	require.JSONEq(t, `{"text":"one\n"}`, out)
	code, out, _ = offline(t, "", "applet", "run", "exec.run", `{"name": "echo", "args": ["<hi>"]}`, "--allow", "echo")
	require.Zero(t, code)
	require.Contains(t, out, `"stdout":"<hi>\n"`)

	code, out, _ = offline(t, "", "complete", "applet", "run", "fs.")
	require.Zero(t, code)
	require.Contains(t, out, "fs.read\tReads a text file below the root.\n")

	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"show", "fs.raed"}, exitUsage, `did you mean "fs.read"?`},
		{[]string{"run", "fs.read", `{"path": "poem"}`}, exitUsage, "--root"},
		{[]string{"run", "fs.read", `{"pth": "poem"}`, "--root", dir}, exitUsage, "path: this field is missing"},
		{[]string{"run", "fs.read", `{"path": "../x"}`, "--root", dir}, exitFailed, "leads out of the root"},
		{[]string{"run", "exec.run", `{"name": "ls"}`, "--allow", "echo"}, exitFailed, "allowed are echo"},
		{[]string{"run", "fs.read", `{"path": "x"}`, "--root", filepath.Join(dir, "none")}, exitUsage, "open the root"},
	} {
		code, _, said := offline(t, "", append([]string{"applet"}, c.args...)...)
		require.Equal(t, c.code, code, "%v: %s", c.args, said)
		require.Contains(t, said, c.says)
	}
}

// Budgets are one for a whole blueprint. What they refuse is not sent, and files and commands are as free as without them.
//
// LO-919
func TestBudgetsAtTheTerminal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "two.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`name: two
steps:
  - {id: read, use: fs.read, with: {path: two.yaml}}
  - {id: sort, use: exec.run, with: {name: sort, stdin: "${steps.read.text}"}}
  - {id: first, use: llm.invoke, with: {model: haiku, prompt: "${steps.sort.stdout}"}}
  - {id: second, use: llm.invoke, with: {model: haiku, prompt: "${steps.first.text}"}}
result: ${steps.second.text}
`), 0o600))
	run := func(flags ...string) output {
		addr := serve(t, newArchive(newDaemon().complete(t, "frog", " pond")))
		args := []string{"blueprint", "run", file, "--dir", filepath.Join(t.TempDir(), "run"), "--root", dir, "--allow", "sort"}
		return call(t.Context(), addr, "", append(args, flags...)...)
	}
	got := run("--max-calls", "2", "--max-tokens", "1000", "--max-time", "10m", "--max-joules", "1")
	require.Zero(t, got.code, got.err)
	require.Equal(t, "frog pond\n", got.out)
	got = run("--max-calls", "1")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "step second (llm.invoke): refused by the rule \"calls\": all 1 calls are used")
	require.Contains(t, got.err, "hint: the budget is --max-calls")
	got = run("--max-tokens", "1", "--json")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, `"code":"BUDGET_TOKENS"`)
	require.Contains(t, got.err, `"hint":"the budget is --max-tokens"`)
	got = run("--max-time", "1ns")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "(BUDGET_TIME)")
	got = run("--max-joules=-1")
	require.Equal(t, exitUsage, got.code)
	got = run("--max-calls=-1")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.err, "a budget is a number above 0")

	d := newDaemon().complete(t, "frog", " pond")
	got = call(t.Context(), d.serve(t), "", "applet", "run", "llm.invoke", `{"model": "haiku", "prompt": "p"}`, "--max-tokens", "1")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "(BUDGET_TOKENS)")
}
