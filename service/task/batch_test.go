// SPDX-License-Identifier: GPL-3.0-or-later

package task_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-437: an error that a new try helps brings the line another task, twice. Any other ends it.
func TestALineAfterItsTask(t *testing.T) {
	lost := task.Record{State: task.Failed, Err: task.Errorf(task.WorkerReset, "lost")}
	l := task.Line{Batch: "batch_1", N: 7, State: task.LineFed}
	require.Equal(t, "batch_1-7", l.TaskID())
	l = l.After(lost)
	require.Equal(t, task.LineWaits, l.State)
	require.Equal(t, "batch_1-7-2", l.TaskID())
	l = l.After(lost)
	require.Equal(t, task.LineWaits, l.State)
	require.Equal(t, "batch_1-7-3", l.TaskID())
	l = l.After(lost)
	require.Equal(t, task.LineFailed, l.State)
	require.Equal(t, "batch_1-7-3", l.TaskID(), "its result is that of its last task")

	l = task.Line{State: task.LineFed}
	require.Equal(t, task.LineCompleted, l.After(task.Record{State: task.Completed}).State)
	require.Equal(t, task.LineCanceled, l.After(task.Record{State: task.StateCanceled, Err: task.Errorf(task.Canceled, "x").Retry(0)}).State)
	require.Equal(t, task.LineFailed, l.After(task.Record{State: task.Failed, Err: task.Errorf(task.DecodeTimeout, "x")}).State)
	require.Equal(t, task.LineFailed, l.After(task.Record{State: task.Failed, Err: task.Errorf(task.WorkerReset, "x").Forever()}).State)
}

// Every state is counted apart.
func TestLineCounts(t *testing.T) {
	var c task.LineCounts
	for i, s := range task.LineStates() {
		*c.Of(s) = i + 1
	}
	require.Equal(t, task.LineCounts{Waiting: 1, Fed: 2, Completed: 3, Failed: 4, Canceled: 5, Expired: 6}, c)
	require.Equal(t, 3, c.Open())
}
