// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"sync"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// Lease is one slot of one worker. Its methods may be called from several goroutines.
type Lease struct {
	r    *replica
	w    *worker
	once sync.Once
	info Info
}

// Lease takes a slot of a ready replica. It fails with POOL_UNREADY where the replica is not ready, or its files have changed
// (LO-808), and with REPLICA_EXHAUSTED where no slot is free; both are retriable (ORCH-3010).
func (m *Manager) Lease(replicaID string) (*Lease, error) {
	r := m.layout.Load().replicas[replicaID]
	if r == nil {
		return nil, task.Errorf(task.PoolUnready, "there is no replica %q; ask for the pool's replicas again", replicaID).Retry(0)
	}
	w, err := r.take()
	if err != nil {
		return nil, err
	}
	l := &Lease{r: r, w: w}
	l.info = r.info()
	if why := w.look(w.ctx); why != nil {
		w.lose(why)
	}
	if w.ctx.Err() != nil { // the worker is lost, so the info may be its successor's
		l.Release()
		return nil, r.unready()
	}
	return l, nil
}

// take takes a slot of the ready worker.
func (r *replica) take() (*worker, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.serving()
	if w == nil || r.desired.ends() {
		return nil, r.unready()
	}
	if int(w.active.Load()) >= w.slots {
		err := task.Errorf(task.ReplicaExhausted, "every slot of replica %s is busy; try another one, or later", r.id).Retry(0)
		err.Engine, err.PoolID = r.spec.Engine, r.spec.ID
		return nil, err
	}
	w.active.Add(1)
	return w, nil
}

// Engine returns the worker's engine.
func (l *Lease) Engine() engine.Engine { return l.w.engine }

// Info returns the replica as it was when the slot was taken.
func (l *Lease) Info() Info { return l.info }

// Lost is closed when this worker died, stopped answering, or was replaced.
func (l *Lease) Lost() <-chan struct{} { return l.w.ctx.Done() }

// Others counts the other slots of this worker that are in use.
func (l *Lease) Others() int { return int(l.w.active.Load()) - 1 }

// warmIntervals is for how many liveness intervals the probe keeps away from a worker that somebody wants to find warm. It is bounded
// because an engine that hangs looks like a warm one.
const warmIntervals = 10

// KeepWarm keeps the liveness probe from overwriting the worker's KV cache for a while: the holder of the lease comes back for it.
func (l *Lease) KeepWarm() {
	l.w.warm.Store(l.r.m.now().Add(warmIntervals * l.r.m.opts.LivenessInterval).UnixNano())
}

// Release gives the slot back. Only the first call counts.
func (l *Lease) Release() {
	l.once.Do(func() {
		if l.w.ctx.Err() == nil {
			l.w.served.Store(true)
		}
		l.w.free()
		l.r.m.opts.OnChange(l.r.spec.ID)
	})
}

// Replace kills this worker's process group, and another worker is started. Lost is closed before Replace returns. It is for a worker
// whose slot does not get idle after a cancel (ORCH-3026). The process of an external engine is not ours to end: if its tasks are strict, so that the next
// one must not run beside a dead one, and no other task runs on it, it is out of service until it answers a probe. Elsewhere what is busy may be others' requests.
// Replace does nothing if the worker is gone already.
func (l *Lease) Replace(reason string) {
	if l.r.spec.Mode != External || l.info.Strict && l.Others() == 0 {
		l.w.lose(&loss{reason: replaced, detail: reason})
	}
}
