// SPDX-License-Identifier: GPL-3.0-or-later

package step

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/ci/tally"
)

// named is a step that notes that it ran.
func named(ran *[]string, name string, err error) Step {
	return Step{name, "check:" + name, func(context.Context, *tally.Tally) error {
		*ran = append(*ran, name)
		return err
	}}
}

func TestTheGateRunsEveryStepAndTheLoopStopsAtTheFirstFailure(t *testing.T) {
	var ran []string
	steps := []Step{named(&ran, "a", nil), named(&ran, "b", errors.New("broken")), named(&ran, "c", nil)}

	all, err := Run(t.Context(), tally.New(), false, InOrder(steps...)...)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, ran)
	require.Equal(t, []string{"step b"}, all.Failed())

	ran = nil
	first, err := Run(t.Context(), tally.New(), true, InOrder(steps...)...)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, ran)
	require.Equal(t, []string{"step b"}, first.Failed())
}

func TestAnInterruptedRunIsNoFailureOfAStep(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var ran []string
	all, err := Run(ctx, tally.New(), false, InOrder(Step{"a", "check:a", func(context.Context, *tally.Tally) error {
		stop()
		return errors.New("killed")
	}}, named(&ran, "b", nil))...)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, ran)
	require.Empty(t, all.Failed())
}

// The steps of a stage run beside one another, and the next stage begins when all have ended.
func TestStagesRunBesideOneAnother(t *testing.T) {
	var ended atomic.Int32
	met := make(chan struct{})
	meet := func(_ context.Context, counted *tally.Tally) error {
		select {
		case met <- struct{}{}:
		case <-met:
		}
		defer ended.Add(1)
		return errors.New("as meant")
	}
	all, err := Run(t.Context(), tally.New(), false, Stage{{"a", "check:a", meet}, {"b", "check:b", meet}}, Stage{{"c", "check:c", func(context.Context, *tally.Tally) error {
		require.Equal(t, int32(2), ended.Load())
		return nil
	}}})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"step a", "step b"}, all.Failed())
}

func TestTheLastWord(t *testing.T) {
	var out strings.Builder
	_, err := closing(tally.New(), &out)
	require.ErrorContains(t, err, "no test ran")

	const passes = `{"Action":"run","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n"
	all := tally.New()
	require.NoError(t, all.Read(strings.NewReader(passes), &out))
	out.Reset()
	passed, err := closing(all, &out)
	require.NoError(t, err)
	require.True(t, passed)
	require.Equal(t, "\n1 passed, 0 failed\n", out.String())

	all.Fail("step lint")
	out.Reset()
	passed, err = closing(all, &out)
	require.NoError(t, err)
	require.False(t, passed)
	require.Equal(t, "\nfailed:\n  step lint\n\n1 passed, 1 failed\n", out.String())
}

// module makes a module with one test and makes it the current folder.
func module(t *testing.T, body string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module tried\n\ngo 1.25\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tried_test.go"),
		[]byte("package tried\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestTried(t *testing.T) { "+body+" }\n"), 0o600))
	t.Chdir(dir)
}

func TestFailedTestsAreNoFailedStep(t *testing.T) {
	module(t, `if err := os.WriteFile(os.Getenv("TRIED_REPORT"), []byte("a report"), 0o600); err != nil { t.Fatal(err) }; t.Fatal("as meant")`)
	events := t.TempDir()
	all, err := Run(KeepingEvents(t.Context(), events), tally.New(), true, Stage{{"tried", "check:tried", func(ctx context.Context, counted *tally.Tally) error {
		return GoTestReported(ctx, counted, "TRIED_REPORT", "./...")
	}}})
	require.NoError(t, err)
	require.Equal(t, []string{"tried TestTried"}, all.Failed())
	kept, err := os.ReadFile(filepath.Join(events, "check-tried.jsonl"))
	require.NoError(t, err)
	require.Contains(t, string(kept), `"Test":"TestTried"`)
	require.Empty(t, os.Getenv("TRIED_REPORT"))
}

func TestARunThatCannotBeginIsAFailedStep(t *testing.T) {
	module(t, `_ = os.Args`)
	all, err := Run(t.Context(), tally.New(), true, Stage{{"tried", "check:tried", func(ctx context.Context, counted *tally.Tally) error {
		return GoTest(ctx, counted, "-mod=wrong")
	}}})
	require.NoError(t, err)
	require.Equal(t, []string{"step tried"}, all.Failed())
}

// Whoever runs the checks, the folders that tests make are not for a group to write.
func TestStepsRunUnderOneMask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o002))
	dir := filepath.Join(t.TempDir(), "made")
	_, err := Run(t.Context(), tally.New(), true, Stage{{"a", "check:a", func(context.Context, *tally.Tally) error { return os.Mkdir(dir, 0o777) }}})
	require.NoError(t, err)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
}
