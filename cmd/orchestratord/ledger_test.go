// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// output is what a command line prints on standard output, and its exit code.
func output(t *testing.T, args ...string) (string, int) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "stdout")
	require.NoError(t, err)
	old := os.Stdout
	os.Stdout = f
	defer func() { os.Stdout = old }()
	code := run(args)
	require.NoError(t, f.Close())
	text, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	return string(text), code
}

// LO-202, LO-835
func TestLedgerCommands(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(config, []byte("data_dir: "+dir+"\npools: [{id: a, model: {ref: file:a.gguf}}]\n"), 0o600))
	_, code := output(t, "ledger", "check", "--data-dir", dir)
	require.Equal(t, exitFailure, code, "there is none yet")

	path := filepath.Join(dir, sqlite.FileName)
	l, err := sqlite.Open(sqlite.Options{Path: path})
	require.NoError(t, err)
	require.NoError(t, l.Accept(t.Context(), task.Task{ID: "one", Seq: 1, AcceptedAt: time.Now(), Prompt: "PRIVATE"}))

	text, code := output(t, "ledger", "check", "--config", config) // while it is open
	require.Zero(t, code)
	require.Equal(t, "Schema 12, 1 tasks: 1 queued 0 running 0 completed 0 failed 0 canceled.\n"+
		"0 transcripts match their receipts.\nNothing is damaged.\n", text)
	text, code = output(t, "ledger", "export", "--data-dir", dir)
	require.Zero(t, code)
	require.Contains(t, text, `"task_id":"one"`)
	require.NotContains(t, text, "PRIVATE")
	text, code = output(t, "ledger", "export", "--with-text", "--data-dir", dir)
	require.Zero(t, code)
	require.Contains(t, text, "PRIVATE")
	copied := filepath.Join(t.TempDir(), sqlite.FileName)
	_, code = output(t, "ledger", "backup", "--data-dir", dir, copied)
	require.Zero(t, code)
	_, code = output(t, "ledger", "backup", "--data-dir", dir, copied)
	require.Equal(t, exitFailure, code)
	text, code = output(t, "ledger", "check", "--data-dir", filepath.Dir(copied))
	require.Zero(t, code)
	require.Contains(t, text, "1 queued")
	require.NoError(t, l.Accept(t.Context(), task.Task{ID: "two", Seq: 2, AcceptedAt: time.Now()}))
	require.NoError(t, l.Close())

	older, err := os.ReadFile(copied)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, older, 0o600))
	l, err = sqlite.Open(sqlite.Options{Path: path})
	require.NoError(t, err)
	require.NoError(t, l.Close())
	text, code = output(t, "ledger", "check", "--data-dir", dir)
	require.Zero(t, code, "what is there is whole")
	require.Contains(t, text, "Lost: the last commits are missing (1), ")
	require.Contains(t, text, "Nothing is damaged.\n")

	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("noise", 1000)), 0o600))
	for _, command := range []string{"check", "export"} {
		_, code = output(t, "ledger", command, "--data-dir", dir)
		require.Equal(t, exitFailure, code)
	}
	for _, args := range [][]string{{"ledger", "check"}, {"ledger", "check", "--config", config, "--data-dir", dir}, {"ledger"}, {"ledger", "backup", "--data-dir", dir}} {
		_, code = output(t, args...)
		require.Equal(t, exitUsage, code, args)
	}
}
