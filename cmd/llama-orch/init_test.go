// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
)

// home is a user's folder with one model, and a program that passes for a llama-server.
func home(t *testing.T) (env map[string]string, file string) {
	t.Helper()
	dir := t.TempDir()
	weights, err := os.ReadFile("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	for name, text := range map[string]string{"models/My Model.gguf": string(weights), "models/broken.gguf": "GGUF", "bin/llama-server": "#!/bin/sh\nexit 1\n"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	}
	return map[string]string{"HOME": dir, "PATH": filepath.Join(dir, "bin"), "OLLAMA_MODELS": filepath.Join(dir, "none"), addrEnv: "http://127.0.0.1:1"}, filepath.Join(dir, "llama-orch.yaml")
}

// LO-930
func TestInitWritesAConfiguration(t *testing.T) {
	t.Parallel()
	env, file := home(t)
	got := callWith(t.Context(), env, "", "init", "-o", file)
	require.Zero(t, got.code, got.err)
	require.Regexp(t, `(?m)^my-model +my-model +\S+ +256 +pinned$`, got.out)
	require.Contains(t, got.out, "Written: "+file)
	require.Contains(t, got.err, "left out: "+filepath.Join(env["HOME"], "models", "broken.gguf")+": read the model's header")
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	c, err := config.Load(file, func(key string) string { return env[key] })
	require.NoError(t, err)
	require.NoError(t, c.Check())

	again := callWith(t.Context(), env, "", "init", "-o", file)
	require.Equal(t, exitUsage, again.code)
	require.Contains(t, again.err, "is there already, and stays as it is: name another file with --output")
	after, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, written, after)
	require.Zero(t, callWith(t.Context(), env, "", "init", "-o", file, "--force").code)

	printed := callWith(t.Context(), env, "", "init", "-o", "-")
	require.Zero(t, printed.code, printed.err)
	require.Equal(t, string(written), printed.out)

	inJSON := callWith(t.Context(), env, "", "init", "-o", file, "--force", "--json")
	require.Zero(t, inJSON.code, inJSON.err)
	require.Empty(t, inJSON.err)
	var report struct {
		File    string
		Pools   []poolReport
		LeftOut []struct{ What, Why string } `json:"left_out"`
	}
	require.NoError(t, json.Unmarshal([]byte(inJSON.out), &report))
	require.Equal(t, file, report.File)
	require.Len(t, report.LeftOut, 1)
	require.Equal(t, "my-model", report.Pools[0].Model)
	require.NotEmpty(t, report.Pools[0].Why)
}

// LO-930, LO-931
func TestInitSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	env, file := home(t)
	for _, c := range []struct {
		args, stdin, want string
		code              int
	}{
		{"init FILE", "", "with --from llama-swap, and only then", exitUsage},
		{"init --from llama-swap", "", "with --from llama-swap, and only then", exitUsage},
		{"init --from ollama FILE", "", "only then", exitUsage},
		{"init --from docker", "", "must be one of", exitUsage},
		{"init --models /no/such/folder", "", "/no/such/folder is no folder", exitUsage},
		{"init --from llama-swap /no/such/file", "", "no such file", exitUsage},
		{"init --from llama-swap -", "models: [", "it is no configuration of llama-swap", exitFailed},
		{"init --from llama-swap -", "models: {a: {cmd: sh}}", "left out: a: its program, sh, is no llama-server", exitFailed},
		{"init --from ollama", "", "there is no model to serve: looked in " + env["OLLAMA_MODELS"], exitFailed},
		{"init -o /no/such/folder/c.yaml", "", "no such file or directory", exitFailed},
	} {
		args := strings.Fields(c.args)
		if !strings.Contains(c.args, " -o ") {
			args = append(args, "-o", file)
		}
		got := callWith(t.Context(), env, c.stdin, args...)
		require.Equal(t, c.code, got.code, "%s: %s", c.args, got.err)
		require.Contains(t, got.err, c.want, c.args)
		require.NoFileExists(t, file)
	}
}

// LO-931
func TestInitFromLlamaSwap(t *testing.T) {
	t.Parallel()
	env, file := home(t)
	env["PATH"] = os.Getenv("PATH")
	swap := filepath.Join(env["HOME"], "models", "config.yaml")
	require.NoError(t, os.WriteFile(swap, []byte("apiKeys: [x]\nmodels:\n  mine: {cmd: \"../bin/llama-server --port ${PORT} -m 'My Model.gguf' -c 128\", aliases: [gpt-4o]}\n"), 0o600))
	got := callWith(t.Context(), env, "", "init", "--from", "llama-swap", swap, "-o", file)
	require.Zero(t, got.code, got.err)
	require.Contains(t, got.err, "left out: apiKeys: there is one API token")
	c, err := config.Load(file, func(key string) string { return env[key] })
	require.NoError(t, err)
	require.Equal(t, 128, c.Pools[0].Ctx)
	require.Equal(t, "mine", c.Aliases["gpt-4o"].Model)
}
