// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/pool"
)

// ORCH-3009: whoever decoded on a worker can tell whether that was the last decode there, and the probe's counts.
func TestWhetherAWorkerIsWarmForSomebody(t *testing.T) {
	b := setup(t, func(_ *bundle, o *pool.Options) { o.LivenessInterval = -1 }, plain)
	info := b.await("p", is(pool.Ready))
	mine := b.lease("p-0")
	uses, there := b.m.Since(mine.Mark())
	require.True(t, there)
	require.Zero(t, uses)
	mine.Release()
	uses, there = b.m.Since(mine.Mark())
	require.True(t, there)
	require.Zero(t, uses, "nobody came after it")
	other := b.lease("p-0")
	uses, _ = b.m.Since(mine.Mark())
	require.Equal(t, 1, uses)
	uses, _ = b.m.Since(other.Mark())
	require.Zero(t, uses)
	other.Release()
	require.NoError(t, unix.Kill(info.PID, unix.SIGKILL))
	b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.PID != info.PID })
	_, there = b.m.Since(other.Mark())
	require.False(t, there, "the cache went with the worker")
	_, there = b.m.Since(pool.Mark{})
	require.False(t, there)
}

// ORCH-3009, ORCH-3002: a probe that took the slot shows.
func TestAProbeCountsAsAUse(t *testing.T) {
	b := setup(t, func(_ *bundle, o *pool.Options) { o.LivenessInterval = time.Millisecond }, plain)
	b.await("p", is(pool.Ready))
	mine := b.lease("p-0")
	mine.Release()
	require.Eventually(t, func() bool { uses, there := b.m.Since(mine.Mark()); return there && uses > 0 }, bound, time.Millisecond)
}
