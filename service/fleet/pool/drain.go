// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/task"
)

// Drain takes a pool out of service (ORCH-2101). Its replicas give no more leases, and each stops when its leases are released. At the
// deadline the leases that are left are lost: Lease.Lost closes. Drain returns at once. Load or Reload brings the pool back. A
// second Drain can only bring the deadline nearer.
func (m *Manager) Drain(poolID string, deadline time.Duration) error {
	cut := m.now().Add(deadline)
	return m.tellAll(poolID, func(o *desired) {
		if o.wanted || cut.Before(o.cut) {
			o.wanted, o.cut = false, cut
		}
	})
}

// Load asks for the workers of a pool that was drained or unloaded, or that is loaded on demand (LO-503). It returns at once, and
// does nothing if somebody has asked for them already.
func (m *Manager) Load(poolID string) error {
	return m.tellAll(poolID, func(o *desired) { o.wanted = true })
}

// Retry makes the replicas of a pool that wait for their next try make it now, and forgets their failures.
func (m *Manager) Retry(poolID string) error {
	return m.tellAll(poolID, func(o *desired) { o.retries++ })
}

// tellAll changes what is desired of each of the pool's replicas.
func (m *Manager) tellAll(poolID string, change func(*desired)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, err := m.notReloading(poolID)
	if err != nil {
		return err
	}
	for _, r := range g.replicas {
		r.tell(change)
	}
	return nil
}

// Unload ends a pool's workers to make room (LO-503). It returns at once. If a lease is held it ends nothing and fails with CONFLICT:
// a pool is never unloaded while it generates.
func (m *Manager) Unload(poolID string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, err := m.notReloading(poolID)
	if err != nil {
		return err
	}
	for _, r := range g.replicas {
		r.mu.Lock()
		defer r.mu.Unlock() // all of them until the return: no lease may begin meanwhile
		if w := r.current.Load(); w != nil && w.ctx.Err() == nil && !r.desired.ends() && r.leases(w) > 0 {
			return conflict(poolID, "pool '%s' is generating; unload it when it is idle, or drain it", poolID)
		}
	}
	now := m.now()
	for _, r := range g.replicas {
		r.tellLocked(func(o *desired) {
			if o.wanted {
				o.wanted, o.cut = false, now
			}
		})
	}
	return nil
}

// leases counts the worker's leases. The caller holds r.mu.
func (r *replica) leases(w *worker) int {
	n := int(w.active.Load())
	if r.probing {
		n--
	}
	return n
}

// notReloading returns a pool, unless a reload is working on it. The caller holds m.mu.
func (m *Manager) notReloading(poolID string) (*group, error) {
	now := m.layout.Load()
	g := now.pools[poolID]
	if g == nil {
		return nil, task.Errorf(task.NotFound, "there is no pool %.80q: use one of %s", poolID, strings.Join(now.ids, ", "))
	}
	if m.reloading[poolID] {
		return nil, conflict(poolID, "pool '%s' is being reloaded; try again when that has ended", poolID).Retry(time.Second)
	}
	if m.stopping {
		return nil, task.Errorf(task.ShuttingDown, "the orchestrator is stopping")
	}
	return g, nil
}

func conflict(poolID, format string, args ...any) *task.Error {
	err := task.Errorf(task.Conflict, format, args...)
	err.PoolID = poolID
	return err
}

// drain waits until the worker's leases are released, or lost at the deadline. It reports whether the worker is wanted again, and
// goes on.
func (r *replica) drain(w *worker, log *zap.Logger) (back bool) {
	r.publish(Draining, nil)
	for {
		o, changed := r.watchDesired()
		if !o.ends() {
			r.publish(Ready, nil)
			return true
		}
		if w.ctx.Err() != nil || w.active.Load() == 0 { // and nobody gets another lease
			return false
		}
		cut, stop := r.m.opts.Clock.Until(o.cut)
		select {
		case <-w.ctx.Done():
		case <-w.freed:
		case <-changed:
		case <-cut:
			log.Warn("the drain's deadline cut tasks off", zap.Int32("tasks", w.active.Load()))
			r.m.metrics.lost(r, drained)
			w.lose(&loss{reason: drained, detail: "the drain's deadline passed"})
		}
		stop()
	}
}

// leaveWithin bounds what is done before a worker ends: somebody may wait for its memory.
const leaveWithin = 10 * time.Second

// leave tells of a worker that is about to end, while its engine can still be asked.
func (r *replica) leave(w *worker) {
	if r.m.opts.Leaving == nil || r.spec.Mode != Binary || w.ctx.Err() != nil {
		return
	}
	ctx, stop := awake.WithTimeout(w.ctx, leaveWithin)
	defer stop()
	r.m.opts.Leaving(ctx, r.info(), w.engine)
}
