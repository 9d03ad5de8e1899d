// SPDX-License-Identifier: GPL-3.0-or-later

package todo_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/ci/todo"
)

const tracker = `# TODO

## Open

- **A thing** that is open.

## Log

<!-- newest first: date, what changed, where, and why -->

- 2026-01-02: the second, see [the guide](.docs/guide.md) and [a page](https://example.com/a).
- 2026-01-01: the first.
`

// The log goes to the archive, where its links still lead to the same files; what is open stays.
func TestTheLogIsArchived(t *testing.T) {
	script, err := os.ReadFile(filepath.Join("..", "scripts", "archive_todo.sh"))
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	require.NoError(t, os.MkdirAll(filepath.Join("ci", "scripts"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join("ci", "scripts", "archive_todo.sh"), script, 0o600))
	require.NoError(t, os.WriteFile("TODO.md", []byte(tracker), 0o600))

	require.NoError(t, todo.Todo{}.Archive(t.Context()))
	left, err := os.ReadFile("TODO.md")
	require.NoError(t, err)
	require.Equal(t, "# TODO\n\n## Open\n\n- **A thing** that is open.\n\n## Log\n\n<!-- newest first: date, what changed, where, and why -->\n", string(left))
	archives, err := filepath.Glob(filepath.Join(".docs", "DONE", "TODO-*.md"))
	require.NoError(t, err)
	require.Len(t, archives, 1)
	archived, err := os.ReadFile(archives[0])
	require.NoError(t, err)
	require.Contains(t, string(archived), "[the guide](../../.docs/guide.md) and [a page](https://example.com/a).\n- 2026-01-01: the first.\n")

	require.Error(t, todo.Todo{}.Archive(t.Context()), "an empty log is nothing to archive")
}
