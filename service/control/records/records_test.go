// SPDX-License-Identifier: GPL-3.0-or-later

package records_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	server "github.com/llama-orch/llama-orch/harness/postgres"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control/records"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/record/ledger/postgres"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// fill makes one of everything that a ledger keeps, with every field set and with none.
func fill(t *testing.T, l ledger.Ledger) {
	t.Helper()
	ctx := t.Context()
	for i, state := range []task.State{task.Completed, task.Failed, task.StateCanceled} {
		full := ledgertest.Full(state)
		full.Task.ID, full.Task.Seq = full.Task.ID+string(state), uint64(100+i)
		full.Charge = &task.Charge{Account: "me \x00", Window: ledgertest.Epoch, Amount: task.Amount{Tokens: 7, Time: time.Second, Cost: 3, Energy: 9}}
		require.NoError(t, l.Finish(ctx, full))
	}
	for seq := uint64(1); seq <= 20; seq++ {
		require.NoError(t, l.Accept(ctx, ledgertest.Sample(seq)))
	}
	require.NoError(t, l.Dispatch(ctx, ledgertest.Dispatched(ledgertest.Sample(9))))
	require.NoError(t, l.Dispatch(ctx, ledgertest.Dispatched(ledgertest.Sample(3))))
	require.NoError(t, l.Finish(ctx, ledgertest.Ended(ledgertest.Sample(4), task.StateCanceled)))
	odd := ledgertest.Ended(ledgertest.Sample(5), task.Completed, "\xff\xfe half \xc3", "\x00")
	require.NoError(t, l.Finish(ctx, odd))
	require.NoError(t, l.Finish(ctx, ledgertest.Ended(ledgertest.Sample(6), task.Completed, "x")))
	require.NoError(t, l.Delete(ctx, ledgertest.ID(6), ledgertest.Epoch))
	require.NoError(t, l.KeepSession(ctx, ledgertest.Session("s")))
	require.NoError(t, l.KeepFile(ctx, task.File{ID: "file-1", Artifact: "sha256-a", CreatedAt: ledgertest.Epoch}))
	b := ledgertest.Batch("batch_1")
	b.FileID = "file-1"
	require.NoError(t, l.KeepBatch(ctx, b, []task.Line{
		{Batch: b.ID, N: 1, CustomID: "a", Bytes: 3, State: task.LineWaits}, {Batch: b.ID, N: 2, CustomID: "b", At: 3, Bytes: 3, State: task.LineFailed, Status: 400, Refusal: []byte(`{"x":1}`)},
	}))
}

// all is what a ledger answers.
func all(t *testing.T, l ledger.Ledger) (found []any) {
	t.Helper()
	ctx := t.Context()
	add := func(v any, err error) {
		require.NoError(t, err)
		found = append(found, v)
	}
	add(l.Live(ctx))
	add(l.Sessions(ctx))
	add(l.Spent(ctx, ledgertest.Epoch))
	add(l.Files(ctx, task.FileFilter{Sent: true, Results: "openai"}))
	add(l.Batches(ctx, task.BatchFilter{}))
	add(l.Lines(ctx, "batch_1", task.LineFilter{}))
	listed, err := l.List(ctx, "", 100)
	require.NoError(t, err)
	for _, r := range listed {
		whole, ok, err := l.Get(ctx, r.Task.ID)
		require.True(t, ok)
		add(whole, err)
	}
	return found
}

// LO-707: everything goes to the database and comes back, by digests; nothing is added to what is there, and a move that was cut off is made again.
func TestEverythingIsMovedAndBack(t *testing.T) {
	db, err := server.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	o := records.Postgres(config.Ledger{Postgres: config.Postgres{DSN: config.Secret(db.Local()), Schema: "moved", Connections: 2}})
	dir, ctx, now := t.TempDir(), t.Context(), time.Now()
	path := filepath.Join(dir, sqlite.FileName)
	file, err := sqlite.Open(sqlite.Options{Path: path})
	require.NoError(t, err)
	fill(t, file)
	want := all(t, file)
	require.NoError(t, file.Close())

	to, err := records.ToPostgres(ctx, dir, o, now)
	require.NoError(t, err)
	require.NoFileExists(t, path)
	require.FileExists(t, to.Aside)
	require.Equal(t, 23, to.Rows["task"])
	l, err := postgres.Open(o)
	require.NoError(t, err)
	require.Equal(t, want, all(t, l))
	seq, err := l.NextSeq()
	require.NoError(t, err)
	require.Greater(t, seq, uint64(102))
	require.NoError(t, l.KeepFile(ctx, task.File{ID: "file-2", Artifact: "sha256-b", CreatedAt: ledgertest.Epoch}), "its number is free")
	require.NoError(t, l.DropFile(ctx, "file-2"))
	_, err = records.ToSQLite(ctx, dir, o, now)
	requireFault(t, err, postgres.Held)
	require.NoError(t, l.Close())

	// What was cut off behind the commit: the file is there still, and the database has all of it.
	require.NoError(t, os.Rename(to.Aside, path))
	again, err := records.ToPostgres(ctx, dir, o, now.Add(time.Second))
	require.NoError(t, err)
	require.Equal(t, to.Digests, again.Digests)

	back, err := records.ToSQLite(ctx, dir, o, now)
	require.NoError(t, err)
	require.Equal(t, to.Digests, back.Digests)
	require.Contains(t, back.Aside, "moved_aside_")
	file, err = sqlite.Open(sqlite.Options{Path: path})
	require.NoError(t, err)
	require.Equal(t, want, all(t, file))
	number, err := file.NextSeq()
	require.NoError(t, err)
	require.Greater(t, number, seq, "no number is given twice")
	require.NoError(t, file.Accept(ctx, ledgertest.Sample(number)))
	require.NoError(t, file.Close())
	_, err = records.ToSQLite(ctx, dir, o, now)
	require.ErrorContains(t, err, "is there already")

	// A ledger that has other entries is not added to.
	o.Schema = back.Aside
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = records.ToPostgres(ctx, dir, o, now)
	requireFault(t, err, postgres.NotEmpty)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after))

	moved, err := records.Aside(context.Background(), o, now)
	require.NoError(t, err)
	require.NotEmpty(t, moved)
	moved, err = records.Aside(context.Background(), o, now)
	require.NoError(t, err)
	require.Empty(t, moved, "there is none")
}

func requireFault(t *testing.T, err error, want postgres.Fault) {
	t.Helper()
	e, ok := errors.AsType[*postgres.Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, want, e.Fault)
	require.NotEmpty(t, e.Remedy)
}
