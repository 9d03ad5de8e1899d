// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// LO-635: loops that wait for work come round when they are asked, with tasks and without; one that hangs is named.
func TestALoopThatHangsIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		for range 3 {
			require.NoError(t, r.s.Turns(t.Context()))
		}
		r.set(func() { r.replicas[0].ready = false })
		r.must("waits")
		synctest.Wait()
		hangs, began := make(chan struct{}), make(chan struct{})
		look := func() { close(began); <-hangs }
		r.onLook.Store(&look)
		r.s.Wake("default")
		<-began
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		require.ErrorContains(t, r.s.Turns(ctx), "the queue of pool default does not turn")
		close(hangs)
		require.NoError(t, r.s.Turns(t.Context()))
		r.stop()
		require.NoError(t, r.s.Turns(t.Context()), "nothing has to turn any more")
	})
}

// LO-635: before the start nothing has to turn.
func TestNothingTurnsBeforeTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUnstartedRig(t, &book{}, 1, nil)
		require.NoError(t, r.s.Turns(t.Context()))
		require.NoError(t, r.s.Stop(t.Context()))
	})
}
