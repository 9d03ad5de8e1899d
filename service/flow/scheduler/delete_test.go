// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// requireCode asks that an error has a code and says something.
func requireCode(t *testing.T, code task.Code, says string, err error) {
	t.Helper()
	require.True(t, task.HasCode(err, code), "%v", err)
	require.Contains(t, task.AsError(err).Message, says)
}

// LO-832
func TestAnEndedTaskIsDeleted(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("long", tokens(1000))
		synctest.Wait()
		requireCode(t, task.Conflict, "cancel it first", r.s.Delete(t.Context(), "long", "me"))
		r.must("waits", tokens(1))
		requireCode(t, task.Conflict, "cancel it first", r.s.Delete(t.Context(), "waits", "me"))
		requireCode(t, task.NotFound, "no task", r.s.Delete(t.Context(), "nobody's", "me"))
		_, err := r.s.Cancel(t.Context(), "long")
		require.NoError(t, err)
		whole := r.read("waits")
		require.NoError(t, r.s.Delete(t.Context(), "long", "me"), "as soon as its end was told")

		// One reader has read half of it when it is deleted. It gets the rest, and nobody joins it.
		early, err := r.s.Subscribe(t.Context(), "waits", "")
		require.NoError(t, err)
		defer early.Close()
		got, err := early.Next(t.Context(), nil)
		require.NoError(t, err)
		at := time.Now().UTC().Format(time.RFC3339)
		require.NoError(t, r.s.Delete(t.Context(), "waits", "me"))
		for name, err := range map[string]error{
			"the stream": func() error { _, err := r.s.Subscribe(t.Context(), "waits", ""); return err }(),
			"the status": func() error { _, err := r.s.Get(t.Context(), "waits"); return err }(),
			"the cancel": func() error { _, err := r.s.Cancel(t.Context(), "waits"); return err }(),
		} {
			require.True(t, task.HasCode(err, task.Deleted), "%s: %v", name, err)
			require.Contains(t, err.Error(), at, name)
		}
		early.Written()
		for {
			more, err := early.Next(t.Context(), nil)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			got = append(got, more...)
			early.Written()
		}
		require.Equal(t, whole, string(got))

		time.Sleep(time.Hour)
		require.NoError(t, r.s.Delete(t.Context(), "waits", "me"), "again")
		_, err = r.submit("waits", tokens(1))
		requireCode(t, task.Deleted, "was deleted at "+at, err)
		listed := r.list("", 10)
		require.Len(t, listed, 2)
		for _, s := range listed {
			require.False(t, s.DeletedAt.IsZero())
			require.Nil(t, s.End)
			require.Empty(t, s.LastEventID)
		}
		require.Equal(t, 1, r.list(task.Completed, 1)[0].TokensOut)

		r.book.full.Store(true)
		requireCode(t, task.LedgerUnavailable, "try again", r.s.Delete(t.Context(), "waits", "me"))
	})
}

// A record that is damaged is not shown, and one that nobody can run any more is ended, and holds up no other.
// LO-834
func TestADamagedRecordIsNotReplayed(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("changed", tokens(2))
		whole := r.read("changed")
		require.NotEmpty(t, whole)
		synctest.Wait()
		require.NoError(t, r.book.change("changed", func(r *task.Record) { r.Transcript.Text = "~" + r.Transcript.Text[1:] }))
		_, err := r.s.Subscribe(t.Context(), "changed", "")
		requireCode(t, task.Internal, "`llama-orch rm changed`", err)
		require.NoError(t, r.s.Delete(t.Context(), "changed", "me"))

		broken := task.Record{
			Task: task.Task{ID: "broken", Seq: 7, PoolID: "default"}, State: task.Queued, Err: task.Errorf(task.Internal, "run `llama-orch rm broken`"),
		}
		sound := task.Record{Task: task.Task{
			ID: "sound", Seq: 8, Prompt: "sound", PoolID: "default", Engine: "llamacpp", Determinism: task.Strict, AcceptedAt: time.Now(),
			Request: task.Request{ID: "sound", Workload: task.Completion, Priority: task.Interactive, MaxTokens: 3},
		}, State: task.Queued}
		r.s.Recover([]task.Record{broken, sound})
		r.s.Wake("default")
		require.Contains(t, r.read("sound"), "event: end")
		synctest.Wait()
		s := r.status("broken")
		require.Equal(t, task.Failed, s.State)
		require.Equal(t, task.Internal, s.Err.Code)
	})
}

// Of two tasks the one that was accepted later is listed first, whatever the clock said when it was accepted.
// LO-835
func TestListsAreInTheOrderOfAcceptance(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		ahead := func(t *task.Task) { t.AcceptedAt = t.AcceptedAt.Add(24 * time.Hour) }
		r.must("old", ahead, tokens(1))
		r.read("old")
		r.must("new", tokens(1))
		r.read("new")
		r.must("waits", tokens(100))
		r.must("waits too", ahead, tokens(1))
		r.must("newest", tokens(1))
		var listed []string
		for _, s := range r.list("", 10) {
			listed = append(listed, s.ID)
		}
		require.Equal(t, []string{"newest", "waits too", "waits", "new", "old"}, listed)
	})
}
