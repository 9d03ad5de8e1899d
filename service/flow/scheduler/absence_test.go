// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-405: after a restart, the client of a front's task has as long to come back as its request says. Tasks of the native API wait for nobody.
func TestAFrontsTasksWaitForTheirClientsAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fronts := func(within time.Duration) func(*task.Task) {
			return func(t *task.Task) {
				t.Request.Front.Dialect, t.Request.OnDisconnect, t.Request.ReturnWithin = "openai", task.CancelIt, within
			}
		}
		first := newRig(t, 1, nil)
		first.must("runs", tokens(100000), fronts(0))
		synctest.Wait()
		first.must("gone", fronts(0))
		first.must("late", fronts(time.Minute))
		first.must("native", func(t *task.Task) { t.Request.OnDisconnect = task.CancelIt })
		time.Sleep(50 * time.Millisecond)
		left := first.crash()
		require.Len(t, left, 4)

		r := newUnstartedRig(t, first.book, 1, nil)
		r.set(func() { r.replicas[0].ready = false }) // so that all of them wait
		r.s.Recover(left)
		require.NoError(t, r.s.Start(t.Context()))
		defer r.stop()
		states := func() (out []task.State) {
			synctest.Wait()
			for _, id := range []string{"runs", "gone", "late", "native"} {
				out = append(out, r.status(id).State)
			}
			return out
		}
		time.Sleep(r.s.o.ReturnWithin - time.Millisecond)
		require.Equal(t, []task.State{task.Running, task.Queued, task.Queued, task.Queued}, states())
		s, err := r.s.Subscribe(t.Context(), "runs", "")
		require.NoError(t, err)
		time.Sleep(2 * time.Millisecond)
		require.Equal(t, []task.State{task.Running, task.StateCanceled, task.Queued, task.Queued}, states(), "a client that came back stops the clock")
		s.Close()
		time.Sleep(time.Minute)
		got := states()
		require.Equal(t, []task.State{task.StateCanceled, task.StateCanceled, task.StateCanceled, task.Queued}, got)
	})
}
