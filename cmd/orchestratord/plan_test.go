// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3200, LO-847
func TestPlanPrintsAndDoesNothing(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("PATH", t.TempDir())
	config := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(config, []byte(`data_dir: /nowhere
pools:
- {id: built, model: {ref: file:a.gguf}, provisioning: {mode: source}}
- {id: boxed, model: {ref: file:a.gguf}, device: cpu, provisioning: {mode: container, image: "llama:server"}}
`), 0o600))
	first, code := output(t, "plan", "--config", config)
	require.Zero(t, code)
	again, _ := output(t, "plan", "--config", config)
	require.Equal(t, first, again)
	require.Contains(t, first, "pool built: mode source\n  needs: npm, git, cmake, ninja, c++\n")
	require.Contains(t, first, "missing on this machine: docker. Debian: apt-get install -y docker.io; Arch: pacman -S --needed docker\n")
	require.NoDirExists(t, cache)

	text, code := output(t, "plan", "--config", config, "--pool", "boxed", "--json")
	require.Zero(t, code)
	var views []struct {
		PoolID  string `json:"pool_id"`
		Mode    string
		Missing string
		Launch  struct{ Argv []string }
		Steps   []struct{ Do string }
	}
	require.NoError(t, json.Unmarshal([]byte(text), &views))
	require.Len(t, views, 1)
	require.Equal(t, "boxed", views[0].PoolID)
	require.Contains(t, views[0].Missing, "pacman -S --needed docker")
	require.Contains(t, views[0].Launch.Argv, "127.0.0.1:{port}:8080")
	require.Equal(t, "allow", views[0].Steps[0].Do)

	// A program that is not there is missing like a tool (LO-847).
	dir := t.TempDir()
	there := filepath.Join(dir, "llama-server")
	require.NoError(t, os.WriteFile(there, []byte("#!/bin/sh\n"), 0o700))
	for path, says := range map[string]string{there: "", filepath.Join(dir, "none"): "correct `provisioning.path`", "llama-server": "correct `provisioning.path`"} {
		require.NoError(t, os.WriteFile(config, []byte("pools: [{id: own, model: {ref: file:a.gguf}, provisioning: {mode: binary, path: "+path+"}}]\n"), 0o600))
		text, code := output(t, "plan", "--config", config)
		require.Zero(t, code)
		require.Equal(t, says != "", strings.Contains(text, "missing on this machine: the program"), text)
		require.Contains(t, text, says)
	}

	_, code = output(t, "plan", "--config", config, "--pool", "other")
	require.Equal(t, exitUsage, code)
	_, code = output(t, "plan")
	require.Equal(t, exitUsage, code)
	require.NoError(t, os.WriteFile(config, []byte("data_dir: /nowhere\npools: [{id: a, model: {ref: file:a.gguf}, provisioning: {mode: source, repository: /nowhere/x}}]\n"), 0o600))
	_, code = output(t, "plan", "--config", config)
	require.Equal(t, exitUsage, code)
}
