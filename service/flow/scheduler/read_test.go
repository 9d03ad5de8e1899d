// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-430, LO-432: the record of a task says all that its readers were told so far, and whether they may have been told more by an earlier run.
func TestTheRecordOfATask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		strict := func(t *task.Task) { t.Determinism = task.Strict }
		record := func(id string) (task.Record, bool) {
			got, again, err := r.s.Record(t.Context(), id)
			require.NoError(t, err)
			return got, again
		}
		r.must("long", tokens(100), strict)
		r.must("waits", tokens(3))
		time.Sleep(205 * time.Millisecond)
		got, again := record("long")
		require.Equal(t, task.Running, got.State)
		require.NotEmpty(t, got.Transcript.Text)
		require.Less(t, len(got.Transcript.Ends), 100)
		require.Equal(t, 1+len(got.Transcript.Ends), got.Events().Len())
		require.False(t, again)
		got, again = record("waits")
		require.Equal(t, task.Queued, got.State)
		require.Equal(t, 1, got.Events().Len())
		require.False(t, again)
		_, _, err := r.s.Record(t.Context(), "nobody's")
		requireCode(t, task.NotFound, "no task", err)

		ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer stop()
		require.NoError(t, r.s.Stop(ctx))
		r = r.restart()
		defer r.stop()
		got, again = record("long")
		require.True(t, again, "the run before may have sent more")
		require.Equal(t, task.Running, got.State)
		r.read("long")
		whole := r.read("waits")
		got, again = record("waits")
		require.False(t, again)
		require.Equal(t, task.Completed, got.State)
		require.Equal(t, 3, len(got.Transcript.Ends))
		require.Equal(t, 5, got.Events().Len())
		require.Contains(t, whole, got.End.Receipt.TranscriptSHA256)

		s, err := r.s.Subscribe(t.Context(), "waits", "")
		require.NoError(t, err)
		defer s.Close()
		e, _, err := s.NextEvents(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, got.FinishedAt.UTC(), e.EndedAt.UTC(), "readers of the log are told the time that the record has")
		require.NoError(t, r.s.Delete(t.Context(), "waits", "me"))
		_, _, err = r.s.Record(t.Context(), "waits")
		requireCode(t, task.Deleted, "was deleted", err)
	})
}

// LO-432: who reads a task's end while it ends is told the time that the record has.
func TestTheTimeOfTheEnd(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("a", tokens(3))
		s, err := r.s.Subscribe(t.Context(), "a", "")
		require.NoError(t, err)
		defer s.Close()
		var last task.Events
		for ended := false; !ended; ended = last.Ended() {
			last, _, err = s.NextEvents(t.Context(), nil)
			require.NoError(t, err)
			s.Written()
		}
		got, _, err := r.s.Record(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, got.FinishedAt, last.EndedAt)
		end := last.At(last.Len() - 1)
		require.Equal(t, got.FinishedAt, end.At)
	})
}
