// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/ci/tally"
)

func TestTheProofHasWhatWasPrinted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "output.log")
	stdout := os.Stdout
	untee, err := teeOutput(path)
	require.NoError(t, err)
	fmt.Println("by this process")
	child := exec.CommandContext(t.Context(), "echo", "by a child")
	child.Stdout = os.Stdout
	require.NoError(t, child.Run())
	untee()
	require.Equal(t, stdout, os.Stdout)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "by this process\nby a child\n", string(text))
}

func TestTheProofSaysWhatWasTestedAndHowItEnded(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "pacts"), 0o755))
	all := tally.New()
	all.Fail("step lint")
	require.NoError(t, describe(t.Context(), dir, all))

	summary, err := os.ReadFile(filepath.Join(dir, "summary.txt"))
	require.NoError(t, err)
	require.Contains(t, string(summary), "go      go version go")
	require.True(t, strings.HasSuffix(string(summary), "failed:\nstep lint\n0 passed, 1 failed\n"), "%s", summary)
	for _, name := range []string{"stages.md", "spec-derived-test-catalog.md"} {
		require.FileExists(t, filepath.Join(dir, name))
	}
	pacts, err := filepath.Glob(filepath.Join(dir, "pacts", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, pacts)
}
