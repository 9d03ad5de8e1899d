// SPDX-License-Identifier: GPL-3.0-or-later

package todo_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/ci/todo"
)

// The log goes to the archive, where its links still lead to the same files; what is open stays.
func TestTheLogIsArchived(t *testing.T) {
	script, err := os.ReadFile(filepath.Join("..", "scripts", "archive_todo.sh"))
	require.NoError(t, err)
	tracker, err := os.ReadFile(filepath.Join("testdata", "tracker.txt"))
	require.NoError(t, err)
	kept, err := os.ReadFile(filepath.Join("testdata", "left.txt"))
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	require.NoError(t, os.MkdirAll(filepath.Join("ci", "scripts"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join("ci", "scripts", "archive_todo.sh"), script, 0o600))
	require.NoError(t, os.WriteFile("TODO.md", tracker, 0o600))

	require.NoError(t, todo.Todo{}.Archive(t.Context()))
	left, err := os.ReadFile("TODO.md")
	require.NoError(t, err)
	require.Equal(t, string(kept), string(left))
	archives, err := filepath.Glob(filepath.Join(".docs", "DONE", "*.md"))
	require.NoError(t, err)
	require.Len(t, archives, 1)
	archived, err := os.ReadFile(archives[0])
	require.NoError(t, err)
	require.Contains(t, string(archived), "[the guide](../../.docs/guide.md) and [a page](https://example.com/a).\n- 2026-01-01: the first.\n")

	require.Error(t, todo.Todo{}.Archive(t.Context()), "an empty log is nothing to archive")
}
