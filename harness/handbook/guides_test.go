// SPDX-License-Identifier: GPL-3.0-or-later

package handbook_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
)

// blocks are all blocks of a language in a document.
func blocks(t *testing.T, file, language string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	require.NoError(t, err)
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		if m[1] == language {
			all = append(all, m[2])
		}
	}
	require.NotEmpty(t, all, "%s has no block of %s", file, language)
	return all
}

// The blocks of each guide run one after the other in one shell, as somebody would paste them, and nothing in them is refused.
//
// LO-648
func TestTheGuides(t *testing.T) {
	for _, file := range []string{".docs/api.md", ".docs/own-model.md"} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			p := newPlace(t)
			p.up(t)
			out, errs, err := p.paste(t, "set -o pipefail\n"+strings.Join(blocks(t, file, "bash"), "\n"))
			require.NoError(t, err, "%s\n%s", out, errs)
			require.NotEmpty(t, out)
			require.NotRegexp(t, `(?m)^(data: )?\{"(code|error)":`, out, "it is a refusal")
		})
	}
}

// The configurations in the guides are taken as they are, on a machine that has the engine which they name.
//
// LO-648
func TestTheConfigurationsOfTheGuides(t *testing.T) {
	p := newPlace(t)
	tools := filepath.Join(p.dir, "tools")
	require.NoError(t, os.Mkdir(tools, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(tools, "llama-server"), []byte("#!/bin/sh\n"), 0o755))
	p.env = append(p.env, "PATH="+tools+":"+os.Getenv("PATH"))
	for _, file := range []string{".docs/own-model.md"} {
		for i, config := range blocks(t, file, "yaml") {
			name := filepath.Join(p.dir, fmt.Sprintf("guide-%d.yaml", i))
			require.NoError(t, os.WriteFile(name, []byte(config), 0o600))
			out, errs, err := p.paste(t, "bin/orchestratord check --config "+name)
			require.NoError(t, err, "%s\n%s\n%s", file, out, errs)
			require.Contains(t, out, "would serve", file)
		}
	}
}

// The guide to the API has each path of the contract, in a command or beside one, and each dialect.
//
// LO-648
func TestTheGuideHasEachPath(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join(root, ".docs/api.md"))
	require.NoError(t, err)
	contract, err := os.ReadFile(filepath.Join(root, "contracts/openapi/openapi.yaml"))
	require.NoError(t, err)
	paths := regexp.MustCompile(`(?m)^  (/[^:]*):$`).FindAllStringSubmatch(string(contract), -1)
	require.Greater(t, len(paths), 30, "the search is broken")
	for _, p := range paths {
		shape := regexp.MustCompile(`\\{[^}]*\\}`).ReplaceAllString(regexp.QuoteMeta(p[1]), `[$$A-Za-z0-9_-]+`)
		require.Regexp(t, shape+`([^A-Za-z/]|$)`, string(guide), "api.md leaves out "+p[1])
	}
	for _, path := range []string{
		"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/rerank", "/v1/models", "/v1/files", "/v1/batches",
		"/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches", "/api/chat", "/api/generate", "/api/tags", "/api/ps", "/api/show", "/errors",
	} {
		require.Contains(t, string(guide), path)
	}
}

// The handbook has the constructor of each SDK, word for word as the suite of the clients calls it.
//
// LO-420, LO-648
func TestTheHandbookHasTheSDKs(t *testing.T) {
	handbook, err := os.ReadFile(filepath.Join(root, ".docs/fronts.md"))
	require.NoError(t, err)
	const base = "http://127.0.0.1:8080"
	plain := strings.NewReplacer("`${s.base}/v1`", `"`+base+`/v1"`, "s.base", `"`+base+`"`, `base+"/v1"`, `"`+base+`/v1"`, "(base)", `("`+base+`")`, ", ...more", "", "sk-any", "any")
	for file, calls := range map[string]string{
		"programs/openai.mjs": `new OpenAI\(\{.*?\}\)`, "programs/anthropic.mjs": `new Anthropic\(\{.*?\}\)`, "programs/ollama.mjs": `new Ollama\(\{.*?\}\)`,
		"programs/vercel.mjs": `const settings = .*|create\w+\((settings|\{.*\})\)`, "gosdk/openai.go": `openai\.NewClient\(.*\)`, "gosdk/anthropic.go": `anthropic\.NewClient\(.*\)`,
		"gosdk/ollama.go": `api\.NewClient\(.*\)`,
	} {
		program, err := os.ReadFile(filepath.Join(root, "harness/clients", file))
		require.NoError(t, err)
		found := regexp.MustCompile(calls).FindAllString(plain.Replace(string(program)), -1)
		require.NotEmpty(t, found, file)
		for _, call := range found {
			require.Contains(t, string(handbook), "    "+call, file)
		}
	}
}

// The notes on upgrades are of this version.
//
// LO-648
func TestTheNotesOnUpgrades(t *testing.T) {
	notes, err := os.ReadFile(filepath.Join(root, ".docs/operations.md"))
	require.NoError(t, err)
	require.Contains(t, string(notes), fmt.Sprintf("the ledger's schema is %d.", sqlite.Schema()))
}
