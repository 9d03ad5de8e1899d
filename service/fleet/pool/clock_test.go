// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/pool"
)

// handClock goes on only when a test moves it.
type handClock struct {
	mu    sync.Mutex
	now   time.Time
	waits map[chan time.Time]time.Time
}

func newHandClock() *handClock {
	return &handClock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), waits: map[chan time.Time]time.Time{}}
}

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) Until(at time.Time) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	over := make(chan time.Time, 1)
	c.waits[over] = at
	c.fire()
	return over, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waits, over)
	}
}

func (c *handClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.fire()
}

func (c *handClock) fire() {
	for over, at := range c.waits {
		if !at.After(c.now) {
			over <- c.now
			delete(c.waits, over)
		}
	}
}

// The waits between tries, and when a replica is given up, follow the clock that the Manager was given.
//
// ORCH-3002, ORCH-3040
func TestTriesFollowTheClock(t *testing.T) {
	clock := newHandClock()
	b := setup(t, func(b *bundle, o *pool.Options) {
		o.Clock, o.Specs[0].ModelPath = clock, "/nowhere/m.gguf"
		o.BackoffMin, o.BackoffMax, o.BreakerFailures = time.Hour, 2*time.Hour, 1000
	}, plain)
	for tries := range 5 {
		info := b.await("p", func(i pool.Info) bool { return i.State == pool.Failed && i.Restarts == tries })
		require.Equal(t, clock.Now(), info.Since)
		require.GreaterOrEqual(t, info.NextTry.Sub(info.Since), 48*time.Minute)
		clock.move(info.NextTry.Sub(info.Since))
	}
}

// LO-840: a try of what cannot succeed until somebody changes something is not shown as if it could.
func TestATryOfWhatCannotSucceedShowsThat(t *testing.T) {
	clock := newHandClock()
	var manager atomic.Pointer[pool.Manager]
	var tries, hopeful atomic.Int32
	b := setup(t, func(_ *bundle, o *pool.Options) {
		o.Clock, o.Specs[0].ModelPath, o.BreakerFailures = clock, "/nowhere/m.gguf", 1000
		onChange := o.OnChange
		o.OnChange = func(id string) {
			if m := manager.Load(); m != nil {
				if i := m.Infos(id)[0]; i.State == pool.Provisioning {
					tries.Add(1)
					if !i.Fixed || !i.Failing {
						hopeful.Add(1)
					}
				}
			}
			onChange(id)
		}
	}, plain)
	manager.Store(b.m)
	b.await("p", func(i pool.Info) bool { return i.State == pool.Failed && i.Fixed })
	for before := tries.Load(); tries.Load() < before+5; {
		clock.move(time.Minute)
		time.Sleep(time.Millisecond)
	}
	require.LessOrEqual(t, hopeful.Load(), int32(1), "the first try, which nobody knew the end of")
}

// The end of a drain does, too.
//
// ORCH-2101
func TestADrainFollowsTheClock(t *testing.T) {
	clock := newHandClock()
	b := setup(t, func(_ *bundle, o *pool.Options) { o.Clock, o.LivenessInterval = clock, -1 }, plain)
	for b.m.Infos("p")[0].State != pool.Ready {
		clock.move(100 * time.Millisecond) // the health checks of a worker that loads
	}
	lease := b.lease("p-0")
	require.NoError(t, b.m.Drain("p", time.Hour))
	b.await("p", is(pool.Draining))
	clock.move(59 * time.Minute)
	select {
	case <-lease.Lost():
		require.Fail(t, "the lease was cut before its time")
	default:
	}
	clock.move(time.Minute)
	b.lost(lease)
	lease.Release()
	b.await("p", is(pool.Stopped))
}

// ORCH-3001
func TestAManagerStartsAndStopsInAnyOrder(t *testing.T) {
	b := setup(t, nil, plain)
	b.await("p", is(pool.Ready))
	require.NoError(t, b.m.Start(t.Context()), "a second start does nothing")
	require.Equal(t, pool.Ready, b.m.Infos("p")[0].State)

	spec := plain
	spec.ModelPath = b.model(child{})
	never, err := pool.New(pool.Options{Specs: []pool.Spec{spec}, Kinds: kinds, WorkerExe: "worker"})
	require.NoError(t, err)
	require.NoError(t, never.Stop(t.Context()))
	require.NoError(t, never.Start(t.Context()))
	require.Equal(t, pool.Stopped, never.Infos("p")[0].State, "what was stopped before does not start")
	require.NoError(t, never.Stop(t.Context()))
	require.NoError(t, never.Stop(t.Context()))
}
