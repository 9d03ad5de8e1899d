// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// GetMetrics implements gen.Handler.
func (d *daemon) GetMetrics(_ context.Context, w http.ResponseWriter) error {
	_, err := io.WriteString(w, "# TYPE a counter\na{pool_id=\"default\",who=\"PLANTED\"} 3\n")
	return err
}

// LO-633: whatever is planted, in the configuration, in the environment and in what the server says, is not in the report; what helps is.
func TestAReportHasNothingSecret(t *testing.T) {
	planted := []string{
		"PLANTED", "hf_Zk3JqT9wLmXv", "hunter2hunter2", "sesame-open", "/home/alice", "alice@", "private-lab.example", "8271659304", "tok-in-file", "Bearer s3cr3tb34r3r", "s3cr3tb34r3r",
		"0123456789abcdef0123456789abcdef0123456789abcdef", "behind-the-equals", "behind-a-blank", "Tell me of my illness", "ngx7", "192.168.7.3", "fd00::7", "family-alias", "my-style", "prod_cluster",
	}
	t.Setenv("HF_TOKEN", "tok-in-file")
	d := newDaemon()
	said := "exit status 7: GET https://alice:hunter2hunter2@hub/m.gguf?sig=PLANTED said Bearer s3cr3tb34r3r for /home/alice/m.gguf, " +
		"token=sesame-open, with hf_Zk3JqT9wLmXv and 0123456789abcdef0123456789abcdef0123456789abcdef, by behind-the-equals, --hf-token behind-a-blank, of 192.168.7.3 and [fd00::7]:80 and 127.0.0.1; " +
		"its last words: slot 0: prompt: Tell me of my illness | ngx7"
	d.health = func(id gen.PoolID) gen.PoolHealth {
		h := healthy(id)
		h.Pool.ReplicasReady, h.Pool.Ready = 0, false
		h.Pool.LastError.SetTo(said)
		return h
	}
	d.pools[0].LastError.SetTo(said)
	dir := t.TempDir()
	config := filepath.Join(dir, "c.yaml")
	require.NoError(t, os.WriteFile(config, []byte(`
bind_addr: private-lab.example:8080
data_dir: /home/alice/state
auth: {token_env: PLANTED_ENV, optional_on_loopback: true}
cors: {origins: ["https://private-lab.example"]}
catalog: {trust: {mode: strict, keys: [PLANTED]}}
aliases: {family-alias: {model: PLANTED}}
made_up: {key: 8271659304, token: tok-in-file}
prod_cluster: true
sampler_profiles: {my-style: {temperature: 0.8}}
pools:
  - id: main
    model: {id: m, ref: "hf:PLANTED/m.gguf"}
    device: [0, 1]
    ctx: 4096
    timeouts: {wall: 30m}
    provisioning: {mode: binary, path: /home/alice/bin/llama-server, args: [--api-key, 8271659304, hunter2hunter2, --api-key=behind-the-equals]}
`), 0o600))
	file := filepath.Join(dir, "report.json")
	got := callWith(t.Context(), map[string]string{addrEnv: d.serve(t), "HOME": "/home/alice", "USER": "alice@", tokenEnv: "sesame-open"}, "", "doctor", "--config", config, "--report", file)
	require.Contains(t, got.err, "Read it before you send it.")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, secret := range planted {
		require.NotContains(t, string(text), secret)
	}
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	var r struct {
		Server   string `json:"server_version"`
		Kernel   string
		Findings []finding
		Pools    []poolFact
		GPUs     []map[string]any
		Metrics  []string
		Config   map[string]any
	}
	require.NoError(t, json.Unmarshal(text, &r))
	require.NotEmpty(t, r.Server)
	require.NotEmpty(t, r.Kernel)
	require.NotEmpty(t, r.Findings)
	require.Len(t, r.GPUs, 2)
	require.Equal(t, []string{`a{pool_id="default",who="(left-out)"} 3`}, r.Metrics)
	require.Equal(t, "default", r.Pools[0].ID)
	require.Contains(t, r.Pools[0].LastError, "exit status 7: GET https://hub/m.gguf said Bearer (left-out) for ~/m.gguf, token=(left-out), with (left-out) and (left-out), by (left-out), "+
		"--hf-token (left-out), of (address) and [(address)]:80 and 127.0.0.1; its last words: (left-out)")
	pool := r.Config["pools"].([]any)[0].(map[string]any)
	require.Equal(t, []any{0.0, 1.0}, pool["device"])
	require.InDelta(t, 4096, pool["ctx"], 0)
	require.Equal(t, map[string]any{"wall": "30m"}, pool["timeouts"])
	require.Equal(t, map[string]any{"(name-1)": map[string]any{"temperature": 0.8}}, r.Config["sampler_profiles"])
	require.Equal(t, map[string]any{"mode": "binary", "path": leftOut, "args": []any{leftOut, leftOut, leftOut, leftOut}}, pool["provisioning"])
}

// LO-633: without a configuration too, and from a server that is elsewhere.
func TestAReportNamesNoMachine(t *testing.T) {
	t.Parallel()
	s := newScrubber(func(name string) string { return map[string]string{"USER": "al"}[name] }, nil, []string{"gpu-box.lan"})
	require.Equal(t, "the server is on (left-out); (user) and (user), not all; fe80 at 12:30:05", s.text("the server is on gpu-box.lan; al and Al, not all; fe80 at 12:30:05"))
	file := filepath.Join(t.TempDir(), "report.json")
	got := callWith(t.Context(), map[string]string{addrEnv: "http://closet-server.invalid:1", "HOME": t.TempDir()}, "", "doctor", "--report", file)
	require.Equal(t, exitFailed, got.code)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NotContains(t, string(text), "closet-server")
}

// LO-633: an engine's own words are found by what process puts before them.
func TestTheWordsBeforeAnEnginesOwn(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../service/fleet/process/process.go")
	require.NoError(t, err)
	for _, mark := range []string{"it said: ", "its last words: "} {
		require.Contains(t, string(text), `"; `+mark+`"`)
		require.Equal(t, "it ended (exit status 1); "+mark+leftOut, scrubber{words: strings.NewReplacer()}.text("it ended (exit status 1); "+mark+"a secret\nprompt"))
	}
}

// LO-633: a report is needed most where nothing answers.
func TestAReportOfAServerThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "report.json")
	got := callWith(t.Context(), map[string]string{addrEnv: "http://127.0.0.1:1", "HOME": t.TempDir()}, "", "doctor", "--report", file)
	require.Equal(t, exitFailed, got.code)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(text), `"check": "server"`)
}

// LO-633: the names whose values stay are those that the schema gives figures, switches, durations and closed lists; all else is free text.
func TestThePlainNamesAreTheSchemas(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../contracts/config-schema/config.schema.json")
	require.NoError(t, err)
	var schema map[string]any
	require.NoError(t, json.Unmarshal(text, &schema))
	plain, free, names, mades := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	var look func(name string, node any) bool
	look = func(name string, node any) (known bool) {
		of, _ := node.(map[string]any)
		pattern, _ := of["pattern"].(string)
		switch of["type"] {
		case "integer", "number", "boolean":
			known = true
		case "string":
			_, listed := of["enum"]
			known = listed || strings.Contains(pattern, "(ms|s|m|h)") || strings.Contains(pattern, "MiB")
			if !known {
				free[name] = true
			}
		}
		for _, one := range []string{"oneOf", "anyOf"} {
			list, _ := of[one].([]any)
			for _, choice := range list {
				known = look(name, choice) || known
			}
		}
		known = of["items"] != nil && look(name, of["items"]) || known
		properties, _ := of["properties"].(map[string]any)
		for below, node := range properties {
			names[below] = true
			if look(below, node) {
				plain[below] = true
			}
		}
		if more, ok := of["additionalProperties"].(map[string]any); ok {
			mades[name] = true
			look("", more)
		}
		definitions, _ := of["$defs"].(map[string]any)
		for _, node := range definitions {
			look("", node)
		}
		return known
	}
	look("", schema)
	var want []string
	for name := range plain {
		if !free[name] {
			want = append(want, name)
		}
	}
	var all []string
	for name := range names {
		if !slices.Contains(plainNames, name) {
			all = append(all, name)
		}
	}
	require.ElementsMatch(t, all, otherNames, "a setting was added or is gone: put its name into otherNames (report.go), or take it out")
	require.True(t, slices.IsSorted(otherNames))
	require.ElementsMatch(t, slices.Sorted(maps.Keys(mades)), namedByUsers, "a setting whose keys are free was added or is gone")
	require.ElementsMatch(t, want, plainNames, "a setting was added or is gone: put its name into plainNames (report.go), or take it out")
	require.NotContains(t, plainNames, "args")
	require.True(t, slices.IsSorted(plainNames))
}

// LO-633: the values of free labels go, and zeros and comments with them.
func TestMetricsOfAReport(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{`a{pool_id="p",who="(left-out)"} 3`}, plainFigures("# HELP a b\na{pool_id=\"p\",who=\"al\\\"ice\"} 3\nb 0\n"))
}
