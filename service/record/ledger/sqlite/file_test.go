// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"database/sql"
	"testing"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-202, LO-435: files and batches of the version before are in lists, and what they have in the store is in use.
func TestFilesOfTheVersionBefore(t *testing.T) {
	const before = 10
	path := file(t)
	require.NoError(t, create(t.Context(), path, steps[:before]))
	f := task.File{ID: "file-1", Artifact: "sha256-a", CreatedAt: ledgertest.Epoch.Add(1234567 * time.Microsecond)}
	b := ledgertest.Batch("batch_1")
	b.Artifact, b.EndedAt = "sha256-b", ledgertest.Epoch
	db, err := sql.Open("sqlite", path)
	require.NoError(t, err)
	ofFile, err := entry.Encode(f)
	require.NoError(t, err)
	_, err = db.Exec(`INSERT INTO file (id, file) VALUES (?, ?)`, f.ID, string(ofFile))
	require.NoError(t, err)
	ofBatch, err := entry.Encode(b)
	require.NoError(t, err)
	_, err = db.Exec(`INSERT INTO batch (id, dialect, file_id, ended_ms, record) VALUES (?, ?, '', ?, ?)`, b.ID, b.Dialect, b.EndedAt.UnixMilli(), string(ofBatch))
	require.NoError(t, err)
	require.NoError(t, db.Close())

	l := open(t, Options{Path: path})
	found, err := l.Files(t.Context(), task.FileFilter{Sent: true, Results: b.Dialect})
	require.NoError(t, err)
	require.Equal(t, []task.Listed{{File: f}, {Batch: &b}}, found)
	for _, artifact := range []string{f.Artifact, b.Artifact} {
		used, err := l.Uses(t.Context(), artifact)
		require.NoError(t, err)
		require.True(t, used)
	}
}

// LO-883: a batch goes with a sweep once it is too old, and an idle ledger wakes for it.
func TestABatchIsForgottenInItsTime(t *testing.T) {
	var c clock
	l := open(t, Options{RetainAge: time.Hour, Now: c.now})
	b := ledgertest.Batch("batch_1")
	require.NoError(t, l.KeepBatch(t.Context(), b, ledgertest.Waiting(b.ID, 150)))
	c.advance(5 * time.Minute)
	b.EndedAt = c.now()
	require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	var due time.Time
	require.NoError(t, l.submit(t.Context(), &op{kind: opAccept, run: func(*writer) error { return nil }, then: func() { due = l.nextSweep() }}))
	require.Equal(t, b.EndedAt.Add(time.Hour+time.Millisecond), due)
	there := func() bool {
		_, ok, err := l.Batch(t.Context(), b.ID)
		require.NoError(t, err)
		return ok
	}
	c.advance(time.Hour)
	sweep(t, l)
	require.True(t, there(), "it is as old as it may be")
	c.advance(time.Millisecond)
	sweep(t, l)
	require.False(t, there())
	var lines int
	require.NoError(t, l.db.QueryRow(`SELECT count(*) FROM batch_line`).Scan(&lines))
	require.Zero(t, lines)
}

// LO-883: without an age nothing is too old.
func TestABatchIsKeptForEver(t *testing.T) {
	var c clock
	l := open(t, Options{Now: c.now})
	b := ledgertest.Batch("batch_1")
	b.EndedAt = c.now()
	require.NoError(t, l.KeepBatch(t.Context(), b, nil))
	c.advance(1_000_000 * time.Hour)
	sweep(t, l)
	_, ok, err := l.Batch(t.Context(), b.ID)
	require.NoError(t, err)
	require.True(t, ok)
}
