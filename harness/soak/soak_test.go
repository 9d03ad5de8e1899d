// SPDX-License-Identifier: GPL-3.0-or-later

package soak

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/harness/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A short run does everything that a long one does. It is too short to tell whether something grows, says so, and finds nothing else.
//
// LO-880, LO-882
func TestAShortRunDoesEverything(t *testing.T) {
	results := t.TempDir()
	var out strings.Builder
	err := Run(t.Context(), Options{Root: "../..", Results: results, For: 40 * time.Second, Rate: 20, Out: &out})
	require.ErrorContains(t, err, "the run was too short to tell whether these grow: ")
	require.NotContains(t, err.Error(), "should not have been", "%s", out.String())
	require.NotContains(t, err.Error(), "\n", "%s", out.String())
	for _, a := range acts {
		require.Contains(t, out.String(), "| "+a.name+" | ")
	}
	for _, name := range []string{
		"goroutines of the daemon", "memory of the daemon", "threads of the daemon", "descriptors of the daemon", "memory of the calm workers", "threads of the calm workers",
		"descriptors of the calm workers", "files in the data folder", "ledger", "rows of task", "rows of batch_line",
	} {
		require.Contains(t, out.String(), "| "+name)
	}
	for _, name := range []string{"soak.svg", "soak.json"} {
		require.FileExists(t, filepath.Join(results, name))
	}
}

// LO-881
func TestTheErrorNamesWhatGrows(t *testing.T) {
	flat := madeUp(1, func(_ *rand.Rand, _ float64) float64 { return 3 })
	grows := madeUp(1, func(_ *rand.Rand, n float64) float64 { return n })
	grows.Name = "descriptors"
	restless := madeUp(0.001, func(_ *rand.Rand, n float64) float64 { return math.Mod(n*7919, 4000) })
	restless.Name = "memory"
	require.NoError(t, judge([]Series{flat}))
	require.EqualError(t, judge([]Series{flat, grows}), "these grow with the tasks: descriptors")
	require.EqualError(t, judge([]Series{restless, flat}), "the run was too short to tell whether these grow: memory")
	require.ErrorContains(t, judge(nil), "nothing was seen")
}

// LO-880
func TestWhatShouldNotHaveBeenIsSaidOnce(t *testing.T) {
	c := &crowd{ends: map[string]map[string]int{}}
	c.note("a chat", nil)
	c.note("a chat", &client.RefusedError{Status: 503, Code: "POOL_UNREADY"})
	c.note("a chat", failedError("WORKER_RESET"))
	require.NoError(t, c.judge())
	for range 2 {
		c.note("a chat", fmt.Errorf("wrapped: %w", &client.RefusedError{Status: 500, Code: "INTERNAL", Message: "a panic"}))
		c.note("a batch", errors.New("the connection broke"))
	}
	require.EqualError(t, c.judge(), "these should not have been:\na chat: wrapped: the daemon answered 500 INTERNAL: a panic\na batch: the connection broke")
	require.Equal(t, map[string]int{well: 1, "POOL_UNREADY": 1, "WORKER_RESET": 1, "INTERNAL": 2}, c.ends["a chat"])
}

// Who takes a sample waits for the acts that have begun, and none begins meanwhile. Of several looks, the least of each figure counts.
//
// LO-882.1
func TestNobodyActsWhileASampleIsTaken(t *testing.T) {
	v := &visitor{crowd: &crowd{}}
	broke := errors.New("broke")
	require.ErrorIs(t, v.do(t.Context(), act{run: func(at *visitor) error {
		require.False(t, v.open.TryLock(), "an act is under way")
		deadline, bounded := at.ctx.Deadline()
		require.True(t, bounded)
		require.WithinDuration(t, time.Now().Add(answerIn), deadline, answerIn/2)
		return broke
	}}), broke)
	require.True(t, v.open.TryLock(), "it has ended")
	require.False(t, v.open.TryRLock(), "a sample is taken")
	v.open.Unlock()

	var one, two sample
	one.add("threads", "threads", 1, 5)
	one.add("files", "files", 1, 7)
	two.add("threads", "threads", 1, 6)
	two.add("files", "files", 1, 3)
	one.least(two)
	require.Equal(t, []float64{5, 3}, []float64{one.figures[0].value, one.figures[1].value})
}

// Artifacts count once nobody should keep them any more; other files always do.
//
// LO-882.2
func TestFilesThatAreKeptForATimeDoNotCount(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	for name, age := range map[string]time.Duration{"state.db": time.Hour, "leaked": 0, "artifacts/sha256/aa/new": 0, "artifacts/sha256/aa/kept": overdue - time.Second, "artifacts/sha256/bb/old": overdue + time.Second} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		require.NoError(t, os.Chtimes(path, now.Add(-age), now.Add(-age)))
	}
	n, err := count(dir, now)
	require.NoError(t, err)
	require.Equal(t, 3, n)
}

// LO-882
func TestSamplesBecomeSeries(t *testing.T) {
	var one, two sample
	one.tasks, two.tasks = 10, 20
	one.add("threads", "threads", 1, 5)
	one.add("files", "files", 2, 7)
	two.add("files", "files", 2, 8)
	two.add("threads", "threads", 1, 6)
	require.Equal(t, []Series{
		{Name: "threads", Unit: "threads", Leak: 1, Tasks: []float64{10, 20}, Values: []float64{5, 6}},
		{Name: "files", Unit: "files", Leak: 2, Tasks: []float64{10, 20}, Values: []float64{7, 8}},
	}, seriesOf([]sample{one, two}))
}
