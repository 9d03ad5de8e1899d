// SPDX-License-Identifier: GPL-3.0-or-later

package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// OC-CORE-1003: a block holds so many neighbours and no more, and the next one begins behind it: else a push or a position costs what the queue is long.
func TestABlockIsFullAtItsSize(t *testing.T) {
	q := New[int](4*blockSize, Reject)
	for i := range 3 * blockSize {
		_, err := q.Push(task.Interactive, i, time.Time{})
		require.NoError(t, err)
	}
	require.Len(t, q.line.blocks, 1+3, "slot 0 is none")
	for _, b := range q.line.blocks[1:] {
		require.EqualValues(t, blockSize, b.count)
	}
	require.Len(t, q.line.nodes, 1+3*blockSize)
}

// OC-CORE-1003: what has left gives its slot and its block back, so that a queue needs as much memory as it was deep at most.
func TestSlotsAndBlocksAreUsedAgain(t *testing.T) {
	q := New[int](4*blockSize, Reject)
	for range 5 {
		for i := range 2 * blockSize {
			_, err := q.Push(task.Batch, i, time.Time{})
			require.NoError(t, err)
		}
		for i := range 2 * blockSize {
			got, ok := q.Pop()
			require.True(t, ok)
			require.Equal(t, i, got)
		}
	}
	require.Len(t, q.line.blocks, 1+2)
	require.Len(t, q.line.nodes, 1+2*blockSize)
}

// OC-CORE-1003: a block that gets empty between two others is taken out from between them.
func TestPositionsAreRightBehindABlockThatIsGone(t *testing.T) {
	for name, gone := range map[string]int{"the first": 0, "the middle": 1, "the last": 2} {
		t.Run(name, func(t *testing.T) {
			q := New[int](4*blockSize, Reject)
			var tickets []Ticket
			for i := range 3 * blockSize {
				done, err := q.Push(task.Interactive, i, time.Time{})
				require.NoError(t, err)
				tickets = append(tickets, done.Ticket)
			}
			for _, ticket := range tickets[gone*blockSize : (gone+1)*blockSize] {
				require.True(t, q.Cancel(ticket))
			}
			other, err := q.Push(task.Batch, -1, time.Time{}) // it takes the block
			require.NoError(t, err)
			require.Equal(t, 2*blockSize, other.Position)
			done, err := q.Push(task.Interactive, 3*blockSize, time.Time{})
			require.NoError(t, err)
			require.Equal(t, 2*blockSize, done.Position)
			left := append(append([]Ticket(nil), tickets[:gone*blockSize]...), tickets[(gone+1)*blockSize:]...)
			for i, ticket := range append(left, done.Ticket) {
				at, ok := q.Position(ticket)
				require.True(t, ok)
				require.Equal(t, i, at)
			}
		})
	}
}

// ORCH-3004: a queued task keeps the time at which it came, over a restart too.
func TestARestoredItemKeepsItsTime(t *testing.T) {
	q := New[int](1, Reject)
	_, none := q.Oldest(task.Batch)
	require.False(t, none)
	q.Restore(task.Batch, 1, time.Unix(7, 0))
	at, ok := q.Oldest(task.Batch)
	require.True(t, ok)
	require.Equal(t, time.Unix(7, 0), at)
}

// OC-CORE-1003: what has left is not held in memory any more, and its ticket names nothing.
func TestWhatHasLeftIsForgotten(t *testing.T) {
	q := New[*int](1, Reject)
	done, err := q.Push(task.Batch, new(int), time.Time{})
	require.NoError(t, err)
	require.True(t, q.Cancel(done.Ticket))
	require.Zero(t, q.slots[done.Ticket.slot])
	at, ok := q.Position(done.Ticket)
	require.False(t, ok)
	require.Zero(t, at)
	require.False(t, New[int](1, Reject).Cancel(done.Ticket), "another queue never gave it")
}

// ORCH-3005: of guests alone there is nobody to drop.
func TestGuestsAloneAreNoVictims(t *testing.T) {
	q := New[int](1, DropLRU)
	q.PushGuest(task.Batch, 1, time.Time{})
	require.Zero(t, q.oldest(batch))
	_, dropped := q.Shed(task.Interactive)
	require.False(t, dropped)
	require.Equal(t, 1, q.Depth())
}

// ORCH-3005: the refusal leaves the time to come again to the caller.
func TestAFullQueueTellsNoTime(t *testing.T) {
	q := New[int](1, Reject)
	_, err := q.Push(task.Batch, 1, time.Time{})
	require.NoError(t, err)
	_, err = q.Push(task.Batch, 2, time.Time{})
	require.True(t, task.HasCode(err, task.AdmissionReject))
	require.Zero(t, task.AsError(err).RetryAfter)
}
