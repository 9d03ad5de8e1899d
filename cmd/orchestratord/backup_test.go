// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-631, LO-644, LO-645: what is printed, and the exit codes.
func TestBackupCommands(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, sqlite.FileName)
	l, err := sqlite.Open(sqlite.Options{Path: path})
	require.NoError(t, err)
	for i := range 200 {
		require.NoError(t, l.Accept(t.Context(), task.Task{ID: strconv.Itoa(i), Seq: uint64(i + 1), AcceptedAt: time.Now(), Prompt: "a prompt"}))
	}
	_, code := output(t, "backup", "--data-dir", dir, "--keep", "0", to)
	require.Equal(t, exitUsage, code)
	text, code := output(t, "backup", "--data-dir", dir, "--keep", "2", to)
	require.Zero(t, code)
	require.Contains(t, text, "200 tasks, 200 of them still to end")
	made, err := os.ReadDir(to)
	require.NoError(t, err)
	require.Len(t, made, 1)

	require.NoError(t, l.Close())
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(make([]byte, 4096), 7*4096)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	bad := filepath.Join(t.TempDir(), "bad")
	text, code = output(t, "backup", "--data-dir", dir, bad)
	require.Equal(t, exitDamaged, code)
	require.Contains(t, text, "Damaged: ")
	_, code = output(t, "restore", "--data-dir", filepath.Join(t.TempDir(), "data"), bad)
	require.Equal(t, exitFailure, code)
	back := filepath.Join(t.TempDir(), "data")
	_, code = output(t, "restore", "--damaged-ledger", "--data-dir", back, bad)
	require.Zero(t, code)
	_, code = output(t, "ledger", "check", "--data-dir", back)
	require.Equal(t, exitFailure, code, "it is as damaged as it was")
}
