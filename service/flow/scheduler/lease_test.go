// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"errors"
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

var errTakenElsewhere = errors.New("taken")

// raced is a ledger in which another daemon accepts each task right before.
type raced struct {
	*book

	other atomic.Bool // the other's body is another one
}

func (r *raced) AcceptRunning(ctx context.Context, t task.Task, _ task.Dispatch) error {
	if r.other.Load() {
		t.Request.BodySHA256 = [32]byte{2}
	}
	t.PoolID = "another's"
	if err := r.Accept(ctx, t); err != nil {
		return err
	}
	return errTakenElsewhere
}

// LO-716: of two submits of one id to two daemons, the one that comes second gets the admission of the first, or CONFLICT.
func TestTheOtherDaemonWasFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUnstartedRig(t, &book{records: map[string]task.Record{}}, 1, nil)
		racing := &raced{book: r.book}
		r.s.o.Ledger, r.s.o.Taken = racing, func(err error) bool { return errors.Is(err, errTakenElsewhere) }
		require.NoError(t, r.s.Start(t.Context()))
		defer r.stop()
		synctest.Wait()
		same := func(t *task.Task) { t.Request.ID, t.Request.BodySHA256 = t.ID, [32]byte{1} }
		a, err := r.submit("a", same)
		require.NoError(t, err)
		require.Equal(t, "another's", a.PoolID)
		time.Sleep(time.Second) // its slot is free again
		synctest.Wait()
		racing.other.Store(true)
		_, err = r.submit("b", same)
		require.True(t, task.HasCode(err, task.Conflict), "%v", err)
		synctest.Wait()
		require.Empty(t, r.s.jobs())
	})
}
