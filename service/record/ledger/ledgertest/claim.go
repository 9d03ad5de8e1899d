// SPDX-License-Identifier: GPL-3.0-or-later

package ledgertest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

func claimed(t *testing.T, l Opened) {
	first := claim(t, l)
	require.Empty(t, first.Tasks)
	require.NotZero(t, first.Fence)
	accept(t, l, 1, 2)
	require.Equal(t, ledger.Claim{Owner: "me", Fence: first.Fence}, claim(t, l), "what it accepted is its own")
	l = reopen(t, l)
	second := claim(t, l)
	require.Equal(t, []string{ID(1), ID(2)}, ids(second.Tasks))
	require.Greater(t, second.Fence, first.Fence)
	require.Empty(t, claim(t, l).Tasks)
	finish(t, l, Ended(Sample(1), task.Completed))
	require.Equal(t, []string{ID(2)}, ids(claim(t, reopen(t, l)).Tasks))
}

// contexts: a call whose context has ended says so, or has done what was asked.
func contexts(t *testing.T, l Opened) {
	accept(t, l, 1)
	gone, leave := context.WithCancel(t.Context())
	leave()
	_, _, err := l.Get(gone, ID(1))
	require.ErrorIs(t, err, context.Canceled)
	_, _, err = l.Proven(gone, [32]byte{1})
	require.ErrorIs(t, err, context.Canceled)
	_, err = l.List(gone, "", 1)
	require.ErrorIs(t, err, context.Canceled)
	_, err = l.Live(gone)
	require.ErrorIs(t, err, context.Canceled)
	_, err = l.Sessions(gone)
	require.ErrorIs(t, err, context.Canceled)
	_, err = l.Spent(gone, Epoch)
	require.ErrorIs(t, err, context.Canceled)
	for seq := uint64(2); seq < 50; seq++ {
		err := l.Accept(gone, Sample(seq))
		_, there, failed := l.Get(t.Context(), ID(seq))
		require.NoError(t, failed)
		require.Equal(t, err == nil, there, "%v", err)
	}
}

func closed(t *testing.T, l Opened) {
	accept(t, l, 1)
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Accept(t.Context(), Sample(2)), ledger.ErrClosed)
	require.ErrorIs(t, l.Dispatch(t.Context(), Dispatched(Sample(1))), ledger.ErrClosed)
	require.ErrorIs(t, l.Finish(t.Context(), Ended(Sample(1), task.Completed)), ledger.ErrClosed)
	require.ErrorIs(t, l.KeepSession(t.Context(), Session("s")), ledger.ErrClosed)
	require.ErrorIs(t, l.Delete(t.Context(), ID(1), Epoch), ledger.ErrClosed)
	_, err := l.Claim(t.Context(), task.Host{ID: "me"})
	require.ErrorIs(t, err, ledger.ErrClosed)
	_, err = l.NextSeq()
	require.ErrorIs(t, err, ledger.ErrClosed)
	l.Checkpoint(ID(1), mark(1))
	l.Started(Dispatched(Sample(1)))
	_, _, err = l.Get(t.Context(), ID(1))
	require.Error(t, err)
	left := claim(t, reopen(t, l)).Tasks
	require.Equal(t, []string{ID(1)}, ids(left))
	require.Equal(t, task.Queued, left[0].State)
}

func alone(t *testing.T, l Opened) {
	accept(t, l, 1)
	_, err := l.Second()
	require.Error(t, err)
	accept(t, l, 2)
	require.NoError(t, l.Close())
	other, err := l.Second()
	require.NoError(t, err)
	require.Equal(t, []string{ID(1), ID(2)}, ids(claim(t, other).Tasks))
	require.NoError(t, other.Close())
}

// fenced: two daemons share a store, and one of them hangs.
func fenced(t *testing.T, l Opened) {
	mine := claim(t, l)
	accept(t, l, 1, 2)
	other, err := l.Second()
	require.NoError(t, err)
	theirs := claimAs(t, other, "another")
	require.Empty(t, theirs.Tasks)
	require.Greater(t, theirs.Fence, mine.Fence)
	require.ErrorIs(t, other.Finish(t.Context(), Ended(Sample(1), task.Completed)), ledger.ErrFenced)
	accept(t, other, 3)
	r := get(t, other, ID(1)) // any daemon answers for any task
	require.Equal(t, task.Queued, r.State)

	l.Lapse()
	require.Equal(t, []string{ID(1), ID(2)}, ids(claimAs(t, other, "another").Tasks))
	require.ErrorIs(t, l.Dispatch(t.Context(), Dispatched(Sample(1))), ledger.ErrFenced)
	require.ErrorIs(t, l.Finish(t.Context(), Ended(Sample(2), task.StateCanceled)), ledger.ErrFenced)
	l.Started(Dispatched(Sample(1)))
	l.Checkpoint(ID(1), mark(3))
	l.Settle()
	require.Equal(t, r, get(t, l, ID(1)), "a write with an old number changes nothing")
	finish(t, other, Ended(Sample(1), task.Completed, "x"))

	again := claim(t, l) // it is back, and takes what nobody holds
	require.Greater(t, again.Fence, theirs.Fence)
	require.Empty(t, again.Tasks)
	require.NoError(t, other.Close())
	require.Equal(t, []string{ID(2), ID(3)}, ids(claim(t, l).Tasks))
}
