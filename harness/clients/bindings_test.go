// SPDX-License-Identifier: GPL-3.0-or-later

package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/process"
)

// bound is what a program that uses the bindings tries.
var bound = []string{
	"a task and its receipt", "a stream goes on behind an event", "a loop that is left cancels", "refusals are typed", "the other planes",
	"a stream survives a kill",
}

// What `llama-orch bindings` writes of a real server is compiled, or checked by pyright, and used: tasks, streams that go on after a kill of the server,
// cancels, refusals. A name that the server does not have is found without running it.
//
// LO-934, LO-946, LO-947
func TestBindings(t *testing.T) {
	tools := os.Getenv("LLORCH_CLIENTS")
	require.NotEmpty(t, tools, "these tests need TypeScript and pyright from npm: run `go tool mage clients`")
	env := serve(t)
	for _, v := range env {
		if base, is := strings.CutPrefix(v, "LLORCH_BASE="); is {
			env = append(env, "LLORCH_ADDR="+base)
		}
	}
	dir := t.TempDir()
	require.NoError(t, process.Build(t.Context(), "../..", dir, "./cmd/llama-orch"))
	modules := filepath.Join(tools, "node_modules")
	require.NoError(t, os.Symlink(modules, filepath.Join(dir, "node_modules"))) // a program's imports are looked for beside it
	node := filepath.Join(modules, ".bin", "node")
	run := func(command ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, language := range []struct {
		name, file   string
		check, start []string
		wrong        []string
	}{
		{
			name: "ts", file: "served.ts",
			check: []string{
				node, filepath.Join(modules, "typescript", "bin", "tsc"), "--strict", "--noUncheckedIndexedAccess", "--target", "es2022", "--module", "nodenext",
			},
			start: []string{node, "bindings.js"},
			wrong: []string{
				`import { type Model } from "./served.js"; export const model: Model = "gpt-4o";`,
				`import { pools } from "./served.js"; export const slots = pools.fats.slots;`,
				`import { Client } from "./served.js"; void new Client().api.POST("/v1/tasks", { body: { model_ref: "gpt-4o" } });`,
				`import { Client } from "./served.js"; void new Client().api.GET("/v1/pools/{id}/health", { params: { path: { id: "fats" } } });`,
			},
		},
		{
			name: "python", file: "served.py",
			check: []string{node, filepath.Join(modules, "pyright", "index.js"), "--pythonversion", "3.9"},
			start: []string{"python3", "bindings.py"},
			wrong: []string{
				`import served; model: served.Model = "gpt-4o"`,
				`import served; served.Client().create_task({"model_ref": "gpt-4o"})`,
				`import served; served.Client().get_pool_health("fats")`,
				`import served; print([e.data["t"] for e in served.Client().stream_task("t")])`,
			},
		},
	} {
		t.Run(language.name, func(t *testing.T) {
			out, err := run(filepath.Join(dir, "llama-orch"), "bindings", language.name, "-o", language.file)
			require.NoError(t, err, out)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"type": "module"}`), 0o600))
			ending := filepath.Ext(language.file)
			program, err := os.ReadFile(filepath.Join("programs", "bindings"+ending))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "bindings"+ending), program, 0o600))
			out, err = run(append(language.check, "bindings"+ending, language.file)...)
			require.NoError(t, err, out)
			var files []string
			for i, text := range language.wrong {
				files = append(files, "wrong"+string(rune('a'+i))+ending)
				require.NoError(t, os.WriteFile(filepath.Join(dir, files[i]), []byte(text+"\n"), 0o600))
			}
			out, err = run(append(language.check, files...)...)
			require.Error(t, err)
			for i, file := range files {
				require.Contains(t, out, file, language.wrong[i])
			}
			got := play(t, in(dir, language.start), env)
			for _, name := range bound {
				require.Contains(t, got, name, "the program ended before this case did")
				require.True(t, got[name].OK, got[name].Detail)
			}
			require.Len(t, got, len(bound))
		})
	}
}

// in names a command's file by its folder.
func in(dir string, command []string) []string {
	return []string{command[0], filepath.Join(dir, command[1])}
}
