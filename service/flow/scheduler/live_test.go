// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-607: who looks at all tasks sees those that run with what they have said, and those that wait in their order. No task takes that for a reader.
func TestLiveTasksAreSeenWithoutReadingThem(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("warm")
		r.read("warm") // 10 tokens at 10 ms
		r.must("runs", func(q *task.Task) { q.Request.OnDisconnect = task.CancelIt })
		synctest.Wait()
		r.must("b1", batch)
		r.must("b2", batch)
		r.must("i1", deadline(time.Hour))
		time.Sleep(35 * time.Millisecond)
		synctest.Wait()
		live := r.s.Live(2, 8)
		require.Len(t, live, 3, "the first two that wait")
		first := live[0]
		require.Equal(t, "runs", first.ID)
		require.Equal(t, task.PhaseDecode, first.Phase)
		require.Equal(t, 3, first.TokensOut)
		require.NotEmpty(t, first.Tail)
		require.LessOrEqual(t, len(first.Tail), 8)
		require.Equal(t, "i1", live[1].ID)
		require.Equal(t, 0, live[1].QueuePosition)
		require.Equal(t, 1.0, live[1].OnTime)
		require.Equal(t, time.Hour, live[1].Deadline)
		require.Equal(t, 65*time.Millisecond, time.Until(live[1].StartsAt), "when the one that runs is done")
		require.Equal(t, "b1", live[2].ID)
		ends := r.s.Ends()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Empty(t, r.s.Live(2, 8))
		require.Equal(t, task.Completed, r.status("runs").State, "nobody read it and left")
		require.Equal(t, ends+4, r.s.Ends())
		recent, err := r.s.Recent(t.Context(), 2)
		require.NoError(t, err)
		require.Len(t, recent, 2)
		require.True(t, recent[0].FinishedAt.After(recent[1].FinishedAt))
		o := r.s.Outlook()
		require.Equal(t, 5, o.Starts)
		require.Equal(t, 5, o.Near)
		require.Equal(t, task.Chance{Tasks: 1, Told: 1, Kept: 1}, o.Chances[4])
	})
}

// LO-607: a chance is compared with what came of it. What was canceled, or failed for another reason, says nothing.
func TestTheOutlook(t *testing.T) {
	var o outlook
	chance := func(f float64) *float64 { return &f }
	missed := task.Record{State: task.Failed, Err: task.Errorf(task.DeadlineUnmet, "late")}
	o.ended(missed, chance(0.3))
	o.ended(task.Record{State: task.Completed}, chance(0.39))
	o.ended(task.Record{State: task.Completed}, nil)
	o.ended(task.Record{State: task.StateCanceled, Err: task.Errorf(task.Canceled, "no")}, chance(0.3))
	o.ended(missed, chance(1))
	require.Equal(t, [5]task.Chance{1: {Tasks: 2, Told: 0.3 + 0.39, Kept: 1}, 4: {Tasks: 1, Told: 1}}, o.o.Chances)
	o.started(0, 900*time.Millisecond)
	o.started(10*time.Second, 13*time.Second)
	o.started(0, 5*time.Second)
	require.Equal(t, 3, o.o.Starts)
	require.Equal(t, 2, o.o.Near)
	require.Equal(t, 5*time.Second, o.o.Off)
}
