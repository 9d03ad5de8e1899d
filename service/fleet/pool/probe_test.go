// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ORCH-3009, ORCH-3002: the liveness probe keeps away from a worker that was just used, and, for a bounded time, from one that
// somebody wants to find warm.
func TestTheLivenessProbeKeepsAwayFromAWarmWorker(t *testing.T) {
	options := Options{LivenessInterval: time.Minute}
	options.complete()
	r := newReplica(&Manager{opts: options}, Spec{ID: "p"}, 0, "p-0", true)
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixNano() }
	idle := func(used, warm int64) bool {
		w := &worker{}
		w.used.Store(used)
		w.warm.Store(warm)
		return r.takeIdle(w)
	}
	require.False(t, idle(ago(time.Second), 0), "it decoded within the interval")
	require.True(t, idle(ago(time.Hour), 0))
	require.False(t, idle(ago(time.Hour), ago(-time.Second)), "it is warm for somebody")
	require.True(t, idle(ago(time.Hour), ago(time.Second)), "it was")

	l := &Lease{r: r, w: &worker{}}
	l.w.used.Store(ago(time.Hour))
	l.KeepWarm()
	require.False(t, r.takeIdle(l.w))
	require.LessOrEqual(t, l.w.warm.Load(), time.Now().Add(warmIntervals*time.Minute).UnixNano(), "not for ever")
}
