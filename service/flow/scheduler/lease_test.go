// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-718: while another daemon may have the pool, clients are told nothing more. When the lease goes on, so does the stream, with the same bytes.
func TestNothingIsSentWithoutALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		defer r.stop()
		whole := r.must("whole")
		r.read(whole.TaskID)
		var over atomic.Bool
		r.s.o.MaySend = func(string) bool { return !over.Load() }
		over.Store(true)
		again := r.must("whole-2", func(t *task.Task) { t.Prompt = "whole" })
		time.Sleep(time.Minute - time.Second)
		synctest.Wait()
		require.Zero(t, r.s.job(again.TaskID).log.Tokens())
		require.Equal(t, task.Running, r.status(again.TaskID).State)
		over.Store(false)
		r.read(again.TaskID)
		require.Equal(t, r.book.records[whole.TaskID].Transcript.Text, r.book.records[again.TaskID].Transcript.Text)
		require.NotEmpty(t, r.book.records[again.TaskID].Transcript.Text)
	})
}

// LO-711: a pool whose queue is another daemon's takes no task here, and the refusal is that of whoever knows the other.
func TestAPoolOfAnotherDaemonTakesNoTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		defer r.stop()
		r.s.o.Refusal = func(pool string) error { return task.Errorf(task.PoolUnavailable, "pool %s is cellar's", pool) }
		_, err := r.submit("a")
		require.ErrorContains(t, err, "pool default is cellar's")
		require.Empty(t, r.s.jobs())
	})
}
