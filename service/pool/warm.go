// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import "time"

// warmIntervals bounds how long the liveness probe keeps away from a worker that somebody wants to find warm, in liveness
// intervals since its last use: an engine that hangs must not be taken for a warm one for ever.
const warmIntervals = 10

// Mark names one use of a worker, by a lease or a liveness probe. Who keeps that of a lease can ask later whether the worker's KV
// cache still is what the lease left there.
type Mark struct {
	replicaID string
	worker    *worker
	use       int64 // counted from 1
}

// Mark names this lease's use of its worker.
func (l *Lease) Mark() Mark { return l.mark }

// KeepWarm asks that no liveness probe overwrites the worker's KV cache for a while after this lease.
func (l *Lease) KeepWarm(d time.Duration) {
	l.w.warm.Store(time.Now().Add(min(d, warmIntervals*l.r.m.opts.LivenessInterval)).UnixNano())
}

// Since counts the uses of a lease's worker after it, by probes too. Where it is 0, the last decode of the worker's slots is the
// lease's: its KV cache is as the lease left it. On an engine of several slots further uses may have taken others of them. There is
// false where the worker is gone, and the cache with it.
func (m *Manager) Since(mark Mark) (uses int, there bool) {
	r := m.layout.Load().replicas[mark.replicaID]
	if r == nil || mark.worker == nil || r.serving() != mark.worker {
		return 0, false
	}
	return int(mark.worker.uses.Load() - mark.use), true
}
