// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

const someSession = "11111111-1111-4111-8111-111111111111"

// examples are a call of each command. A command without one fails the tests here.
var examples = map[string]string{
	"run": "-m haiku p", "stream": "t", "cancel": "t", "rm": "a b", "task": "t", "tasks": "", "session show": someSession, "session create": "", "session delete": someSession,
	"pools": "default", "pool health": "default", "pool drain": "default", "pool resume": "default", "pool load": "default", "pool unload": "default", "pool reload": "default file:b",
	"gpus": "", "hosts": "", "explain": "-m haiku", "config reload": "", "models list": "", "models add": "hf:o/r --wait", "models show": "haiku", "models verify": "haiku", "models retire": "haiku",
	"models activate": "haiku", "models delete": "haiku", "engines": "", "artifacts": "", "artifact get": "sha256-x", "artifact put": "FILE", "proof": "t", "replay": "t", "top": "--once",
	"doctor": "", "capabilities": "", "version": "", "init": "-o FILE --force", "list": "", "ls": "", "ps": "-a", "pull": "haiku", "snapshot take": "", "snapshot diff": "FILE", "completion": "bash",
	"complete": "-- p", "docs": "FOLDER", "mcp": "", "chat": "", "bindings": "go",
	"verify": "FILE", "bisect": "t t", "errors": "POOL_UNREADY", "applet list": "", "applet show": "fs.read", "applet run": "extract.text {}", "blueprint run": "FILE", "blueprint plan": "FILE", "blueprint check": "FILE",
	"blueprint show": "FOLDER", "logs": "", "discover": "--within=0s",
}

// leaves are all commands that do something, by their names.
func leaves(t testing.TB) []string {
	var names []string
	for _, leaf := range grammar(t).Leaves(false) {
		names = append(names, nameOf(leaf))
	}
	return names
}

// example is the call of a command.
func example(t *testing.T, name string) []string {
	t.Helper()
	args, is := examples[name]
	require.True(t, is, "look_test.go has no example of `%s`", name)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	return strings.Fields(name + " " + strings.NewReplacer("FILE", file, "FOLDER", filepath.Dir(file)).Replace(args))
}

// whole has the catalog and the artifacts.
type whole struct {
	*catalogDaemon
	k *archive
}

func (w whole) ListArtifacts(ctx context.Context, p gen.ListArtifactsParams) (*gen.ArtifactListHeaders, error) {
	return w.k.ListArtifacts(ctx, p)
}

func (w whole) CreateArtifact(ctx context.Context, r *gen.ArtifactRequest) (*gen.ArtifactHeaders, error) {
	return w.k.CreateArtifact(ctx, r)
}

func (w whole) GetArtifact(ctx context.Context, p gen.GetArtifactParams) (*gen.GetArtifactOKHeaders, error) {
	return w.k.GetArtifact(ctx, p)
}

func (w whole) GetArtifactContent(ctx context.Context, p gen.GetArtifactContentParams, r http.ResponseWriter) error {
	return w.k.GetArtifactContent(ctx, p, r)
}

func (w whole) StreamLogs(ctx context.Context, p gen.StreamLogsParams, r http.ResponseWriter) error {
	return (&journal{}).StreamLogs(ctx, p, r)
}

func looked(t *testing.T) string {
	d := whole{newCatalogDaemon(), newArchive(newDaemon())}
	d.k.keep(gen.ArtifactKindTrace, "t", "text")
	d.complete(t, "one ", "two")
	d.pools[0].LastError = gen.NewOptString(strings.Repeat("it is a long story. ", 8))
	return serve(t, d)
}

// With --json, each command prints JSON alone: on stdout what it found, on stderr what went wrong.
//
// LO-938
func TestEveryCommandHasJSON(t *testing.T) {
	t.Parallel()
	for _, name := range leaves(t) {
		got := call(t.Context(), looked(t), "", append([]string{"--json"}, example(t, name)...)...)
		require.True(t, got.out+got.err != "" || name == "mcp" || name == "chat", name) // whose standard input ends at once
		require.NotEqual(t, exitUnreachable, got.code, name)
		for what, text := range map[string]string{"stdout": got.out, "stderr": got.err} {
			values := json.NewDecoder(strings.NewReader(text))
			for {
				var value any
				err := values.Decode(&value)
				if errors.Is(err, io.EOF) {
					break
				}
				require.NoError(t, err, "%s of %s: %s", what, name, text)
			}
		}
	}
}

var second = regexp.MustCompile(`^\S+( \S+)*  +`)

var header = regexp.MustCompile(`^[A-Z]{2,}( [A-Z]+)*(  +[A-Z]+( [A-Z]+)*)*$`)

// A table fits the terminal, be it 40 columns wide or 80.
//
// LO-938
func TestEveryTableFits(t *testing.T) {
	t.Parallel()
	tables := map[string]int{}
	for _, name := range leaves(t) {
		for _, width := range []int{40, 80} {
			shown, _, _ := onTerminal(t, looked(t), uint16(width), example(t, name)...)
			within, first := false, 0
			for line := range strings.SplitSeq(shown, "\n") {
				within = line != "" && (within || header.MatchString(line))
				if within {
					tables[name]++
					if at := second.FindStringIndex(line); header.MatchString(line) && at != nil {
						first = at[1]
					}
					if first+leastCut > width {
						continue // the first column is of no use if it is cut
					}
					require.LessOrEqual(t, utf8.RuneCountInString(line), width, "%s on %d columns:\n%s", name, width, shown)
				}
			}
		}
	}
	require.Greater(t, len(tables), 15, "%v", slices.Collect(maps.Keys(tables)))
}

// Nothing but text leaves this program where stdout and stderr are no terminals, or where NO_COLOR is set.
//
// LO-938
func TestNoColour(t *testing.T) {
	t.Parallel()
	for _, name := range leaves(t) {
		got := call(t.Context(), looked(t), "", example(t, name)...)
		require.NotContains(t, got.out+got.err, "\x1b", name)
	}
	env := map[string]string{}
	a := &app{env: func(key string) string { return env[key] }}
	require.True(t, a.colours(true))
	require.False(t, a.colours(false), "no terminal")
	env["NO_COLOR"] = "1"
	require.False(t, a.colours(true))
	env = map[string]string{"TERM": "dumb"}
	require.False(t, a.colours(true))
}

// A command or flag that is nearly right is answered with the right one.
//
// LO-938
func TestTypos(t *testing.T) {
	t.Parallel()
	for _, name := range leaves(t) {
		words := strings.Fields(name)
		last := words[len(words)-1]
		for _, typo := range []string{last + "x", last[:len(last)-1] + "z", last[:1] + "q" + last[1:]} {
			if slices.Contains(leaves(t), typo) {
				continue
			}
			got := call(t.Context(), "http://127.0.0.1:1", "", append(words[:len(words)-1:len(words)-1], typo)...)
			if strings.Contains(got.err, "is missing") || got.code == exitUnreachable {
				continue // it is an argument of the command before it
			}
			require.Equal(t, exitUsage, got.code, "%s: %s", typo, got.err)
			if hidden := slices.Contains([]string{"complete", "docs", "ls"}, last); !hidden {
				require.Regexp(t, `did you mean (one of )?.*"`+last+`"`, got.err, typo)
			}
		}
	}
	grammar := grammar(t)
	for _, leaf := range grammar.Leaves(true) {
		words := strings.Fields(nameOf(leaf))
		for _, f := range leaf.Flags {
			if f.Name == "help" || len(f.Name) < 4 {
				continue
			}
			typo := "--" + f.Name[:2] + "z" + f.Name[2:]
			got := call(t.Context(), "http://127.0.0.1:1", "", append(slices.Clip(words), typo)...)
			require.Equal(t, exitUsage, got.code)
			require.Regexp(t, `did you mean (one of )?.*"--`+f.Name+`"`, got.err, "%s %s", leaf.Path(), typo)
		}
	}
}
