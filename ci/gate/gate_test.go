// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/ci/step"
)

func targets(stages []step.Stage) (names []string) {
	for _, s := range slices.Concat(stages...) {
		names = append(names, s.Target)
	}
	return names
}

// What is green in the daily loop is green in the gate: the loop has every part of it, and the plain tests besides, which
// are faster than the race detector's.
func TestTheDailyLoopHasEveryPartOfTheGate(t *testing.T) {
	require.ElementsMatch(t, append(targets(whole), unit.Target), targets(loop))
}

// Traceability asks which tests have passed, so that it can only be the last.
func TestTraceabilityComesLast(t *testing.T) {
	require.Equal(t, traced.Target, whole[len(whole)-1][0].Target)
	require.Equal(t, traced.Target, loop[len(loop)-1][0].Target)
}

// What the features and the pacts saw is there when it is held against the API's document.
//
// LO-845
func TestTheDocumentIsCheckedBehindTheSuites(t *testing.T) {
	stage := func(order []step.Stage, target string) int {
		return slices.IndexFunc(order, func(s step.Stage) bool { return slices.Contains(targets([]step.Stage{s}), target) })
	}
	for _, order := range [][]step.Stage{whole, loop} {
		require.Greater(t, stage(order, document.Target), stage(order, bdd.Target))
		require.Greater(t, stage(order, document.Target), stage(order, pacts.Target))
	}
}

// Every package's tests run once in the gate: with all others, or in a suite that runs without the test cache.
func TestSuitesAreStepsOfTheirOwn(t *testing.T) {
	packages := []string{"m", "m/harness/bdd", "m/harness/bddish", "m/harness/metrics/live", "m/harness/pact/libpact", "m/service/app"}
	require.Equal(t, []string{"m", "m/harness/bddish", "m/service/app"}, notSuites("m", packages))
	for _, dir := range suites {
		require.DirExists(t, filepath.Join("..", "..", dir))
	}
}

func TestOnlyFilesWrittenByHandAreFormatted(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	git := func(args ...string) {
		out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	git("init", "-q")
	for _, name := range []string{"kept.go", "gone.go", "new.go", "ignored.go", "gen/made.go", "read.md"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, nil, 0o600))
	}
	require.NoError(t, os.WriteFile(".gitignore", []byte("ignored.go\n"), 0o600))
	git("add", "kept.go", "gone.go", "gen/made.go", "read.md")
	require.NoError(t, os.Remove("gone.go"))
	files, err := goFiles(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"kept.go", "new.go"}, files)
}

func TestFindingsAreListed(t *testing.T) {
	require.NoError(t, findings(nil))
	require.EqualError(t, findings([]string{"one", "two"}), strings.Join([]string{"found:", "one", "two"}, "\n  "))
}
