// SPDX-License-Identifier: GPL-3.0-or-later

package contract

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/harness/tape"
)

// stubs puts programs on the PATH that note how they are called.
func stubs(t *testing.T, npm string) {
	t.Helper()
	bin := t.TempDir()
	for name, script := range map[string]string{"node": "", "npm": npm} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

// The tools are installed once for a lock file. What npm broke off does not count.
//
// LO-845
func TestToolsAreInstalledOnce(t *testing.T) {
	cache := t.TempDir()
	stubs(t, `echo half >made; exit 1`)
	_, err := install(t.Context(), cache)
	require.ErrorContains(t, err, "install the tools with npm")
	left, err := os.ReadDir(cache)
	require.NoError(t, err)
	require.Empty(t, left)

	calls := filepath.Join(t.TempDir(), "calls")
	stubs(t, `test -f package-lock.json && echo "$@" >>`+calls+`; echo whole >made`)
	dir, err := install(t.Context(), cache)
	require.NoError(t, err)
	again, err := install(t.Context(), cache)
	require.NoError(t, err)
	require.Equal(t, dir, again)
	made, err := os.ReadFile(filepath.Join(dir, "made"))
	require.NoError(t, err)
	require.Equal(t, "whole\n", string(made))
	called, err := os.ReadFile(calls)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(called), "\n"))
	require.Contains(t, string(called), "ci --ignore-scripts")
}

// The lock file pins each package by what it holds, and leaves to npm where it comes from.
//
// LO-845
func TestTheLockNamesNoRegistry(t *testing.T) {
	var read struct {
		Packages map[string]struct{ Version, Resolved, Integrity string }
	}
	require.NoError(t, json.Unmarshal(lock, &read))
	require.Greater(t, len(read.Packages), 3)
	for name, p := range read.Packages {
		require.Empty(t, p.Resolved, name)
		require.True(t, name == "" || p.Version != "" && p.Integrity != "", name)
	}
	var wanted struct{ Dependencies map[string]string }
	require.NoError(t, json.Unmarshal(packages, &wanted))
	for name, version := range wanted.Dependencies {
		require.Equal(t, version, read.Packages["node_modules/"+name].Version, name)
	}
}

// A suite records where the context says so, and only as long as it runs.
//
// LO-845
func TestASuiteIsRecorded(t *testing.T) {
	t.Setenv(tape.Env, "")
	var seen []string
	suite := Recorded(func(context.Context, *tally.Tally) error {
		seen = append(seen, os.Getenv(tape.Env))
		return nil
	})
	require.NoError(t, suite(t.Context(), tally.New()))
	ctx, done, err := Recording(t.Context())
	require.NoError(t, err)
	require.NoError(t, suite(ctx, tally.New()))
	require.Empty(t, seen[0])
	require.DirExists(t, seen[1])
	require.Empty(t, os.Getenv(tape.Env))
	done()
	require.NoDirExists(t, seen[1])
}
