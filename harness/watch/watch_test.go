// SPDX-License-Identifier: GPL-3.0-or-later

package watch_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/watch"
)

type counter struct {
	watch.State

	n int
}

func TestAWaitEndsWithItsState(t *testing.T) {
	var c counter
	var all sync.WaitGroup
	for want := range 10 {
		all.Go(func() {
			if err := c.Await("the count", func() bool { return c.n >= want }); err != nil {
				t.Error(err)
			}
		})
	}
	for range 10 {
		c.Update(func() { c.n++ })
	}
	all.Wait()
	c.Look(func() { require.Equal(t, 10, c.n) })
}

func TestPatienceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var c counter
		require.EqualError(t, c.Await("a miracle", func() bool { return false }), "waited 1m0s in vain for a miracle")
		require.Equal(t, watch.Patience, time.Since(began))

		reason := errors.New("not yet")
		err := watch.Poll(t.Context(), "a miracle", func() error { return reason })
		require.ErrorIs(t, err, reason)
		require.EqualError(t, err, "waited 1m0s in vain for a miracle: not yet")
		require.Equal(t, 2*watch.Patience, time.Since(began))

		tries := 0
		require.NoError(t, watch.Poll(t.Context(), "the third", func() error {
			if tries++; tries < 3 {
				return reason
			}
			return nil
		}))
		require.Equal(t, 2*watch.Patience+2*watch.Every, time.Since(began))

		err = watch.Poll(t.Context(), "a miracle", func() error { return watch.Never(reason) })
		require.Equal(t, reason, err)
		require.Equal(t, 2*watch.Patience+2*watch.Every, time.Since(began))

		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("interrupted"))
		require.EqualError(t, watch.Poll(ctx, "a miracle", func() error { return reason }), "interrupted for a miracle: not yet")
	})
}

// Until waits as long as its context does, and says why that ended.
func TestUntilEndsWithItsStateOrItsContext(t *testing.T) {
	var s watch.State
	n := 0
	go func() {
		for range 3 {
			s.Update(func() { n++ })
		}
	}()
	require.NoError(t, s.Until(t.Context(), func() bool { return n == 3 }))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the client went"))
	require.EqualError(t, s.Until(ctx, func() bool { return n == 4 }), "the client went")
}
