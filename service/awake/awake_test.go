// SPDX-License-Identifier: GPL-3.0-or-later

package awake

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// LO-836: it comes on time, and only after the last reset
func TestATimerComesWhenTheTimeHasPassed(t *testing.T) {
	for _, d := range []time.Duration{0, 1, time.Millisecond, 100 * time.Millisecond, 7 * time.Second, time.Hour + 1} {
		synctest.Test(t, func(t *testing.T) {
			begun, came := time.Now(), make(chan time.Duration, 1)
			timer := AfterFunc(d, func() { came <- time.Since(begun) })
			require.Equal(t, max(d, 1), <-came)

			begun = time.Now()
			timer.Reset(d)
			if d > time.Millisecond {
				time.Sleep(d - 1)
				timer.Reset(2 * d)
				require.Equal(t, d-1+2*d, <-came)
			} else {
				<-came
			}

			timer.Reset(d + 2)
			timer.Stop()
			time.Sleep(2*d + time.Second)
			require.Empty(t, came)
		})
	}
}

// LO-836: of a piece that comes late, nothing counts, and of the pieces before and behind it, all
func TestTimeInWhichTheProcessDidNotRunDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		came := make(chan struct{}, 1)
		timer := AfterFunc(8*time.Second, func() { came <- struct{}{} })
		defer timer.Stop()
		left := func() time.Duration {
			timer.mu.Lock()
			defer timer.mu.Unlock()
			return timer.left
		}
		time.Sleep(7*time.Second + 1)
		synctest.Wait()
		require.Equal(t, time.Second, left())
		// A stopped process looks to the timer as if the piece had begun long ago.
		timer.mu.Lock()
		timer.begun = timer.begun.Add(-time.Hour)
		timer.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, came)
		require.Equal(t, time.Second, left())
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, came, 1)
	})
}

// LO-836
func TestAContextEndsWithItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("too slow")
		ctx, stop := WithTimeoutCause(t.Context(), time.Minute, why)
		defer stop()
		begun := time.Now()
		<-ctx.Done()
		require.Equal(t, time.Minute, time.Since(begun))
		require.Equal(t, why, context.Cause(ctx))

		ctx, stop = WithTimeout(t.Context(), time.Minute)
		stop()
		require.Equal(t, context.Canceled, context.Cause(ctx))
	})
}

// LO-836: a client's deadline goes on while the machine sleeps
func TestAtCountsSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, came := time.Now(), make(chan time.Duration, 1)
		since := begun
		var asleep atomic.Int64
		uptime := func() time.Duration { return time.Since(since) + time.Duration(asleep.Load()) }
		stop := at(time.Hour, func() { came <- time.Since(begun) }, uptime)
		require.Equal(t, time.Hour, <-came)
		stop()

		begun = time.Now()
		at(time.Hour, func() { came <- time.Since(begun) }, uptime)
		time.Sleep(time.Minute)
		synctest.Wait()
		asleep.Store(int64(2 * time.Hour))
		require.LessOrEqual(t, <-came, time.Minute+lookEvery)

		stop = At(time.Hour, func() { came <- 0 })
		stop()
		time.Sleep(2 * time.Hour)
		require.Empty(t, came)
	})
}
