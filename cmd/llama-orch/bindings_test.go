// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// manifold is a server with names that no language has, and that are one name where letters alone count.
func manifold(t *testing.T) string {
	d := newDaemon()
	chat := pool("a.b", "org/Llama-3.2:3b", gen.WorkloadCompletion)
	chat.Features = gen.ChatFeatures{gen.ChatFeaturesItemTools, gen.ChatFeaturesItemImages}
	d.pools = append(d.pools, chat, pool("a-b", "org/Llama-3-2:3b", gen.WorkloadCompletion), pool("9", "models", gen.WorkloadRerank))
	return d.serve(t)
}

// bindings are what the program writes for a language.
func bindings(t *testing.T, language, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	got := call(t.Context(), manifold(t), "", "bindings", language, "-o", file)
	require.Zero(t, got.code, got.err)
	printed := call(t.Context(), manifold(t), "", "bindings", language)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, printed.out, string(text), "the same server gives the same file")
	return file
}

func runs(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// LO-934
func TestBindingsForGoCompile(t *testing.T) {
	t.Parallel()
	file := bindings(t, "go", "served.go")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(text), `ModelOrgLlama3_2_3b   = "org/Llama-3-2:3b"`)
	require.Contains(t, string(text), `ModelOrgLlama3_2_3b_2 = "org/Llama-3.2:3b"`)
	require.Regexp(t, `PoolAB: +\{Model: "org/Llama-3-2:3b"`, string(text))
	use := filepath.Join(filepath.Dir(file), "use.go")
	require.NoError(t, os.WriteFile(use, []byte(`package served

import "github.com/llama-orch/llama-orch/sdk"

var Request = sdk.TaskRequest{ModelRef: ModelHaiku, Placement: &sdk.PlacementWish{PoolID: PoolDefault}}

var slots = Pools()[PoolDefault].Slots + len(Models()) + len(Features()) + len(FeatureReceipts)
`), 0o600))
	runs(t, ".", "go", "vet", file, use)
	got := call(t.Context(), manifold(t), "", "bindings", "go", "--package", "func")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.err, `"func" cannot be the name of a package`)
}

// LO-934
func TestBindingsForPythonRun(t *testing.T) {
	t.Parallel()
	file := bindings(t, "python", "served.py")
	out := runs(t, filepath.Dir(file), "python3", "-c",
		"import served; served.Client('http://127.0.0.1:1').close(); p = served.POOLS['a.b']; print(p.model, p.features, served.MODEL_HAIKU, served.MODEL_ORG_LLAMA_3_2_3B_2, len(served.MODELS), served.FEATURES, served.API_VERSION)")
	require.Equal(t, "org/Llama-3.2:3b ('images', 'tools') haiku org/Llama-3.2:3b 5 ('receipts', 'stream_resume') 1.0.0\n", out)
}

// Python's client has a method for each operation of the contract.
//
// LO-946
func TestPythonHasEveryOperation(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../contracts/openapi/openapi.yaml")
	require.NoError(t, err)
	out := runs(t, filepath.Dir(bindings(t, "python", "served.py")), "python3", "-c", "import served; print(*(n for n in dir(served.Client) if n[0] != '_'))")
	var wanted []string
	for _, m := range regexp.MustCompile(`(?m)^      operationId: (\w+)$`).FindAllStringSubmatch(string(document), -1) {
		wanted = append(wanted, strings.ToLower(regexp.MustCompile(`[A-Z]`).ReplaceAllString(m[1], "_$0")))
	}
	require.Greater(t, len(wanted), 30)
	require.ElementsMatch(t, append(wanted, "close", "run"), strings.Fields(out))
}

// What TypeScript's compiler says of them is tried in harness/clients, which has it.
//
// LO-934
func TestBindingsForTypeScript(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(bindings(t, "ts", "served.ts"))
	require.NoError(t, err)
	require.Contains(t, string(text), `export const models = ["embedder", "haiku", "models", "org/Llama-3-2:3b", "org/Llama-3.2:3b"] as const;`)
	require.Contains(t, string(text), `export type ChatFeature = "images" | "tools";`)
	require.Contains(t, string(text), `PoolID: PoolID;`)
	require.Contains(t, string(text), `"a.b": { model: "org/Llama-3.2:3b", engine: "llamacpp", workload: "completion"`)
}
