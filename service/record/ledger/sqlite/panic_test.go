// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// Where the writer's goroutine panics, the process ends at once, with a line that says so and with the exit code of a failure. What it had
// answered before is there at the next start.
// LO-803, LO-202
func TestAPanicOfTheWriterEndsTheProcessAndLosesNothing(t *testing.T) {
	path := file(t)
	answered := map[uint64]task.State{}
	known := map[string]task.State{"accepted": task.Queued, "running": task.Running, "completed": task.Completed}
	cmd, lines := launch(t, "unsound", path)
	var told []string
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "{") {
			told = append(told, lines.Text())
			continue
		}
		noted(t, lines.Text(), known, answered)
	}
	var ended *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &ended)
	require.Equal(t, 1, ended.ExitCode())
	require.Len(t, told, 1)
	var line struct{ Level, Msg, Panic, Stack string }
	require.NoError(t, json.Unmarshal([]byte(told[0]), &line))
	require.Equal(t, "fatal", line.Level)
	require.Contains(t, line.Msg, "the writer of the ledger panicked, so this process ends on purpose")
	require.Equal(t, "index out of range", line.Panic)
	require.Contains(t, line.Stack, "(*Ledger).write")

	require.NotEmpty(t, answered)
	l := open(t, Options{Path: path})
	rank := map[task.State]int{task.Queued: 1, task.Running: 2, task.Completed: 3}
	for seq, state := range answered {
		require.GreaterOrEqual(t, rank[get(t, l, id(seq)).State], rank[state], "task %d was %s", seq, state)
	}
}
