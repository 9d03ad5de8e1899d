// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// grammar is the command line's own model.
func grammar(t testing.TB) *kong.Application {
	t.Helper()
	parser, err := kong.New(&cli{}, kong.Name("llama-orch"), kong.Description(description))
	require.NoError(t, err)
	return parser.Model
}

// LO-937
func TestCandidates(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	d.pools = append(d.pools, pool("third", "llama3.2:3b", gen.WorkloadCompletion))
	addr := d.serve(t)
	for _, c := range []struct{ typed, want string }{
		{"poo", "pools pool"},
		{"pool ", "health drain resume load unload reload"},
		{"pool h", "health"},
		{"pool health ", "default vectors third"},
		{"pool health t", "third"},
		{"pool health third ", ""},
		{"pool drain --deadline 5s t", "third"},
		{"pools ", "default vectors third"},
		{"run --m", "--model --max-tokens"},
		{"run -m ", "haiku embedder llama3.2:3b"},
		{"run --model llama3.2:", "3b"},
		{"run --model=llama3.2:", "3b"},
		{"run --model=h", "haiku"},
		{"run --priority ", "interactive batch"},
		{"run --format ", ":files"},
		{"run --seed ", ""},
		{"run -- --m", ""},
		{"run --json --pri", "--priority"},
		{"--json --addr nowhere.invalid pool health ", ""},
		{"tasks --state=c", "completed canceled"},
		{"models ", "list add show verify retire activate delete"},
		{"artifact put ", ":files"},
		{"completion ", "bash zsh fish"},
		{"complet", "completion"},
		{"doc", "doctor"},
		{"nothing ", ""},
		{"--nothing ", commandNames(t)},
	} {
		got := call(t.Context(), addr, "", "complete", "--line", "--", "llama-orch "+c.typed)
		require.Zero(t, got.code, got.err)
		require.Empty(t, got.err, "nothing may come into the line that is typed")
		require.Equal(t, c.want, strings.Join(strings.Fields(got.out), " "), c.typed)
	}
	got := call(t.Context(), addr, "", "complete", "--", "pool", "health", "th")
	require.Equal(t, "third\tllama3.2:3b, ready\n", got.out)
	got = call(t.Context(), addr, "", "complete", "--json", "--", "pool", "health", "th")
	require.JSONEq(t, `[{"value": "third", "help": "llama3.2:3b, ready"}]`, got.out)
	states := map[string]string{}
	for _, task := range strings.Split(strings.TrimSpace(call(t.Context(), addr, "", "tasks").out), "\n")[1:] {
		fields := strings.Fields(task)
		states[fields[0]] = fields[1]
	}
	for typed, of := range map[string]func(over bool) bool{
		"cancel ": func(over bool) bool { return !over }, "rm ": func(over bool) bool { return over }, "replay ": func(over bool) bool { return over }, "stream ": func(bool) bool { return true },
	} {
		var want []string
		for id, state := range states {
			if of(slices.Contains([]string{"completed", "failed", "canceled"}, state)) {
				want = append(want, id)
			}
		}
		if typed == "replay " {
			want = append(want, files)
		}
		require.ElementsMatch(t, want, strings.Fields(call(t.Context(), addr, "", "complete", "--line", "--", "llama-orch "+typed).out), typed)
	}
}

func commandNames(t *testing.T) string {
	var names []string
	for _, child := range grammar(t).Children {
		if !child.Hidden {
			names = append(names, child.Name)
		}
	}
	return strings.Join(names, " ")
}

// Whoever adds a command says what its arguments are, or that nobody can know.
//
// LO-937
func TestEveryArgumentIsOfAKind(t *testing.T) {
	t.Parallel()
	each(grammar(t).Node, func(node *kong.Node) {
		for _, p := range node.Positional {
			name := nameOf(node) + " " + p.Name
			require.True(t, p.Enum != "" || kinds[name] != "", "complete.go does not say what %q is", name)
		}
		for _, f := range node.Flags {
			if f.PlaceHolder == "ID" && f.Name != "id" && f.Name != "task-id" {
				require.NotEmpty(t, kinds[f.Name], "complete.go does not say what --%s is", f.Name)
			}
		}
	})
}

// A key is answered though the server is not: without its names.
//
// LO-937, LO-945
func TestCompletionDoesNotWaitForAServer(t *testing.T) {
	t.Parallel()
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(hangs.Close)
	for _, addr := range []string{hangs.URL, "http://127.0.0.1:1", "%%"} {
		got := call(t.Context(), addr, "", "complete", "--", "pool", "health", "")
		require.Empty(t, got.out, addr)
	}
}

// shell runs a script in a shell whose llama-orch is this test's program.
func shell(t *testing.T, name, addr, script string) string {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "llama-orch"), []byte(fmt.Sprintf("#!/bin/sh\n%s=1 exec %s \"$@\"\n", asMain, exe)), 0o755))
	arguments := map[string][]string{"bash": {"--norc", "--noprofile", "-c"}, "zsh": {"-f", "-c"}, "fish": {"--no-config", "-c"}}[name]
	cmd := exec.CommandContext(t.Context(), name, append(arguments, script)...)
	cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), addrEnv + "=" + addr, "HOME=" + bin, "TERM=dumb"}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// The scripts work in their shells. bash is everywhere that this project builds; the others are tried where they are.
//
// LO-937
func TestCompletionInShells(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.pools = append(d.pools, pool("third", "llama3.2:3b", gen.WorkloadCompletion))
	addr := d.serve(t)
	lines := map[string]string{"llama-orch poo": "pool pools", "llama-orch pool health t": "third", "llama-orch run --prio": "--priority", "llama-orch run -m hai": "haiku"}
	for _, name := range []string{"bash", "zsh", "fish"} {
		if _, err := exec.LookPath(name); err != nil && name != "bash" {
			continue
		}
		for line, want := range lines {
			got := strings.Fields(shell(t, name, addr, driven(name, line)))
			require.ElementsMatch(t, strings.Fields(want), got, "%s: %s", name, line)
		}
	}
	got := shell(t, "bash", addr, driven("bash", "llama-orch run -m llama3.2:"))
	require.Equal(t, "3b\n", got, "bash completes behind a colon")
	got = shell(t, "bash", addr, "cd /; "+driven("bash", "llama-orch artifact put et"))
	require.Equal(t, "etc\n", got)
}

// driven is a script that prints what a shell would complete.
func driven(name, line string) string {
	switch name {
	case "bash":
		words := strings.Fields(strings.ReplaceAll(line, ":", " : ")) // as bash parts them
		if strings.HasSuffix(line, ":") {
			words = append(words, "")
		}
		return fmt.Sprintf("source <(llama-orch completion bash); complete -p llama-orch >/dev/null; COMP_LINE=%q; COMP_POINT=%d; COMP_WORDS=(%s); COMP_CWORD=%d; _llama_orch; printf '%%s\\n' \"${COMPREPLY[@]}\"",
			line, len(line), "'"+strings.Join(words, "' '")+"'", len(words)-1)
	case "zsh":
		return fmt.Sprintf("compdef() {}; _files() { print FILES }; _describe() { for one in ${(P)3}; do print -r -- ${one%%%%:*}; done }; source <(llama-orch completion zsh); words=(%s); CURRENT=%d; _llama_orch",
			line, len(strings.Fields(line)))
	}
	return fmt.Sprintf("llama-orch completion fish | source; complete -C %s | string replace -r '\\t.*' ''", strconv.Quote(line))
}

// LO-945: what a call costs before it does anything.
func BenchmarkStart(b *testing.B) {
	exe, err := os.Executable()
	require.NoError(b, err)
	for b.Loop() {
		cmd := exec.Command(exe, "version")
		cmd.Env = []string{asMain + "=1"}
		require.NoError(b, cmd.Run())
	}
}

// LO-945: what a key costs, with a server that answers.
func BenchmarkComplete(b *testing.B) {
	addr := serve(b, newDaemon())
	for b.Loop() {
		if got := call(b.Context(), addr, "", "complete", "--", "pool", "health", ""); got.out == "" {
			b.Fatal(got.err)
		}
	}
}
