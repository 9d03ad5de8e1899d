// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// ORCH-3200: what is there is not fetched, and what cannot be fetched says what to install.
func TestLibrariesAreFetchedByACommand(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	t.Setenv(provision.EnvEngineLibs, "")
	for _, args := range [][]string{{"libs"}, {"libs", "--cuda"}} {
		require.Equal(t, exitFailure, run(args))
	}
	require.ErrorContains(t, libsCmd{}.Run(), "npm")
	dir := t.TempDir()
	for _, name := range []string{"libllama.so", "libggml.so", "libggml-base.so"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	t.Setenv(provision.EnvEngineLibs, dir)
	require.Zero(t, run([]string{"libs"}))
}
