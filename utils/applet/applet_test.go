// SPDX-License-Identifier: GPL-3.0-or-later

package applet

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	bundles "github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/determinism"
	"github.com/llama-orch/llama-orch/utils/exec"
	"github.com/llama-orch/llama-orch/utils/extract"
	"github.com/llama-orch/llama-orch/utils/fs"
	"github.com/llama-orch/llama-orch/utils/guard"
	"github.com/llama-orch/llama-orch/utils/schema"
)

// setup gives an environment that allows everything in a folder with one file.
func setup(t *testing.T) *Env {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "poem"), []byte("one\ntwo\n"), 0o600))
	root, err := fs.Open(dir, fs.Limits{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, root.Close()) })
	return &Env{Root: root, Exec: &exec.Policy{Allow: []string{"echo"}}, Caller: parrot{}}
}

// parrot answers with the model's name and what was said.
type parrot struct{}

func (parrot) Run(_ context.Context, r *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		said := r.Prompt
		for _, m := range r.Messages {
			said += m.Content.Text + " "
		}
		seed := int64(7)
		if r.Seed != nil {
			seed = *r.Seed
		}
		_ = yield(sdk.Started{TaskID: "t"}, nil) && yield(sdk.Token{Text: r.ModelRef + ": " + strings.TrimSpace(said)}, nil) &&
			yield(sdk.End{TokensIn: 3, TokensOut: 2, FinishReason: sdk.FinishReasonStop, Receipt: sdk.Receipt{Seed: seed}}, nil)
	}
}

func (parrot) Capabilities(context.Context) (*sdk.Capabilities, error) {
	return &sdk.Capabilities{Pools: []sdk.CapabilityPool{{ID: "p", Model: sdk.PoolModel{ID: "m"}, Workload: sdk.WorkloadCompletion, Ctx: 100}}}, nil
}

func (parrot) Explain(context.Context, *sdk.ExplainRequest) (*sdk.Explanation, error) {
	return nil, &sdk.Error{Status: 404, Code: sdk.ErrorCodeModelNotFound}
}

func (parrot) Proof(_ context.Context, id string) (*bundles.Bundle, []byte, error) {
	return nil, bundleOf(id, 7), nil
}

func bundleOf(task string, seed uint32) []byte {
	text, err := (&bundles.Bundle{Format: bundles.Format, TaskID: task, Seed: seed}).Encode()
	if err != nil {
		panic(err)
	}
	return text
}

func quoted(text []byte) string {
	raw, err := json.Marshal(string(text))
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func run(t *testing.T, env *Env, name, in string) (string, error) {
	t.Helper()
	a, err := All().Find(name)
	require.NoError(t, err)
	out, err := a.Run(t.Context(), env, json.RawMessage(in))
	if err == nil {
		require.NoError(t, a.Out.Check(out), "%s gives what its schema says", name)
	}
	return string(out), err
}

// LO-910
func TestTheCatalogueIsWhole(t *testing.T) {
	all := All()
	require.True(t, slices.IsSortedFunc(all, func(a, b Applet) int { return strings.Compare(a.Name, b.Name) }))
	for i, a := range all {
		require.Regexp(t, `^[a-z]+\.[a-z]+$`, a.Name)
		require.Regexp(t, `^[A-Z][^.]*\.$`, a.Doc, a.Name)
		require.True(t, i == 0 || all[i-1].Name != a.Name, a.Name)
		raw, err := json.Marshal(a)
		require.NoError(t, err)
		require.Contains(t, string(raw), `"in":{`)
	}
}

// Each applet does by JSON what its function does.
//
// LO-910
func TestEachAppletRuns(t *testing.T) {
	env := setup(t)
	require.NoError(t, env.Root.Write("indented", []byte("  a\n   b\n")))
	var tasks []string
	var mu sync.Mutex
	env.Task = func(id string) { // from any goroutine
		mu.Lock()
		defer mu.Unlock()
		tasks = append(tasks, id)
	}
	tried := map[string]bool{}
	for _, c := range []struct{ name, in, out string }{
		{"fs.read", `{"path": "poem"}`, `{"text": "one\ntwo\n"}`},
		{"fs.write", `{"path": "new/file", "text": "<x>"}`, `{}`},
		{"fs.list", `{"deep": true}`, `{"entries": [{"path": "indented", "size": 9}, {"path": "new", "folder": true}, {"path": "new/file", "size": 3}, {"path": "poem", "size": 8}]}`},
		{"fs.list", `{"match": "none"}`, `{"entries": []}`},
		{"fs.patch", `{"diff": "--- a/poem\n+++ b/poem\n@@ -1 +1 @@\n-one\n+1\n"}`, `{"changes": [{"path": "poem", "kind": "changed"}]}`},
		{"fs.read", `{"path": "poem"}`, `{"text": "1\ntwo\n"}`},
		{"extract.text", `{"text": "<think>x</think> y "}`, `{"text": "y"}`},
		{"extract.code", `{"text": "` + "```go\\nx\\n```" + `", "language": "go"}`, `{"text": "x\n"}`},
		{"extract.json", `{"text": "It is {\"a\": 1}.", "schema": {"required": ["a"]}}`, `{"value": {"a": 1}}`},
		{"extract.json", `{"text": "[1]"}`, `{"value": [1]}`},
		{"extract.diff", `{"text": "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\nSo."}`, `{"diff": "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\n"}`},
		{"extract.tag", `{"text": "<a>x</a>", "tag": "a"}`, `{"text": "x"}`},
		{"schema.check", `{"value": {"a": 1}, "schema": {"properties": {"a": {"type": "string"}}}}`, `{"fits": false, "problems": [{"path": "a", "problem": "got number, want string"}]}`},
		{"prompt.file", `{"path": "indented"}`, `{"text": "a\n b"}`},
		{"prompt.lines", `{"lines": ["a", "b"]}`, `{"text": "a\nb\n"}`},
		{"prompt.lines", `{"lines": ["a", "b"], "separator": ", "}`, `{"text": "a, b"}`},
		{"prompt.dedent", `{"text": "  a\n   b"}`, `{"text": "a\n b"}`},
		{"prompt.template", `{"template": "Hi {{.name}}", "values": {"name": "<Ada>"}}`, `{"text": "Hi <Ada>"}`},
		{
			"prompt.thread", `{"messages": [{"role": "user", "text": "a"}, {"role": "system", "text": "s"}, {"role": "user", "text": "b"}]}`,
			`{"messages": [{"role": "system", "text": "s"}, {"role": "user", "text": "a\n\nb"}]}`,
		},
		{
			"llm.invoke", `{"model": "m", "system": "s", "messages": [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"}], "user": "c", "seed": 0, "temperature": 0, "think": true}`,
			`{"text": "m: s a b c", "finish": "stop", "tokens_in": 3, "tokens_out": 2, "seed": 0, "task_id": "t"}`,
		},
		{"llm.many", `{"requests": [{"model": "m", "prompt": "1"}, {"model": "m", "prompt": "2"}]}`, `{"answers": [
			{"text": "m: 1", "finish": "stop", "tokens_in": 3, "tokens_out": 2, "seed": 7, "task_id": "t"}, {"text": "m: 2", "finish": "stop", "tokens_in": 3, "tokens_out": 2, "seed": 7, "task_id": "t"}]}`},
		{
			"llm.json", `{"model": "{\"a\"", "prompt": "1}", "schema": {"type": "object"}}`,
			`{"value": {"a": 1}, "answer": {"text": "{\"a\": 1}", "finish": "stop", "tokens_in": 3, "tokens_out": 2, "seed": 7, "task_id": "t"}}`,
		},
		{"schema.check", `{"value": 1, "schema": true}`, `{"fits": true}`},
	} {
		out, err := run(t, env, c.name, c.in)
		require.NoError(t, err, c.name)
		require.JSONEq(t, c.out, out, c.name)
		tried[c.name] = true
	}
	out, err := run(t, env, "exec.run", `{"name": "echo", "args": ["hello"]}`)
	require.NoError(t, err)
	require.Contains(t, out, `"stdout":"hello\n"`)
	tried["exec.run"] = true
	require.Equal(t, []string{"t", "t", "t", "t"}, tasks)
	for name, c := range map[string]struct{ in, says string }{
		"model.list":   {`{}`, `{"models":[{"id":"m","workload":"completion","ctx":100,"pools":["p"]}]}`},
		"model.define": {`{"ref": "m"}`, `{"id":"m","workload":"completion","ctx":100,"pools":["p"]}`},
		"params.check": {`{"model": "m", "prompt": "x", "max_tokens": 5}`, `{}`},
		"proof.get":    {`{"task_id": "t"}`, `\"task_id\":\"t\"`},
		"proof.verify": {`{"text": "no bundle"}`, `"ok":false`},
	} {
		out, err := run(t, env, name, c.in)
		require.NoError(t, err, name)
		require.Contains(t, out, c.says, name)
		tried[name] = true
	}
	out, err = run(t, env, "proof.compare", `{"a": `+quoted(bundleOf("t", 1))+`, "b": `+quoted(bundleOf("u", 1))+`}`)
	require.NoError(t, err)
	require.Contains(t, out, `"same":true,"differences":[{"kind":"around","field":"task_id"`)
	out, err = run(t, env, "proof.compare", `{"a": `+quoted(bundleOf("t", 1))+`, "b": `+quoted(bundleOf("t", 2))+`}`)
	require.NoError(t, err)
	require.Contains(t, out, `"same":false`)
	tried["proof.compare"] = true

	env.Caller, env.Golden = determinism.Golden{Folder: "../../harness/blueprints/testdata/readme"}, t.TempDir()
	ask := `{"model": "coder", "seed": 1, "max_tokens": 200, "system": "You describe source files. Answer with one plain sentence.",
		"user": "What is this file for?\n\nFile in/jump.go:\n\npackage in\n\n// Jump says how far.\nfunc Jump() int { return 3 }\n"}`
	_, err = run(t, env, "determinism.replay", ask)
	require.ErrorContains(t, err, "record it anew")
	recorded, err := run(t, env, "determinism.record", ask)
	require.NoError(t, err)
	require.Contains(t, recorded, "how far a frog jumps")
	out, err = run(t, env, "determinism.repeat", `{"times": 2, "request": `+ask+`}`)
	require.NoError(t, err)
	require.Contains(t, out, `"same":true`)
	env.Caller = nil
	out, err = run(t, env, "determinism.replay", ask)
	require.NoError(t, err)
	require.Equal(t, recorded, out)
	for _, name := range []string{"determinism.record", "determinism.repeat", "determinism.replay"} {
		tried[name] = true
	}
	for _, a := range All() {
		require.True(t, tried[a.Name], "%s was not tried", a.Name)
	}
}

// LO-910
func TestInputIsHeldToItsSchemaBeforeAnythingHappens(t *testing.T) {
	env := setup(t)
	for _, c := range []struct{ name, in, says string }{
		{"fs.write", `{"path": "made", "txt": "x"}`, "text: this field is missing"},
		{"fs.write", `{"path": "made", "text": "x", "pth": 1}`, `pth: there is no such field; did you mean "path"?`},
		{"fs.write", `{"path": 1, "text": "x"}`, "path: got number, want string"},
		{"fs.list", `{"skip": ["a", 2]}`, "skip[1]: got number, want string"},
		{"fs.write", `{"path": "made", "text": "x"`, "this is not JSON"},
	} {
		_, err := run(t, env, c.name, c.in)
		wrong, ok := errors.AsType[*InputError](err)
		require.True(t, ok, "%s: %v", c.in, err)
		require.Equal(t, c.name, wrong.Applet)
		require.ErrorContains(t, err, c.says)
	}
	_, err := env.Root.Read("made")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// LO-910
func TestAnUnknownAppletIsRefusedWithTheNearest(t *testing.T) {
	for name, like := range map[string]string{"fs.raed": "fs.read", "extract.jsn": "extract.json", "patch": "fs.patch", "nothing.like.it": ""} {
		_, err := All().Find(name)
		unknown, ok := errors.AsType[*UnknownError](err)
		require.True(t, ok, name)
		require.Equal(t, UnknownError{Name: name, Nearest: like}, *unknown)
	}
}

// LO-910, LO-919
func TestAppletsAreHeldToTheEnvironment(t *testing.T) {
	for name, in := range map[string]string{"fs.read": `{"path": "x"}`, "fs.list": `{}`, "exec.run": `{"name": "echo"}`, "llm.invoke": `{"model": "m"}`} {
		_, err := run(t, nil, name, in)
		need, ok := errors.AsType[*NeedError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, name, need.Applet)
	}
	env := setup(t)
	env.Guard = guard.New(guard.Rules{Paths: []string{"docs"}, Commands: []string{"echo ok"}})
	for name, in := range map[string]string{
		"fs.read": `{"path": "poem"}`, "fs.write": `{"path": "poem", "text": ""}`, "fs.list": `{}`, "exec.run": `{"name": "echo", "args": ["no"]}`,
		"fs.patch": `{"diff": "--- a/poem\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-one\n-two\n"}`,
	} {
		_, err := run(t, env, name, in)
		_, ok := errors.AsType[*guard.Error](err)
		require.True(t, ok, "%s: %v", name, err)
	}
	env.Guard = guard.New(guard.Rules{Calls: 1, Paths: []string{"docs"}, Commands: []string{"echo ok"}})
	_, err := run(t, env, "llm.invoke", `{"model": "m", "prompt": "x"}`)
	require.NoError(t, err)
	_, err = run(t, env, "llm.invoke", `{"model": "m", "prompt": "x"}`)
	_, ok := errors.AsType[*guard.Error](err)
	require.True(t, ok, "%v", err)
	_, err = run(t, env, "fs.write", `{"path": "docs/x", "text": "x"}`)
	require.NoError(t, err)
	_, err = run(t, env, "exec.run", `{"name": "echo", "args": ["ok", "then"]}`)
	require.NoError(t, err)
	require.NoError(t, env.Root.Write("docs/bytes", []byte{0xff}))
	_, err = run(t, env, "fs.read", `{"path": "docs/bytes"}`)
	require.ErrorContains(t, err, "not text in UTF-8")
}

// What an applet refuses has the type that its package gave it.
//
// LO-910
func TestErrorsKeepTheirTypes(t *testing.T) {
	env := setup(t)
	_, err := run(t, env, "fs.read", `{"path": "../x"}`)
	_, ok := errors.AsType[*fs.OutsideError](err)
	require.True(t, ok, "%v", err)
	_, err = run(t, env, "extract.tag", `{"text": "x", "tag": "a"}`)
	_, ok = errors.AsType[*extract.NotFoundError](err)
	require.True(t, ok, "%v", err)
	_, err = run(t, env, "extract.json", `{"text": "{}", "schema": {"type": 1}}`)
	_, ok = errors.AsType[*schema.InvalidError](err)
	require.True(t, ok, "%v", err)
}

// LO-945
func BenchmarkAnAppletsOwnCost(b *testing.B) {
	a, err := All().Find("extract.tag")
	require.NoError(b, err)
	in := json.RawMessage(`{"text": "It is <answer>forty-two</answer>.", "tag": "answer"}`)
	for b.Loop() {
		if _, err := a.Run(b.Context(), nil, in); err != nil {
			b.Fatal(err)
		}
	}
}
