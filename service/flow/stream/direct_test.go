// SPDX-License-Identifier: GPL-3.0-or-later

package stream

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// client is a connection that the log's writer and the reader's goroutine share. It takes so many bytes of a direct write.
type client struct {
	room          int
	got, rest     []byte
	direct, whole int // direct writes, and those that were written whole
}

func (c *client) try(frames []byte) bool {
	c.direct++
	n := min(c.room, len(frames))
	c.got, c.rest = append(c.got, frames[:n]...), append(c.rest, frames[n:]...)
	if n < len(frames) {
		return false
	}
	c.whole++
	return true
}

// read follows the log to its end as the API does.
func (c *client) read(t require.TestingT, s *Subscription, tick <-chan time.Time) {
	for {
		frames, err := s.Next(context.Background(), tick)
		c.got, c.rest = append(c.got, c.rest...), nil
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		if frames == nil {
			continue
		}
		c.got = append(c.got, frames...)
		s.Written()
	}
}

// OC-CTRL-2026, ORCH-2002: who writes a token changes no byte, and the reader finishes what did not fit.
func TestAReaderThatWaitsIsWrittenToDirectly(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type step struct {
			room  int
			pause time.Duration
		}
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{rapid.SampledFrom([]int{0, 10, 1000}).Draw(rt, "room"), rapid.SampledFrom([]time.Duration{0, apart}).Draw(rt, "pause")}
		}), 1, 40).Draw(rt, "steps")
		readers := rapid.IntRange(1, 2).Draw(rt, "readers")
		synctest.Test(t, func(*testing.T) {
			l := New(first(), time.Now)
			clients := make([]client, readers)
			var reading sync.WaitGroup
			for i := range clients {
				s := subscribe(rt, l, "")
				s.Direct(clients[i].try)
				tick := time.NewTicker(3 * apart)
				reading.Go(func() {
					defer s.Close()
					defer tick.Stop()
					clients[i].read(rt, s, tick.C)
				})
			}
			synctest.Wait()
			want, whole := 0, 0
			for i, step := range steps {
				time.Sleep(step.pause)
				synctest.Wait()
				if (i == 0 || step.pause > 0) && readers == 1 {
					want++
					if step.room == 1000 {
						whole++
					}
				}
				for c := range clients {
					clients[c].room = step.room
				}
				require.NoError(rt, write(l, "frog"))
			}
			l.End(task.End{TokensOut: len(steps)})
			l.Publish()
			reading.Wait()
			for i := range clients {
				require.Equal(rt, string(drain(rt, subscribe(rt, l, ""))), string(clients[i].got))
				require.Equal(rt, want, clients[i].direct)
				require.Equal(rt, whole, clients[i].whole)
			}
		})
	})
}

// ORCH-3026: a token whose write the reader is to finish is one that is still to be written.
func TestACancelWaitsForADirectWriteToBeFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(first(), time.Now)
		s := subscribe(t, l, "")
		var c client
		s.Direct(c.try)
		_, err := s.Next(t.Context(), nil)
		require.NoError(t, err)
		s.Written()
		next := make(chan []byte)
		go func() { // joined through next
			frames, _ := s.Next(t.Context(), nil)
			next <- frames
		}()
		synctest.Wait()
		require.NoError(t, write(l, "frog"))
		require.Equal(t, 1, c.direct)
		frames := <-next
		require.NotNil(t, frames)
		require.Empty(t, frames)

		l.Seal()
		within, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		flushed := make(chan int)
		go func() { flushed <- l.Flush(within) }() // joined through flushed
		synctest.Wait()
		select {
		case <-flushed:
			require.Fail(t, "the cancel did not wait")
		default:
		}
		s.Written()
		require.Zero(t, <-flushed)
	})
}

// OC-CTRL-2026: once Next has returned, its reader's connection is the reader's alone.
func TestAReaderThatDoesNotWaitIsNotWrittenTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(first(), time.Now)
		s := subscribe(t, l, "")
		var c client
		c.room = 1000
		s.Direct(c.try)
		_, err := s.Next(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, write(l, "frog"))
		s.Written()
		_, err = s.Next(t.Context(), nil)
		require.NoError(t, err)
		s.Written()

		frames, err := s.Next(t.Context(), time.After(time.Second))
		require.NoError(t, err)
		require.Nil(t, frames, "the tick")
		require.NoError(t, write(l, "frog"))
		_, err = s.Next(t.Context(), nil)
		require.NoError(t, err)
		s.Written()

		gone, leave := context.WithCancel(t.Context())
		leave()
		_, err = s.Next(gone, nil)
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(apart)
		require.NoError(t, write(l, "frog"))
		require.Zero(t, c.direct)
	})
}
