// SPDX-License-Identifier: GPL-3.0-or-later

package npm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var set = Set{Name: "tools", Needs: "the tests", Packages: []byte("{}"), Lock: []byte("{}")}

// stubs puts programs on the PATH that note how they are called.
func stubs(t *testing.T, npm string) {
	t.Helper()
	bin := t.TempDir()
	for name, script := range map[string]string{"node": "", "npm": npm} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

// A set is installed once for a lock file. What npm broke off does not count.
//
// LO-845
func TestASetIsInstalledOnce(t *testing.T) {
	cache := t.TempDir()
	stubs(t, `echo half >made; exit 1`)
	_, err := set.install(t.Context(), cache)
	require.ErrorContains(t, err, "install tools with npm")
	left, err := os.ReadDir(cache)
	require.NoError(t, err)
	require.Empty(t, left)

	calls := filepath.Join(t.TempDir(), "calls")
	stubs(t, `test -f package-lock.json && echo "$@" >>`+calls+`; echo whole >made`)
	dir, err := set.install(t.Context(), cache)
	require.NoError(t, err)
	again, err := set.install(t.Context(), cache)
	require.NoError(t, err)
	require.Equal(t, dir, again)
	made, err := os.ReadFile(filepath.Join(dir, "made"))
	require.NoError(t, err)
	require.Equal(t, "whole\n", string(made))
	called, err := os.ReadFile(calls)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(called), "\n"))
	require.Contains(t, string(called), "ci --ignore-scripts")

	partial := set
	partial.Partial = true
	_, err = partial.install(t.Context(), t.TempDir())
	require.NoError(t, err)
	called, err = os.ReadFile(calls)
	require.NoError(t, err)
	require.Contains(t, string(called), "\ninstall --ignore-scripts")
}

// Where npm is missing, the error says what it is needed for.
//
// LO-845
func TestWithoutNPM(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := set.install(t.Context(), t.TempDir())
	require.EqualError(t, err, "the tests need node: install it (Debian: apt-get install -y npm)")
}

// The lock files pin each package by what it holds, and leave to npm where it comes from.
//
// LO-845
func TestTheLocksNameNoRegistry(t *testing.T) {
	for _, name := range []string{"contract", "clients", "agents"} {
		t.Run(name, func(t *testing.T) {
			var lock struct {
				Packages map[string]struct{ Version, Resolved, Integrity string }
			}
			var wanted struct{ Dependencies map[string]string }
			for file, into := range map[string]any{"package-lock.json": &lock, "package.json": &wanted} {
				data, err := os.ReadFile(filepath.Join("..", name, file))
				require.NoError(t, err)
				require.NoError(t, json.Unmarshal(data, into))
			}
			require.Greater(t, len(lock.Packages), 3)
			for name, p := range lock.Packages {
				require.Empty(t, p.Resolved, name)
				require.True(t, name == "" || p.Version != "" && p.Integrity != "", name)
			}
			for name, version := range wanted.Dependencies {
				require.Equal(t, version, lock.Packages["node_modules/"+name].Version, name)
			}
		})
	}
}
