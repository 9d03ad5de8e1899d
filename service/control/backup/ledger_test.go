// SPDX-License-Identifier: GPL-3.0-or-later

package backup_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/control/backup"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// spoiled is a data folder whose ledger has a page that is none.
func spoiled(t *testing.T) (u *used, ledger []byte) {
	t.Helper()
	u, _, _ = filled(t)
	for i := 3; i < 200; i++ {
		require.NoError(t, u.ledger.Accept(t.Context(), task.Task{ID: strconv.Itoa(i), Seq: uint64(i), AcceptedAt: time.Now(), Prompt: "a prompt"}))
	}
	require.NoError(t, u.ledger.Close())
	at := filepath.Join(u.dir, sqlite.FileName)
	text, err := os.ReadFile(at)
	require.NoError(t, err)
	for i := range 4096 {
		text[7*4096+i] ^= 0x5a
	}
	require.NoError(t, os.WriteFile(at, text, 0o600))
	return u, text
}

// LO-631, LO-644: a damaged page costs the ledger alone. Its files are kept as they are, under names that are no ledger's, and a restore does not take them for one.
func TestADamagedLedgerDoesNotKeepTheRestFromBeingSaved(t *testing.T) {
	u, ledger := spoiled(t)
	dir, m := make1(t, u, false)
	require.True(t, m.NoLedger)
	require.Len(t, m.Damaged, 1)
	require.Contains(t, m.Damaged[0], "`orchestratord ledger check` says more")
	found := names(t, dir)
	require.Contains(t, found, "state.db.damaged")
	require.Contains(t, found, "models/m.json")
	require.Contains(t, found, "fingerprints.json")
	require.NotContains(t, found, "state.db")

	to := filepath.Join(t.TempDir(), "data")
	_, err := backup.Restore(t.Context(), dir, to, false)
	refused(t, err, backup.Damaged)
	require.NoDirExists(t, to)
	_, err = backup.Restore(t.Context(), dir, to, true)
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(to, sqlite.FileName))
	require.NoError(t, err)
	require.Equal(t, ledger, text)
	require.NoFileExists(t, filepath.Join(to, "state.db.damaged"))
	require.FileExists(t, filepath.Join(to, "models/m.json"))
}
