// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-803: a panic in a run ends its task as INTERNAL, with a line in the log. Its neighbour and its slot know nothing of it.
func TestAPanicEndsOneTask(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].panics = "an adapter is wrong" })
		r.must("hit")
		r.must("neighbour")
		got := r.read("hit")
		require.Contains(t, got, `"code":"INTERNAL"`)
		require.NotContains(t, got, "an adapter is wrong", "that is for the log")
		require.Contains(t, r.read("neighbour"), "event: end\n")
		require.EqualValues(t, 1, r.panics.Load())
		require.Equal(t, task.Failed, r.status("hit").State)

		r.set(func() { r.replicas[0].panics = "" })
		r.must("next")
		require.Contains(t, r.read("next"), "event: end\n")
		require.EqualValues(t, 1, r.panics.Load())
	})
}

// LO-803: where what is counted of a task panics, its outcome is recorded already, and stands.
func TestAPanicBehindTheOutcomeChangesNothing(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].tokensIn = -1 }) // a counter cannot go down, and panics
		r.must("hit")
		require.Contains(t, r.read("hit"), "event: end\n")
		require.EqualValues(t, 1, r.panics.Load())
		require.Equal(t, task.Completed, r.status("hit").State)
		c, err := r.s.Cancel(t.Context(), "hit")
		require.NoError(t, err)
		require.Equal(t, task.Completed, c.Outcome)
	})
}

// LO-803: where the end itself panics, the task ends as INTERNAL; where the ledger does, nobody sees an end that is not recorded.
func TestAPanicWithinTheEnd(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("hit")
		time.Sleep(15 * time.Millisecond) // on the virtual clock: it has sent a token
		j := r.s.job("hit")
		require.True(t, j.claim(nil))
		r.s.end(j, task.Failed, nil, nil) // an error that is missing
		require.Contains(t, r.read("hit"), `"code":"INTERNAL"`)
		require.EqualValues(t, 1, r.panics.Load())
		r.must("next")
		require.Contains(t, r.read("next"), "event: end\n")
	})
}

// LO-802: where the clock was set back since the accept, what a client is told of its task is not below 0.
func TestAClockThatWasSetBack(t *testing.T) {
	run(t, 0, nil, func(t *testing.T, r *rig) {
		r.must("waiting", func(t *task.Task) { t.AcceptedAt = t.AcceptedAt.Add(time.Hour) })
		require.GreaterOrEqual(t, r.status("waiting").PredictedStart, time.Duration(0))
	})
}

// LO-803: a panic in a submit refuses that task as INTERNAL, whatever broke. It leaves nothing in the queue, and its id is free.
func TestAPanicWithinASubmit(t *testing.T) {
	for _, what := range []string{"the number", "the accept"} {
		t.Run(what, func(t *testing.T) {
			run(t, 1, nil, func(t *testing.T, r *rig) {
				r.book.panics.Store(what)
				_, err := r.submit("hit")
				require.True(t, task.HasCode(err, task.Internal), "%v", err)
				require.EqualValues(t, 1, r.panics.Load())
				r.book.panics.Store("")
				require.Zero(t, r.s.Backlog("default"))
				r.must("next")
				require.Contains(t, r.read("next"), "event: end\n")
				r.must("hit")
				require.Contains(t, r.read("hit"), "event: end\n")
			})
		})
	}
}
