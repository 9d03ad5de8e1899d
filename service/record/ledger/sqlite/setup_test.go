// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

// TestMain runs the tests, or is one of the processes that they start.
func TestMain(m *testing.M) {
	if role := os.Getenv("LEDGER_TEST_ROLE"); role != "" {
		os.Exit(child(role, os.Getenv("LEDGER_TEST_PATH")))
	}
	goleak.VerifyTestMain(m)
}

// clock is a time that stands still until it is moved.
type clock struct{ since atomic.Int64 }

func (c *clock) now() time.Time           { return epoch.Add(time.Duration(c.since.Load())) }
func (c *clock) advance(by time.Duration) { c.since.Add(int64(by)) }

var epoch = ledgertest.Epoch

func file(t testing.TB) string { return filepath.Join(t.TempDir(), FileName) }

func open(t testing.TB, o Options) *Ledger {
	t.Helper()
	if o.Path == "" {
		o.Path = file(t)
	}
	if o.Now == nil {
		o.Now = func() time.Time { return epoch }
	}
	l, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// reopen closes the ledger and opens it again.
func reopen(t testing.TB, l *Ledger) *Ledger {
	t.Helper()
	require.NoError(t, l.Close())
	return open(t, l.o)
}

func id(seq uint64) string { return ledgertest.ID(seq) }

func sample(seq uint64) task.Task { return ledgertest.Sample(seq) }

func dispatched(t task.Task) task.Dispatch { return ledgertest.Dispatched(t) }

func ended(t task.Task, state task.State, tokens ...string) task.Record {
	return ledgertest.Ended(t, state, tokens...)
}

func accept(t testing.TB, l *Ledger, seqs ...uint64) {
	t.Helper()
	for _, seq := range seqs {
		require.NoError(t, l.Accept(t.Context(), sample(seq)))
	}
}

func end(t testing.TB, l *Ledger, records ...task.Record) {
	t.Helper()
	for _, r := range records {
		require.NoError(t, l.Finish(t.Context(), r))
	}
}

func get(t testing.TB, l *Ledger, id string) task.Record {
	t.Helper()
	r, ok, err := l.Get(t.Context(), id)
	require.NoError(t, err)
	require.True(t, ok, id)
	return r
}

// next takes a sequence number.
func next(t testing.TB, l *Ledger) uint64 {
	t.Helper()
	seq, err := l.NextSeq()
	require.NoError(t, err)
	return seq
}

func live(t testing.TB, l *Ledger) []string {
	t.Helper()
	found, err := l.Live(t.Context())
	require.NoError(t, err)
	return ids(found)
}

func ids(found []task.Record) []string {
	out := []string{}
	for _, r := range found {
		out = append(out, r.Task.ID)
	}
	return out
}

// tester is a testing.TB or a *rapid.T.
type tester interface {
	require.TestingT
	Helper()
	Context() context.Context
}

// settle returns once the writer has done all that it was given, also what only was noted.
func settle(t tester, l *Ledger) {
	t.Helper()
	l.mu.Lock()
	l.notes.Ripen()
	l.mu.Unlock()
	require.NoError(t, l.submit(t.Context(), &op{kind: opAccept, run: func(*writer) error { return nil }}))
}

// sweep returns once everything that is to be removed now is removed.
func sweep(t testing.TB, l *Ledger) {
	t.Helper()
	require.NoError(t, l.submit(t.Context(), &op{
		kind: opAccept, run: func(*writer) error { return nil },
		then: func() {
			for l.sweepStep() {
			}
		},
	}))
}

// parted returns once nothing is being kept of tasks that are forgotten. Sweeps come by themselves too, so the group of these calls cannot be waited for.
func parted(t testing.TB, l *Ledger) {
	t.Helper()
	require.Eventually(t, func() bool { return !l.w.parting.Load() }, time.Minute, time.Millisecond)
}

type pageCount struct{ tasks, texts, pages, free int }

func pages(t testing.TB, l *Ledger) (c pageCount) {
	t.Helper()
	require.NoError(t, l.db.QueryRow(`SELECT (SELECT count(*) FROM task), (SELECT count(*) FROM transcript),
		(SELECT page_count FROM pragma_page_count), (SELECT freelist_count FROM pragma_freelist_count)`).Scan(&c.tasks, &c.texts, &c.pages, &c.free))
	return c
}

func faultOf(t testing.TB, err error) *Error {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.What)
	require.NotEmpty(t, e.Remedy)
	return e
}

// The promises of package ledger.
// LO-202, LO-101, LO-883, ORCH-3021, ORCH-3099
func TestSQLiteKeepsThePromises(t *testing.T) {
	ledgertest.Run(t, func(t testing.TB) ledgertest.Opened { return opened(t, open(t, Options{})) })
}

func opened(t testing.TB, l *Ledger) ledgertest.Opened {
	return ledgertest.Opened{
		Ledger: l, Settle: func() { settle(t, l) },
		Second: func() (ledger.Ledger, error) { return Open(Options{Path: l.o.Path, Now: l.o.Now}) },
		Crash: func() (ledgertest.Opened, error) {
			o := l.o
			o.Path, o.Registerer = file(t), nil
			leave(t, l, o.Path)
			return opened(t, open(t, o)), nil
		},
		Reopen: func() (ledgertest.Opened, error) { return opened(t, reopen(t, l)), nil },
		Sweep:  func(oldest time.Time) { forget(t, l, oldest) },
	}
}

// leave copies the files as they are between two commits, which is what a killed process leaves.
func leave(t tester, l *Ledger, path string) {
	t.Helper()
	for _, part := range []string{"", "-wal"} {
		data, err := os.ReadFile(l.o.Path + part)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path+part, data, 0o600))
	}
}

// forget removes the tasks that ended before then.
func forget(t tester, l *Ledger, oldest time.Time) {
	t.Helper()
	require.NoError(t, l.submit(t.Context(), &op{kind: opAccept, run: func(*writer) error { return nil }, then: func() {
		for {
			doomed, err := l.w.doomed(0, oldest)
			if err != nil || len(doomed) == 0 {
				break
			}
			if err := l.w.transaction(func() error { return l.w.remove(doomed) }); err != nil {
				break
			}
		}
		for {
			if more, err := l.w.forgetBatch(oldest); err != nil || !more {
				break
			}
		}
	}}))
}
