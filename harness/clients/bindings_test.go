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

// What `llama-orch bindings ts` writes of a real server goes with the types that openapi-typescript makes of the API's document, and TypeScript's compiler
// refuses a model that the server does not have.
//
// LO-934
func TestBindingsForTypeScriptCompile(t *testing.T) {
	tools := os.Getenv("LLORCH_CLIENTS")
	require.NotEmpty(t, tools, "these tests need TypeScript from npm: run `go tool mage clients`")
	env := serve(t)
	dir := t.TempDir()
	require.NoError(t, process.Build(t.Context(), "../..", dir, "./cmd/llama-orch"))
	modules := filepath.Join(tools, "node_modules")
	node := filepath.Join(modules, ".bin", "node")
	run := func(name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = dir, env
		for _, v := range env {
			if base, is := strings.CutPrefix(v, "LLORCH_BASE="); is {
				cmd.Env = append(cmd.Env, "LLORCH_ADDR="+base)
			}
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	document, err := filepath.Abs("../../contracts/openapi/openapi.yaml")
	require.NoError(t, err)
	for _, step := range [][]string{
		{filepath.Join(dir, "llama-orch"), "bindings", "ts", "-o", "served.ts"},
		{node, filepath.Join(modules, "openapi-typescript", "bin", "cli.js"), document, "-o", "api.ts"},
	} {
		out, err := run(step[0], step[1:]...)
		require.NoError(t, err, out)
	}
	compiles := func(name, use string) (string, error) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(`import { pools, models, features, isModel, type Model, type PoolID } from "./served";
import type { components } from "./api";
type Request = components["schemas"]["TaskRequest"];
`+use), 0o600))
		return run(node, filepath.Join(modules, "typescript", "bin", "tsc"), "--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler", name)
	}
	out, err := compiles("right.ts", `
const model: Model = "slow-haiku";
const pool: PoolID = "fast";
const request: Partial<Request> = { model_ref: model, prompt: "p", placement: { mode: "pin", pool_id: pool } };
const slots: number = pools.fast.slots + models.length + features.length;
export function chosen(name: string): Model { return isModel(name) ? name : pools.slow.model; }
export default [request, slots];
`)
	require.NoError(t, err, out)
	for _, wrong := range []string{`export const model: Model = "gpt-4o";`, `export const slots = pools.fats.slots;`, `export const request: Partial<Request> = { model_ref: 5 };`} {
		out, err := compiles("wrong.ts", wrong)
		require.Error(t, err, wrong)
		require.Contains(t, out, "wrong.ts(4,", wrong)
	}
}
