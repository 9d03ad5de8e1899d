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
