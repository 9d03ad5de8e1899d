// SPDX-License-Identifier: GPL-3.0-or-later

package repeat

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flaky fails in each third run, and ends the process with a failure behind tests that passed in each fourth.
const flaky = `package flaky

import (
	"os"
	"testing"
)

var n int

func TestMain(m *testing.M) {
	b, _ := os.ReadFile("runs")
	n = len(b) + 1
	_ = os.WriteFile("runs", append(b, 'x'), 0o600)
	code := m.Run()
	if n == 4 {
		os.Exit(1)
	}
	os.Exit(code)
}

func TestEachThirdFails(t *testing.T) {
	t.Run("within", func(t *testing.T) {
		if n%3 == 0 {
			t.Fatal("this is run", n)
		}
	})
}

func TestAlwaysPasses(t *testing.T) {}
`

const hanging = `package flaky

import "testing"

func TestHangs(t *testing.T) { <-make(chan int) }

func TestPasses(t *testing.T) { t.Parallel(); go func() {}() }
`

// module writes a package with one file of tests.
func module(t *testing.T, tests string) Options {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module flaky\n\ngo 1.24\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "flaky_test.go"), []byte(tests), 0o600))
	return Options{Dir: dir, Package: ".", Times: 6, Within: 5 * time.Minute, Out: &strings.Builder{}}
}

// LO-850
func TestWhatFailsNowAndThenIsShown(t *testing.T) {
	o := module(t, flaky)
	r, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, 6, r.Done)
	require.Equal(t, map[string]int{"TestEachThirdFails/within": 2, "flaky": 1}, r.Failures)
	require.Equal(t, 10, r.Passed)
	require.Contains(t, fmt.Sprint(o.Out), "this is run 3")
	require.Contains(t, r.String(), "failed in 2 of 6 runs: TestEachThirdFails/within")
	require.ErrorContains(t, r.Err(), "2 tests of flaky failed")

	o.Only, o.Times, o.Out = "TestAlwaysPasses", 2, &strings.Builder{}
	r, err = Run(t.Context(), o)
	require.NoError(t, err)
	require.Empty(t, r.Failures)
	require.NoError(t, r.Err())
	require.Contains(t, r.String(), "2 tests passed, none failed")

	o.Only = "TestOfNoName"
	_, err = Run(t.Context(), o)
	require.ErrorContains(t, err, "none whose name matches")
	o.Package = "./..."
	require.NoError(t, os.Mkdir(filepath.Join(o.Dir, "more"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(o.Dir, "more", "more.go"), []byte("package more\n"), 0o600))
	_, err = Run(t.Context(), o)
	require.ErrorContains(t, err, "is not one package")
	o.Package = "./more"
	_, err = Run(t.Context(), o)
	require.ErrorContains(t, err, "flaky/more has no tests")
}

// LO-850: the time is bounded, and what hangs is named. Runs that there was no time for are not taken for passed.
func TestATestThatHangsEndsTheRuns(t *testing.T) {
	o := module(t, hanging)
	o.Within = 2 * time.Second
	r, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, 1, r.Done)
	require.Contains(t, r.Failures, "TestHangs")
	require.Contains(t, fmt.Sprint(o.Out), "test timed out")
	require.ErrorContains(t, Report{Package: "p", Wanted: 20, Done: 3}.Err(), "3 of 20 runs")
}

// LO-850: the load is there while the runs last, and is gone behind them.
func TestTheLoopsTurnUntilTheyAreEnded(t *testing.T) {
	loops := func() (n int) {
		children, err := filepath.Glob("/proc/self/task/*/children")
		require.NoError(t, err)
		for _, file := range children {
			pids, _ := os.ReadFile(file) // the thread may be gone
			for pid := range strings.FieldsSeq(string(pids)) {
				if line, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline")); strings.Contains(string(line), "while :") {
					n++
				}
			}
		}
		return n
	}
	end, err := busy(3)
	require.NoError(t, err)
	require.Equal(t, 3, loops())
	end()
	require.Zero(t, loops())
}
