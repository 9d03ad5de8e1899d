// SPDX-License-Identifier: GPL-3.0-or-later

package note_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger/note"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-202: a start waits a little, and is dropped if its task ends meanwhile; a checkpoint goes with the next commit, and never back.
func TestNotesWaitAndRipen(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	n := note.New()
	require.True(t, n.Empty())
	require.True(t, n.Start(task.Dispatch{ID: "a"}, 1, now), "it is the first")
	require.False(t, n.Start(task.Dispatch{ID: "b"}, 2, now.Add(time.Millisecond)))
	require.False(t, n.Start(task.Dispatch{ID: "a", ReplicaID: "r"}, 3, now), "it has its place already")
	require.Equal(t, now.Add(note.StartAfter), n.Due())
	starts, marks := n.Take(now.Add(note.StartAfter), false)
	require.Empty(t, marks)
	require.Len(t, starts, 1)
	require.Equal(t, int64(1), starts[0].Place)
	require.Equal(t, "r", starts[0].ReplicaID)
	n.Back(starts[0], now)
	require.NotNil(t, n.Of("a"))
	require.NotNil(t, n.Drop("a"))
	require.Nil(t, n.Of("a"))

	require.True(t, n.Checkpoint("b", task.Checkpoint{Event: 5}, now))
	require.False(t, n.Checkpoint("b", task.Checkpoint{Event: 4}, now))
	_, marks = n.Take(now, false)
	require.Empty(t, marks, "nobody commits, and it is young")
	_, marks = n.Take(now, true)
	require.Equal(t, map[string]task.Checkpoint{"b": {Event: 5}}, marks)
	n.Checkpoint("b", task.Checkpoint{Event: 6}, now)
	n.Unmark("b")
	n.Ripen()
	starts, marks = n.Take(now, false)
	require.Len(t, starts, 1, "all that waits is due, and what became needless is gone")
	require.Equal(t, "b", starts[0].ID)
	require.Empty(t, marks)
	require.True(t, n.Empty())
}
