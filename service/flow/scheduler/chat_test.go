// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// chat makes a task one of messages that admission has rendered to the task's id.
func chat(t *task.Task) {
	t.Request.Messages = []task.Message{{Role: task.RoleUser, Content: "hi"}}
	t.RequestDigest = t.Digest()
}

var kinds = []task.EventKind{task.EventReasoning, task.EventText, task.EventToolCall, task.EventText, task.EventToolCall}

// LO-412, LO-203: thinking and calls of a task whose worker dies are made again, ids included, and compared.
func TestAChatMovesToAnotherReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		undisturbed := newRig(t, 1, nil)
		undisturbed.replicas[0].kinds = kinds
		undisturbed.must("a", chat)
		want := undisturbed.read("a")
		undisturbed.stop()
		require.Contains(t, want, `"channel":"reasoning"`)
		digest := undisturbed.status("a").End.Receipt.RequestDigest
		require.Contains(t, want, `"n":2,"id":"`+engine.CallID(digest, 2)+`","name":"write"`)

		r := newRig(t, 2, nil)
		defer r.stop()
		r.replicas[0].kinds, r.replicas[1].kinds, r.replicas[0].dies = kinds, kinds, 4
		r.must("a", chat)
		got := r.read("a")
		end := strings.Index(want, "id: 11-") // behind that, the receipt names another replica
		require.Equal(t, want[:end], got[:end])
		require.Contains(t, got, "event: end")
		require.Equal(t, "default-1", r.status("a").ReplicaID)
		require.Equal(t, task.FormParts, r.status("a").End.Receipt.TranscriptForm)
	})
}

// LO-412: the same text as another kind of piece is not the same.
func TestAPieceOfAnotherKindIsAReset(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.replicas[0].kinds, r.replicas[0].dies = kinds, 4
		r.must("a", chat)
		require.Contains(t, r.read("a"), "did not give what was already sent")
	})
}

// LO-412: a prompt that cannot be made again becomes the task's while nothing was sent, with its digest.
func TestAnotherPromptIsTakenBeforeTheFirstPiece(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.replicas[0].renders = "of-today "
		r.must("a", chat)
		got := r.read("a")
		require.Contains(t, got, "of-today 0")
		want := r.status("a")
		was := task.Task{Prompt: "of-today ", Seed: 0, Request: task.Request{Workload: task.Completion, MaxTokens: 10}}
		require.Equal(t, was.Digest(), want.End.Receipt.RequestDigest)
	})
}

// LO-412: once something was sent, another prompt ends the task with the reason, and no other replica is tried.
func TestAnotherPromptBehindTheFirstPieceIsAReset(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.replicas[0].dies, r.replicas[1].renders = 3, "of-today "
		r.must("a", chat)
		got := r.read("a")
		require.Contains(t, got, `"code":"WORKER_RESET"`)
		require.Contains(t, got, "chat template makes another prompt now")
		require.NotContains(t, got, "of-today")
		require.Len(t, r.order, 2)
	})
}

// LO-412: a prompt that a run took is what the next run is held to.
func TestTheTakenPromptStays(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.replicas[0].renders, r.replicas[1].renders, r.replicas[0].dies = "of-today ", "of-today ", 3
		r.must("a", chat)
		got := r.read("a")
		require.Contains(t, got, "event: end")
		require.Contains(t, got, "of-today 9")
		require.Equal(t, []string{"a", "of-today "}, r.order)
	})
}

// LO-412, LO-202: what an earlier process sent is not known, so a resumed task takes no other prompt.
func TestAResumedTaskTakesNoOtherPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.replicas[0].every *= 100
		r.must("a", chat, tokens(100))
		synctest.Wait()
		left := r.crash()
		next := newUnstartedRig(t, r.book, 1, nil)
		next.replicas[0].renders = "of-today "
		next.s.Recover(left)
		require.NoError(t, next.s.Start(t.Context()))
		defer next.stop()
		require.Contains(t, next.read("a"), "chat template makes another prompt now")
	})
}

// LO-412, LO-202: the same where the note of a strict task's dispatch was lost with the process, so that it seems to have waited.
func TestARestoredTaskTakesNoOtherPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.replicas[0].every *= 100
		r.book.forgets.Store(true)
		r.must("first")
		r.must("a", chat, tokens(100))
		r.read("first")
		synctest.Wait()
		require.Equal(t, task.Running, r.status("a").State)
		left := r.crash()
		require.Equal(t, task.Queued, left[0].State)
		next := newUnstartedRig(t, r.book, 1, nil)
		next.replicas[0].renders = "of-today "
		next.s.Recover(left)
		require.NoError(t, next.s.Start(t.Context()))
		defer next.stop()
		require.Contains(t, next.read("a"), "chat template makes another prompt now")
	})
}

// LO-412, LO-202: a prompt that a run took is on the disk before the first piece, with its day, so that a run behind a crash asks for the same.
func TestTheTakenPromptOutlivesACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		r.replicas[0].every *= 100
		r.replicas[0].renders = "of-today "
		r.must("a", chat, tokens(100))
		synctest.Wait()
		taken := time.Now()
		left := r.crash()
		require.Equal(t, "of-today ", left[0].Task.Prompt)
		require.True(t, taken.Equal(left[0].Task.RenderedAt), left[0].Task.RenderedAt)
		require.Equal(t, left[0].Task.Digest(), left[0].Task.RequestDigest)
		next := newUnstartedRig(t, r.book, 1, nil)
		next.replicas[0].renders = "of-today "
		next.s.Recover(left)
		require.NoError(t, next.s.Start(t.Context()))
		defer next.stop()
		got := next.read("a")
		require.Contains(t, got, "of-today 99")
		require.Contains(t, got, left[0].Task.RequestDigest)
	})
}

// LO-412: a task that is being ended takes no other prompt: its record has the one before.
func TestATaskThatEndsTakesNoPrompt(t *testing.T) {
	j := newJob(nil, task.Task{})
	j.state = ending
	require.False(t, j.rendered(&task.Task{}, "x", time.Now()))
	require.Nil(t, j.prompt)
}

// LO-412, LO-202, OC-CORE-1022: where the new prompt cannot be recorded, nothing is decoded from it: a strict task waits, for longer than any watchdog, and a
// best-effort one fails.
func TestAPromptThatIsNotRecordedIsNotDecoded(t *testing.T) {
	for strict, want := range map[bool]string{true: "event: end", false: `"code":"LEDGER_UNAVAILABLE"`} {
		run(t, 1, nil, func(t *testing.T, r *rig) {
			r.replicas[0].renders = "of-today "
			r.book.noPrompts.Store(true)
			r.must("a", chat, func(t *task.Task) {
				if !strict {
					t.Determinism = task.BestEffort
				}
			})
			time.Sleep(time.Hour)
			require.Zero(t, r.status("a").TokensOut)
			r.book.noPrompts.Store(false)
			require.Contains(t, r.read("a"), want)
		})
	}
}
