// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/note"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/task"
)

// A checkpoint that nobody else's commit takes along is written all the same, and an idle ledger sets no timer.
// LO-202
func TestLoneCheckpointIsWrittenSoon(t *testing.T) {
	path := file(t)
	synctest.Test(t, func(t *testing.T) {
		l, err := Open(Options{Path: path})
		require.NoError(t, err)
		accept(t, l, 1)
		for event := range 20 {
			l.Checkpoint(id(1), task.Checkpoint{Event: event + 1})
		}
		commits := testutil.ToFloat64(l.metrics.Commits)
		time.Sleep(2 * note.CheckpointAfter)
		synctest.Wait()
		require.Equal(t, 20, get(t, l, id(1)).Checkpoint.Event)
		require.InDelta(t, 1, testutil.ToFloat64(l.metrics.Commits)-commits, 0)
		require.NoError(t, l.Close())
	})
}

// many calls do for 1…n at the same time, and waits for all.
func many(t *testing.T, n uint64, do func(seq uint64) error) {
	t.Helper()
	failed := make(chan error, n)
	for seq := range n {
		go func() { failed <- do(seq + 1) }()
	}
	for range n {
		require.NoError(t, <-failed)
	}
}

// until returns once something is so. The lock is held while it is looked at.
func until(l *Ledger, so func() bool) {
	for {
		l.mu.Lock()
		is := so()
		l.mu.Unlock()
		if is {
			return
		}
		runtime.Gosched()
	}
}

// Many accepts share a commit, and so the wait for the disk.
// LO-202
func TestConcurrentAcceptsShareCommits(t *testing.T) {
	l := open(t, Options{})
	const n = 256
	many(t, n, func(seq uint64) error { return l.Accept(t.Context(), sample(seq)) })
	commits := testutil.ToFloat64(l.metrics.Commits)
	t.Logf("%d accepts in %g commits", n, commits)
	require.Less(t, commits, float64(n))
	require.InDelta(t, n, testutil.ToFloat64(l.metrics.Ops.WithLabelValues("accept")), 0)
	require.Len(t, live(t, l), n)

	// What waits while the writer is busy goes into one commit.
	hold, held := make(chan struct{}), make(chan struct{})
	busy := make(chan error, 1)
	go func() {
		busy <- l.submit(context.Background(), &op{kind: opAccept, run: func(*writer) error { close(held); <-hold; return nil }})
	}()
	<-held
	before := testutil.ToFloat64(l.metrics.Commits)
	var waiting []chan error
	for seq := uint64(n + 1); seq <= n+64; seq++ {
		answer := make(chan error, 1)
		waiting = append(waiting, answer)
		go func() { answer <- l.Accept(t.Context(), sample(seq)) }()
	}
	until(l, func() bool { return len(l.queue) == 64 })
	close(hold)
	require.NoError(t, <-busy)
	for _, answer := range waiting {
		require.NoError(t, <-answer)
	}
	require.InDelta(t, 2, testutil.ToFloat64(l.metrics.Commits)-before, 0)
}

// A caller that gives up before the writer has begun leaves nothing behind; later it gets the truth.
// LO-202
func TestGivingUpIsClean(t *testing.T) {
	l := open(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	gone, leave := context.WithCancel(t.Context())
	busy := make(chan error, 1)
	held, hold := make(chan struct{}), make(chan struct{})
	go func() {
		busy <- l.submit(ctx, &op{kind: opAccept, run: func(*writer) error { close(held); <-hold; return nil }})
	}()
	<-held
	cancel()
	leave()
	require.ErrorIs(t, l.Accept(gone, sample(1)), context.Canceled)
	close(hold)
	require.NoError(t, <-busy)
	settle(t, l)
	_, ok, err := l.Get(t.Context(), id(1))
	require.NoError(t, err)
	require.False(t, ok)
}

// LO-202
func TestCloseWritesWhatWaits(t *testing.T) {
	l := open(t, Options{})
	held, hold := make(chan struct{}), make(chan struct{})
	answers := make(chan error, 11)
	go func() {
		answers <- l.submit(context.Background(), &op{kind: opAccept, run: func(*writer) error { close(held); <-hold; return nil }})
	}()
	<-held
	for seq := range uint64(10) {
		go func() { answers <- l.Accept(context.Background(), sample(seq+1)) }()
	}
	until(l, func() bool { return len(l.queue) == 10 })
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	until(l, func() bool { return l.closed })
	close(hold)
	for range 11 {
		require.NoError(t, <-answers)
	}
	require.NoError(t, <-closed)
	require.Len(t, live(t, open(t, l.o)), 10)
}

// ORCH-3028
func TestMetricsAreThoseOfTheContract(t *testing.T) {
	registry := prometheus.NewRegistry()
	l := open(t, Options{Registerer: registry})
	accept(t, l, 1)
	require.NoError(t, l.Dispatch(t.Context(), dispatched(sample(1))))
	l.Checkpoint(id(1), task.Checkpoint{Event: 3})
	end(t, l, ended(sample(1), task.Completed, "x"))
	families, err := registry.Gather()
	require.NoError(t, err)
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
		require.NotEmpty(t, f.GetHelp())
	}
	require.Equal(t, []string{
		"llorch_ledger_batch_size", "llorch_ledger_bytes", "llorch_ledger_commit_ms", "llorch_ledger_commits_total",
		"llorch_ledger_errors_total", "llorch_ledger_ops_total",
	}, names)
	require.Greater(t, l.bytes(), 4096.0)
	require.NoError(t, l.Close())
	families, err = registry.Gather()
	require.NoError(t, err)
	require.Empty(t, families)
}

// LO-412, LO-202: what is recorded of a prompt that a run made is not written once more, neither by the same again nor by the task's end.
func TestAPromptIsWrittenOnce(t *testing.T) {
	l := open(t, Options{})
	rows := func() (n int) { // that were written so far
		require.NoError(t, l.submit(t.Context(), &op{kind: opAccept, run: func(w *writer) error {
			return w.conn.QueryRowContext(context.Background(), `SELECT total_changes()`).Scan(&n)
		}}))
		return n
	}
	costs := func(do error) int {
		require.NoError(t, do)
		return rows()
	}
	of := sample(1)
	require.NoError(t, l.Accept(t.Context(), of))
	of.Prompt, of.RequestDigest, of.RenderedAt = "Say something today.", strings.Repeat("cd", 32), epoch
	before := rows()
	first := costs(l.Render(t.Context(), of))
	again := costs(l.Render(t.Context(), of))
	require.Equal(t, 1, (first-before)-(again-first), "each commit is counted in a row of its own")
	end := costs(l.Finish(t.Context(), ended(of, task.Completed, "x")))
	require.NoError(t, l.Accept(t.Context(), sample(2)))
	plain := rows()
	plainEnd := costs(l.Finish(t.Context(), ended(sample(2), task.Completed, "x")))
	require.Equal(t, plainEnd-plain, end-again)
}

// LO-202: what a task costs on the disk: each page that one of its two commits changes is written whole. Its end touches no index of tasks that did not complete.
func TestATaskWritesFewPages(t *testing.T) {
	l := open(t, Options{offhand: true, Bundles: &bundle.Keep{}})
	behindAll := func(run func(w *writer) error) {
		require.NoError(t, l.submit(t.Context(), &op{kind: opAccept, run: run}))
	}
	size := func() int64 {
		info, err := os.Stat(l.o.Path + "-wal")
		require.NoError(t, err)
		return info.Size()
	}
	seq := uint64(0)
	costs := func(tasks int, state task.State) float64 {
		before := size()
		for range tasks {
			seq++
			r := ended(sample(seq), state, "a few ", "words")
			require.NoError(t, l.AcceptRunning(t.Context(), r.Task, dispatched(r.Task)))
			require.NoError(t, l.Finish(t.Context(), r))
		}
		return float64(size()-before) / float64(tasks) / 4120 // a page, and its head in the log of writes
	}
	behindAll(func(w *writer) error {
		_, err := w.conn.ExecContext(context.Background(), `PRAGMA wal_autocheckpoint = 0`) // else it is cut off, and begins anew
		return err
	})
	costs(500, task.Completed)
	completed := costs(200, task.Completed)
	require.Less(t, completed, 14.0)
	require.Greater(t, costs(200, task.Failed), completed+0.9)
}
