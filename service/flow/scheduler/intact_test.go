// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// changed makes the first replica one whose files change while it runs a task.
func (r *rig) changed() {
	r.set(func() {
		r.replicas[0].changed = task.Errorf(task.WorkerReset, "the files changed while the task ran: send the task again").Retry(0)
	})
}

// LO-808: what a worker has sent after its files changed gets no receipt, though it ended well; and no other replica is waited for, since none
// gives the same bytes.
func TestATaskWhoseWorkersFilesChangedHasNoReceipt(t *testing.T) {
	for name, kind := range map[string]func(*task.Task){"strict": func(*task.Task) {}, "best effort": bestEffort} {
		t.Run(name, func(t *testing.T) {
			run(t, 2, nil, func(t *testing.T, r *rig) {
				r.changed()
				began := time.Now()
				r.must("a", kind)
				stream := r.read("a")
				require.Contains(t, stream, `"code":"WORKER_RESET"`)
				require.Contains(t, stream, "the files changed")
				require.Contains(t, stream, `"retriable":true`)
				require.NotContains(t, stream, "receipt")
				require.Equal(t, 100*time.Millisecond, time.Since(began), "the time of its ten tokens")
				require.Equal(t, []string{"a"}, r.order)
				require.Nil(t, r.book.records["a"].End)
			})
		})
	}
}

// LO-808, LO-203: a task that has sent nothing runs again elsewhere, also where the worker died of the change.
func TestATaskThatSentNothingMovesFromAWorkerWhoseFilesChanged(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.changed()
		r.must("a", func(t *task.Task) { t.Request.Workload = task.Embedding })
		require.Contains(t, r.read("a"), "event: end")
		require.JSONEq(t, `[[1]]`, string(r.book.records["a"].End.Result))
		require.Equal(t, "default-1", r.book.records["a"].End.Receipt.ReplicaID)
	})
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.changed()
		r.set(func() { r.replicas[0].dies = -1 })
		r.must("b")
		require.Contains(t, r.read("b"), "event: end")
		require.Equal(t, "default-1", r.book.records["b"].End.Receipt.ReplicaID)
	})
}

// LO-808: a cancel stays one, whatever becomes of the files.
func TestACancelIsNoChangeOfFiles(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.changed()
		r.must("a", tokens(1000))
		time.Sleep(50 * time.Millisecond)
		got, err := r.s.Cancel(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, task.StateCanceled, got.Outcome)
		require.Contains(t, r.read("a"), `"code":"CANCELED"`)
	})
}
