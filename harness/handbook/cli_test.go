// SPDX-License-Identifier: GPL-3.0-or-later

package handbook_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
)

// as is how a line of .docs/cli.md is run, where it has a name to fill in or does not end by itself. What changes the pool comes last.
var as = []struct{ line, run string }{
	{"llama-orch stream ID", "llama-orch stream rain-1"},
	{"llama-orch cancel ID", "llama-orch cancel rain-1"},
	{"llama-orch proof ID", "llama-orch proof rain-1"},
	{"llama-orch replay ID", "llama-orch replay rain-1"},
	{"llama-orch rm ID...", "llama-orch rm rain-1"},
	{"llama-orch top", "llama-orch top --once"},
	{"llama-orch logs -f --level warn", "s=0; timeout 3 llama-orch logs -f --level warn || s=$?; test $s = 124"}, // it goes on until it is stopped
	{"llama-orch snapshot -o FILE", "llama-orch snapshot -o snapshot.json && llama-orch snapshot diff snapshot.json"},
	{"llama-orch init --from ollama", "llama-orch init --help"}, // neither Ollama nor llama-swap is here
	{"llama-orch init --from llama-swap config.yaml", "llama-orch init --help"},
	{"llama-orch pull hf:ORG/REPO/FILE.gguf", "llama-orch pull --help"}, // nothing is fetched from outside in a test
	{"orchestratord serve --config FILE", "orchestratord serve --help"}, // it runs meanwhile
	{"orchestratord ledger backup --config FILE COPY.db", "orchestratord ledger backup --config examples/haiku.yaml copy.db"},
	{"orchestratord backup --config FILE DIR", "orchestratord backup --config examples/haiku.yaml copied"},
	{"orchestratord backup --config FILE --keep 7 BACKUPS", "orchestratord backup --config examples/haiku.yaml --keep 7 backups"},
	{"orchestratord restore --config FILE DIR", "orchestratord restore --data-dir put-back copied"}, // a daemon has the configured folder
}

// onPool runs the commands for one pool that a line lists, such as `pool drain|reload|health ID`. What depends on the kind of the pool is only asked
// for its help.
func onPool(line string) (run []string) {
	listed, _ := strings.CutPrefix(line, "llama-orch pool ")
	names := strings.Split(strings.Fields(listed)[0], "|")
	for _, name := range names {
		switch name {
		case "health", "reload", "drain":
		default:
			run = append(run, "llama-orch pool "+name+" --help")
		}
	}
	for _, known := range []string{"health default", "reload default file:../models/haiku/haiku.gguf", "drain default"} {
		if slices.Contains(names, strings.Fields(known)[0]) {
			run = append(run, "llama-orch pool "+known)
		}
	}
	return run
}

// The commands of .docs/cli.md run as they are written, and it leaves out none.
//
// LO-847
func TestTheCommandLines(t *testing.T) {
	p := newPlace(t)
	p.up(t)
	p.env = append(p.env, "PATH="+filepath.Join(p.dir, "bin")+":"+os.Getenv("PATH"))
	_, errs, err := p.paste(t, "llama-orch run -m haiku --task-id rain-1 'Write a haiku about rain.'")
	require.NoError(t, err, errs)

	text, err := os.ReadFile(filepath.Join(root, ".docs/cli.md"))
	require.NoError(t, err)
	type command struct{ line, run string }
	var commands []command
	for _, line := range indented(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "llama-orch COMMAND") {
			continue
		}
		c := command{line, strings.ReplaceAll(line, "--config FILE", "--config examples/haiku.yaml")}
		if strings.HasPrefix(line, "llama-orch pool ") {
			c.run = strings.Join(onPool(line), " && ")
		}
		for _, known := range as {
			if known.line == line {
				c.run = known.run
			}
		}
		require.NotRegexp(t, `\b(ID|FILE|DIR|NAME|REF)\b`, c.run, "say in this test how the line is to be run")
		commands = append(commands, c)
	}
	require.Greater(t, len(commands), 20)
	last := func(c command) int {
		if strings.Contains(c.run, "pool drain") || strings.Contains(c.run, "llama-orch rm") {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(commands, func(a, b command) int { return last(a) - last(b) })
	for _, c := range commands {
		out, errs, err := p.paste(t, c.run)
		require.NoError(t, err, "%s\n%s\n%s", c.run, out, errs)
	}
	out, errs, err := p.paste(t, "mkdir -m 700 restored && cp copy.db restored/state.db && orchestratord ledger check --data-dir restored")
	require.NoError(t, err, errs)
	require.Regexp(t, `Schema \d+, [1-9]\d* tasks`, out, "the copy holds the tasks, those in the WAL too")
	d, err := daemon.Start(t.Context(), lab.Launcher, daemon.Options{Config: filepath.Join(p.dir, "examples", "haiku.yaml"), Options: process.Options{
		Name: "the daemon on the copy", Exe: lab.Program("orchestratord"), Args: []string{"--no-self-test"},
		Env: append(slices.Clone(p.env), "LLORCH_BIND_ADDR=127.0.0.1:0", "LLORCH_DATA_DIR="+filepath.Join(p.dir, "restored")),
	}})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	out, errs, err = p.paste(t, "llama-orch --addr "+d.URL+" stream rain-1")
	require.NoError(t, err, errs)
	require.NotEmpty(t, out, "the restored record has the answer")

	help, _, err := p.paste(t, "llama-orch --help")
	require.NoError(t, err)
	_, help, _ = strings.Cut(help, "\nCommands:\n")
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+)  `).FindAllStringSubmatch(help, -1) {
		if m[1] != "version" {
			require.Regexp(t, "llama-orch "+m[1]+`\b|[^\n]*`+"`"+m[1]+`\b`, string(text), "cli.md leaves it out")
		}
	}
}

// The table of targets in workflow.md has all targets.
//
// LO-847
func TestTheTargets(t *testing.T) {
	table := chapter(t, ".docs/workflow.md", "## Targets")
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-zA-Z:]+)`").FindAllStringSubmatch(table, -1) {
		named[strings.ToLower(m[1])] = true
	}
	magefile, err := os.ReadFile(filepath.Join(root, "magefile.go"))
	require.NoError(t, err)
	n := 0
	for _, m := range regexp.MustCompile(`llama-orch/llama-orch/(ci/\w+)"`).FindAllStringSubmatch(string(magefile), -1) {
		files, err := filepath.Glob(filepath.Join(root, m[1], "*.go"))
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, f := range regexp.MustCompile(`(?m)^func (?:\((?:\w+ )?([A-Z]\w*)\) )?([A-Z]\w*)\((?:ctx context\.Context)?\) (?:error )?\{`).FindAllStringSubmatch(string(text), -1) {
				target := strings.ToLower(strings.TrimPrefix(f[1]+":"+f[2], ":"))
				n++
				require.True(t, named[target], "workflow.md leaves out the target %s of %s", target, file)
			}
		}
	}
	require.Greater(t, n, 25, "the search is broken")
}
