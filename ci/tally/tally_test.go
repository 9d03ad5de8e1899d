// SPDX-License-Identifier: GPL-3.0-or-later

package tally_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/ci/tally"
)

func read(t *testing.T, tl *tally.Tally, events ...string) string {
	t.Helper()
	var out strings.Builder
	require.NoError(t, tl.Read(strings.NewReader(strings.Join(events, "\n")+"\n"), &out))
	return out.String()
}

func TestOnlyLeavesCount(t *testing.T) {
	tl := tally.New()
	out := read(t, tl,
		`{"Action":"run","Package":"p","Test":"TestA"}`,
		`{"Action":"run","Package":"p","Test":"TestA/one"}`,
		`{"Action":"output","Package":"p","Test":"TestA/one","Output":"quiet\n"}`,
		`{"Action":"pass","Package":"p","Test":"TestA/one"}`,
		`{"Action":"run","Package":"p","Test":"TestA/two"}`,
		`{"Action":"skip","Package":"p","Test":"TestA/two"}`,
		`{"Action":"pass","Package":"p","Test":"TestA"}`,
		`{"Action":"pass","Package":"p","Elapsed":0.5}`,
		`{"Action":"skip","Package":"empty"}`,
	)
	require.Equal(t, "1 passed, 0 failed, 1 skipped", tl.Line())
	require.Equal(t, "ok    p  1 passed, 1 skipped  0.5 s\n", out)
	require.Empty(t, tl.Failed())
}

func TestFailuresShowTheirOutput(t *testing.T) {
	tl := tally.New()
	out := read(t, tl,
		`{"Action":"run","Package":"p","Test":"TestB"}`,
		`{"Action":"run","Package":"p","Test":"TestB/bad"}`,
		`{"Action":"output","Package":"p","Test":"TestB/bad","Output":"want 1, have 2\n"}`,
		`{"Action":"fail","Package":"p","Test":"TestB/bad"}`,
		`{"Action":"fail","Package":"p","Test":"TestB"}`,
		`{"Action":"fail","Package":"p","Elapsed":1}`,
	)
	require.Equal(t, "0 passed, 1 failed", tl.Line())
	require.Contains(t, out, "want 1, have 2\n")
	require.Equal(t, []string{"p TestB/bad"}, tl.Failed())
}

func TestAParentThatFailsByItselfCounts(t *testing.T) {
	tl := tally.New()
	read(t, tl,
		`{"Action":"run","Package":"p","Test":"TestC"}`,
		`{"Action":"run","Package":"p","Test":"TestC/fine"}`,
		`{"Action":"pass","Package":"p","Test":"TestC/fine"}`,
		`{"Action":"fail","Package":"p","Test":"TestC"}`,
		`{"Action":"fail","Package":"p"}`,
	)
	require.Equal(t, "1 passed, 1 failed", tl.Line())
}

func TestABrokenBuildIsOneFailure(t *testing.T) {
	tl := tally.New()
	out := read(t, tl,
		`{"ImportPath":"p [p.test]","Action":"build-output","Output":"p.go:1: no such thing\n"}`,
		`{"ImportPath":"p [p.test]","Action":"build-fail"}`,
		`{"Action":"start","Package":"p"}`,
		`{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}`,
		`{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`,
	)
	require.Equal(t, "0 passed, 1 failed", tl.Line())
	require.Contains(t, out, "no such thing")
}

func TestATestThatNeverEndedHasFailed(t *testing.T) {
	tl := tally.New()
	out := read(t, tl,
		`{"Action":"run","Package":"p","Test":"TestD"}`,
		`{"Action":"output","Package":"p","Test":"TestD","Output":"panic: test timed out\n"}`,
		`{"Action":"fail","Package":"p"}`,
	)
	require.Equal(t, "0 passed, 1 failed", tl.Line())
	require.Contains(t, out, "timed out")
}

func TestRunsAddUpAndAFailureSticks(t *testing.T) {
	tl := tally.New()
	pass := []string{`{"Action":"run","Package":"p","Test":"TestE"}`, `{"Action":"pass","Package":"p","Test":"TestE"}`, `{"Action":"pass","Package":"p"}`}
	fail := []string{`{"Action":"run","Package":"p","Test":"TestE"}`, `{"Action":"fail","Package":"p","Test":"TestE"}`, `{"Action":"fail","Package":"p"}`}
	read(t, tl, fail...)
	out := read(t, tl, pass...)
	require.Equal(t, "0 passed, 1 failed", tl.Line())
	require.Contains(t, out, "ok    p  1 passed", "the line of a run is about that run")

	tl.Fail("links")
	require.Equal(t, "0 passed, 2 failed", tl.Line())
	require.Equal(t, []string{"p TestE", "links"}, tl.Failed())
}

func TestOtherLinesPassThrough(t *testing.T) {
	tl := tally.New()
	require.Equal(t, "go: no such package\n{broken\n", read(t, tl, "go: no such package", "{broken"))
	require.Equal(t, "0 passed, 0 failed", tl.Line())
}

// TRACE-12
func TestOutcomesByName(t *testing.T) {
	tl := tally.New()
	read(t, tl,
		`{"Action":"run","Package":"p","Test":"TestF"}`,
		`{"Action":"run","Package":"p","Test":"TestF/a_b"}`,
		`{"Action":"pass","Package":"p","Test":"TestF/a_b"}`,
		`{"Action":"run","Package":"p","Test":"TestF/a_b#01"}`,
		`{"Action":"fail","Package":"p","Test":"TestF/a_b#01"}`,
		`{"Action":"run","Package":"p","Test":"TestF/a_b#c"}`,
		`{"Action":"pass","Package":"p","Test":"TestF/a_b#c"}`,
		`{"Action":"run","Package":"p","Test":"TestF/a_bc"}`,
		`{"Action":"skip","Package":"p","Test":"TestF/a_bc"}`,
		`{"Action":"fail","Package":"p","Test":"TestF"}`,
		`{"Action":"run","Package":"p","Test":"TestG"}`,
		`{"Action":"fail","Package":"p"}`,
	)
	for name, want := range map[string][3]int{
		"TestF": {0, 1, 0}, "TestF/a_b": {1, 1, 0}, "TestF/a_bc": {0, 0, 1}, "TestG": {0, 1, 0}, "TestH": {},
	} {
		passed, failed, skipped := tl.Outcome("p", name)
		require.Equal(t, want, [3]int{passed, failed, skipped}, name)
	}
	passed, _, _ := tl.Outcome("q", "TestF/a_b")
	require.Zero(t, passed, "of another package")
}
