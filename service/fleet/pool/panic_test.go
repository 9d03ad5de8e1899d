// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
)

// stumbling is the machine's clock, whose timers panic so many times.
type stumbling struct{ left *atomic.Int32 }

func (stumbling) Now() time.Time { return time.Now() }

func (s stumbling) Until(at time.Time) (due <-chan time.Time, stop func()) {
	if s.left.Add(-1) >= 0 {
		panic("index out of range")
	}
	t := time.NewTimer(time.Until(at))
	return t.C, func() { t.Stop() }
}

// unclosable is an engine whose Close panics, once the test has begun.
type unclosable struct {
	engine.Engine
	begun  *atomic.Bool
	closed *atomic.Int32
}

func (u unclosable) Close() {
	if u.begun.Load() {
		u.closed.Add(1)
		panic("it is closed")
	}
}

// LO-803: where a panic comes outside a worker's life, such as in the wait for the next try, the supervisor goes on. What a worker had is
// given back whatever else panics, and a pool that is not loaded can be loaded after a look at its file has panicked.
func TestASupervisorThatPanickedGoesOn(t *testing.T) {
	var timers, panics, closed atomic.Int32
	var begun atomic.Bool
	kind := llamacpp.Kind()
	fresh := kind.New
	kind.New = func(at engine.Endpoint) engine.Engine { return unclosable{shaky{fresh(at), &panics}, &begun, &closed} }
	lazy := plain
	lazy.ID, lazy.OnDemand = "lazy", true
	b := setup(t, func(_ *bundle, o *pool.Options) {
		o.Kinds, o.HealthInterval, o.StopGrace, o.Clock = []engine.Kind{kind}, 20*time.Millisecond, time.Millisecond, stumbling{&timers}
	}, plain, lazy)
	b.await("p", is(pool.Ready))
	begun.Store(true)
	pid := b.m.Infos("p")[0].PID
	panics.Store(1) // the next check of the worker fails
	timers.Store(2) // the next two timers do: that of the wait for the next try, or another
	info := b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.PID != pid })
	require.Zero(t, info.Active)
	require.LessOrEqual(t, timers.Load(), int32(0))
	require.Positive(t, closed.Load())
	require.GreaterOrEqual(t, b.logs.FilterMessage("the supervision of a worker panicked").Len(), 4, "a check, two timers, a close")

	require.NoError(t, b.m.Load("lazy"))
	b.await("lazy", is(pool.Ready))
}

// LO-803: a lease of an engine that registered ends although what watches it panicked.
func TestALeaseEndsAlthoughItsWatchPanicked(t *testing.T) {
	var timers atomic.Int32
	b := setup(t, func(_ *bundle, o *pool.Options) { o.Clock = stumbling{&timers} }, roaming)
	timers.Store(1)
	_, err := b.m.Join("r", pool.Announced{Name: "attic", URL: "http://127.0.0.1:1", ModelDigest: "sha256:aa"}, 50*time.Millisecond)
	require.NoError(t, err)
	b.until(func(infos []pool.Info) bool { return len(infos) == 0 })
	require.LessOrEqual(t, timers.Load(), int32(0))
}
