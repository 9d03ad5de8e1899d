// SPDX-License-Identifier: GPL-3.0-or-later

package ledger

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

func finish(t *testing.T, m *Memory, n int, state task.State) {
	require.NoError(t, m.Finish(t.Context(), task.Record{Task: task.Task{ID: fmt.Sprint("t", n)}, State: state}))
}

func names(records []task.Record) (ids []string) {
	for _, r := range records {
		ids = append(ids, r.Task.ID)
	}
	return ids
}

func TestMemoryKeepsTheNewest(t *testing.T) {
	m := NewMemory(3)
	for n := range 5 {
		finish(t, m, n, task.Completed)
	}
	_, ok := m.Get("t1")
	require.False(t, ok)
	r, ok := m.Get("t4")
	require.True(t, ok)
	require.Equal(t, "t4", r.Task.ID)
	require.Equal(t, []string{"t4", "t3", "t2"}, names(m.List("", 10)))
	require.Equal(t, []string{"t4"}, names(m.List("", 1)))
	require.Len(t, m.finished, 3)
}

func TestMemoryListsByState(t *testing.T) {
	m := NewMemory(10)
	finish(t, m, 0, task.Completed)
	finish(t, m, 1, task.Failed)
	finish(t, m, 2, task.Completed)
	require.Equal(t, []string{"t2", "t0"}, names(m.List(task.Completed, 10)))
	require.Equal(t, []string{"t1"}, names(m.List(task.Failed, 10)))
}
