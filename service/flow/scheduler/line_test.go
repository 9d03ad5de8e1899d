// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/task"
)

// ofBatch makes a task that of a line of a batch.
func ofBatch(t *task.Task) {
	t.Request.Priority, t.Request.BatchID, t.Request.BatchLine = task.Batch, "b", 1
}

// LO-437: lines of batches take no place in the queue, and no full queue drops them, after a restart neither. They run when nothing interactive waits.
func TestLinesOfBatchesTakeNoPlace(t *testing.T) {
	for _, policy := range []queue.Policy{queue.Reject, queue.DropLRU} {
		run(t, 1, func(p *Pool) { p.Policy = policy }, func(t *testing.T, r *rig) {
			r.must("first")
			synctest.Wait()
			for i := range 6 { // the queue has four places
				r.must(fmt.Sprint("line", i), ofBatch)
			}
			for i := range 4 {
				r.must(fmt.Sprint("own", i))
			}
			_, err := r.submit("more")
			require.Equal(t, policy == queue.Reject, task.HasCode(err, task.AdmissionReject), "%v", err)
			if policy == queue.DropLRU { // it took the place of the oldest that had one
				r.read("own0")
				require.Equal(t, task.QueueFullDropLRU, r.status("own0").Err.Code)
			}
			for i := range 6 {
				require.Equal(t, task.Queued, r.status(fmt.Sprint("line", i)).State)
			}
			stopped, end := context.WithTimeout(t.Context(), time.Nanosecond)
			defer end()
			require.NoError(t, r.s.Stop(stopped))
			again := r.restart()
			defer func() { require.NoError(t, again.s.Stop(t.Context())) }()
			interactive, batch := again.s.Depth("default")
			require.Equal(t, 6, batch)
			if interactive == 4 && policy == queue.Reject {
				_, err = again.submit("late")
				require.True(t, task.HasCode(err, task.AdmissionReject))
			}
			for i := range 6 {
				require.NoError(t, again.s.Await(t.Context(), fmt.Sprint("line", i)))
				require.Equal(t, task.Completed, again.status(fmt.Sprint("line", i)).State)
			}
			require.Equal(t, []string{"line0", "line1", "line2", "line3", "line4", "line5"}, again.order[len(again.order)-6:])
		})
	}
}

// Whoever awaits a task is told once it has ended, whether it waits, runs or has ended before; of an unknown one at once.
func TestAwait(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		began := time.Now()
		r.must("a")
		require.NoError(t, r.s.Await(t.Context(), "a"))
		require.Equal(t, task.Completed, r.status("a").State)
		require.Positive(t, time.Since(began))
		require.NoError(t, r.s.Await(t.Context(), "a"))
		require.True(t, task.HasCode(r.s.Await(t.Context(), "b"), task.NotFound))
		r.must("c")
		gone, leave := context.WithCancel(t.Context())
		leave()
		require.ErrorIs(t, r.s.Await(gone, "c"), context.Canceled)
		require.NoError(t, r.s.Await(t.Context(), "c"))
	})
}

// ORCH-2001, ORCH-2007, LO-437: nobody has to stay away because of lines of batches, and a refusal does not count them.
func TestLinesOfBatchesAskNobodyToStayAway(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("measured")
		r.read("measured")
		r.must("first")
		for i := range 6 { // the queue has four places
			r.must(fmt.Sprint("line", i), ofBatch)
		}
		for i, ms := range []int64{0, 0, 100, 200} { // two are half of the places
			require.Equal(t, ms, r.must(fmt.Sprint("own", i)).Backoff.Milliseconds())
		}
		_, err := r.submit("more")
		require.ErrorContains(t, err, "is full: 4 tasks wait")
	})
}
