// SPDX-License-Identifier: GPL-3.0-or-later

package blueprints

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/applet"
	"github.com/llama-orch/llama-orch/utils/blueprint"
	"github.com/llama-orch/llama-orch/utils/determinism"
	"github.com/llama-orch/llama-orch/utils/fs"
	"github.com/llama-orch/llama-orch/utils/llm"
	"github.com/llama-orch/llama-orch/utils/proof"
)

const root = "../.."

var record = flag.Bool("record", false, "record the golden transcripts anew")

// read reads an example.
func read(t *testing.T, name string) *blueprint.Blueprint {
	t.Helper()
	file := filepath.Join(root, "examples", "blueprints", name)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	b, err := blueprint.Parse(file, text, applet.All())
	require.NoError(t, err)
	return b
}

// serve starts a daemon, and returns a client of it.
func serve(t *testing.T, lab *daemon.Lab, config string, env map[string]string) *sdk.Client {
	t.Helper()
	d, err := lab.Serve(t.Context(), daemon.Options{Config: config, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, env)}})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	require.NoError(t, d.Answers(t.Context(), "/readyz"))
	client, err := sdk.New(sdk.Options{Addr: d.URL})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

func lab(t *testing.T, more ...string) *daemon.Lab {
	t.Helper()
	l, err := daemon.NewLab(t.Context(), t.TempDir(), root, more...)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

// Twelve months in parallel, by a real model behind a real daemon, each with a proof bundle that holds. The next run does nothing.
//
// LO-929, LO-928
func TestAHaikuBook(t *testing.T) {
	client := serve(t, lab(t), filepath.Join(root, "examples", "haiku.yaml"), map[string]string{"LLORCH_BIND_ADDR": "127.0.0.1:0", "LLORCH_DATA_DIR": t.TempDir()})
	r := &blueprint.Runner{
		Catalog: applet.All(), Env: applet.Env{Caller: client}, Dir: t.TempDir(),
		Proof: func(ctx context.Context, id string) ([]byte, error) {
			_, text, err := client.Proof(ctx, id)
			return text, err
		},
	}
	result, err := r.Run(t.Context(), read(t, "haiku-book.yaml"), map[string]any{"title": "Twelve"})
	require.NoError(t, err)
	var book string
	require.NoError(t, json.Unmarshal(result, &book))
	require.Regexp(t, `^# Twelve\n\n(## [a-z]+\n\n[^\n]+\n[^\n]+\n[^\n]+\n\n){12}$`, book)
	require.Contains(t, book, "## july\n")

	run, err := blueprint.Show(r.Dir)
	require.NoError(t, err)
	require.Equal(t, blueprint.Done, run.State)
	require.GreaterOrEqual(t, len(run.Proofs), 12)
	for _, name := range run.Proofs {
		text, err := os.ReadFile(filepath.Join(r.Dir, name))
		require.NoError(t, err)
		report := proof.Verify(text)
		require.True(t, report.OK, "%s: %+v", name, report)
	}
	again, err := r.Run(t.Context(), read(t, "haiku-book.yaml"), map[string]any{"title": "Twelve"})
	require.NoError(t, err)
	require.Equal(t, string(result), string(again))
	run, err = blueprint.Show(r.Dir)
	require.NoError(t, err)
	for _, s := range run.Steps {
		require.Equal(t, blueprint.Kept, s.State, s.Path)
	}
}

// caller plays golden transcripts. With -record it makes them: by a real daemon, whose engine answers as the rules say.
func caller(t *testing.T, folder string, rules ...scripted.Rule) llm.Caller {
	t.Helper()
	folder = filepath.Join("testdata", folder)
	if !*record {
		return determinism.Golden{Folder: folder}
	}
	l := lab(t, "./harness/scripted/cmd/scripted")
	require.NoError(t, os.RemoveAll(folder))
	require.NoError(t, os.MkdirAll(folder, 0o755))
	data, err := json.Marshal(scripted.Script{Rules: rules})
	require.NoError(t, err)
	script, config := filepath.Join(l.Dir, "script.json"), filepath.Join(l.Dir, "c.yaml")
	require.NoError(t, os.WriteFile(script, data, 0o600))
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
pools:
  - {id: coder, model: {id: coder, ref: "file:%s"}, device: cpu, ctx: 8192, provisioning: {mode: binary, path: %q, args: ["--script", %q]}}
`, l.Model, l.Program("scripted"), script), 0o600))
	return determinism.Record(folder, serve(t, l, config, nil))
}

func says(match string, text any) scripted.Rule {
	said, ok := text.(string)
	if !ok {
		raw, err := json.Marshal(text)
		if err != nil {
			panic(err)
		}
		said = string(raw)
	}
	return scripted.Rule{Match: match, Play: []scripted.Step{{Text: said, Cut: 7}}}
}

// LO-929
func TestAREADMEForAFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"frog.go": "package pond\n\n// Frog is an animal.\ntype Frog struct{ Name string }\n", "in/jump.go": "package in\n\n// Jump says how far.\nfunc Jump() int { return 3 }\n",
		"notes.txt": "not read", ".git/hidden.go": "package hidden\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	files, err := fs.Open(dir, fs.Limits{})
	require.NoError(t, err)
	defer files.Close()
	model := caller(t, "readme", says("File frog.go:", "<think>It has a type.</think>It has the type of frogs."), says("File in/jump.go:", "It says how far a frog jumps."),
		says("Write a README", map[string]string{"title": "pond", "summary": "Frogs, and how far they jump.", "usage": "Import `pond`, and call `in.Jump`."}))
	r := &blueprint.Runner{Catalog: applet.All(), Env: applet.Env{Caller: model, Root: files}, Dir: t.TempDir()}
	_, err = r.Run(t.Context(), read(t, "readme-writer.yaml"), map[string]any{"model": "coder"})
	require.NoError(t, err)
	readme, err := files.Read("README.md")
	require.NoError(t, err)
	require.Equal(t, "# pond\n\nFrogs, and how far they jump.\n\n## Use\n\nImport `pond`, and call `in.Jump`.\n\n## Files\n\n- frog.go: It has the type of frogs.\n- in/jump.go: It says how far a frog jumps.\n",
		string(readme))
}

const change = `Please look at this:

--- a/jump.go
+++ b/jump.go
@@ -3,3 +3,3 @@
 // Jump says how far.
-func Jump(legs int) int { return legs }
+func Jump(legs int) int { return 10 / legs }
`

// A review whose first answer is not of the form: the model is told why, and its second one is.
//
// LO-929, LO-916
func TestAReviewOfADiff(t *testing.T) {
	wrong := map[string]any{"findings": []any{map[string]any{"file": "jump.go", "line": 4, "severity": "awful", "text": "It divides by legs, which may be 0."}}}
	right := map[string]any{"findings": []any{map[string]any{"file": "jump.go", "line": 4, "severity": "high", "text": "It divides by legs, which may be 0."}}}
	model := caller(t, "review", says("Review this change", wrong), says("That is not what I asked for: findings[0].severity", right))
	r := &blueprint.Runner{Catalog: applet.All(), Env: applet.Env{Caller: model}, Dir: t.TempDir()}
	result, err := r.Run(t.Context(), read(t, "diff-review.yaml"), map[string]any{"model": "coder", "diff": change})
	require.NoError(t, err)
	require.JSONEq(t, `{"findings": [{"file": "jump.go", "line": 4, "severity": "high", "text": "It divides by legs, which may be 0."}],
		"text": "jump.go:4: high: It divides by legs, which may be 0.\n"}`, string(result))
	run, err := blueprint.Show(r.Dir)
	require.NoError(t, err)
	require.Len(t, run.Steps[1].Tasks, 2, "both answers are told")
	_, err = r.Run(t.Context(), read(t, "diff-review.yaml"), map[string]any{"model": "coder", "diff": "There is none."})
	require.ErrorContains(t, err, "step diff (extract.diff): the answer has no unified diff")
	r.Env.Caller = determinism.Golden{Folder: filepath.Join("testdata", "review")}
	_, err = r.Run(t.Context(), read(t, "diff-review.yaml"), map[string]any{"model": "coder", "diff": strings.Replace(change, "10", "11", 1)})
	require.ErrorContains(t, err, "record it anew", "a request that was not recorded is refused")
}
