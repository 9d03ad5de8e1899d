// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// Drain takes a pool out of service (ORCH-2101): its replicas give no more leases from now on, and each stops once those it
// has given are released. At the deadline what is left is cut: Lease.Lost closes. It returns at once. Load brings the pool
// back, and so does Reload. A second Drain can only bring the deadline nearer.
func (m *Manager) Drain(poolID string, deadline time.Duration) error {
	cut := m.now().Add(deadline)
	return m.orderAll(poolID, func(o *order) {
		if o.wanted || cut.Before(o.cut) {
			o.wanted, o.cut = false, cut
		}
	})
}

// Load asks for the workers of a pool that was drained or unloaded, or that is loaded on demand (LO-503). It returns at once,
// and does nothing where they are asked for already.
func (m *Manager) Load(poolID string) error {
	return m.orderAll(poolID, func(o *order) { o.wanted = true })
}

// Retry has a pool's replicas that wait for their next try make it now, and forgets their failures.
func (m *Manager) Retry(poolID string) error {
	return m.orderAll(poolID, func(o *order) { o.retries++ })
}

// orderAll changes the order of each of the pool's replicas.
func (m *Manager) orderAll(poolID string, change func(*order)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, err := m.settled(poolID)
	if err != nil {
		return err
	}
	for _, r := range g.replicas {
		r.tell(change)
	}
	return nil
}

// Unload ends a pool's workers to make room (LO-503). It returns at once. It fails with CONFLICT, and ends nothing, where a lease
// is held: a pool is never unloaded while it generates.
func (m *Manager) Unload(poolID string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, err := m.settled(poolID)
	if err != nil {
		return err
	}
	for _, r := range g.replicas {
		r.mu.Lock()
		defer r.mu.Unlock() // of all, until the end: no lease may begin meanwhile
		if w := r.current.Load(); w != nil && w.ctx.Err() == nil && !r.order.ends() && r.leases(w) > 0 {
			return conflict(poolID, "pool '%s' is generating; unload it when it is idle, or drain it", poolID)
		}
	}
	now := m.now()
	for _, r := range g.replicas {
		r.tellLocked(func(o *order) {
			if o.wanted {
				o.wanted, o.cut = false, now
			}
		})
	}
	return nil
}

// leases counts the worker's leases. It wants r.mu.
func (r *replica) leases(w *worker) int {
	n := int(w.active.Load())
	if r.probing {
		n--
	}
	return n
}

// settled returns a pool that no reload is at work on. It wants m.mu.
func (m *Manager) settled(poolID string) (*group, error) {
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

// drain waits until the worker's leases are released, or cut at the deadline. It reports whether the worker goes on after all,
// because it is wanted again.
func (r *replica) drain(w *worker, log *zap.Logger) (back bool) {
	r.publish(Draining, nil)
	for {
		o, changed := r.orders()
		if !o.ends() {
			r.publish(Ready, nil)
			return true
		}
		if w.ctx.Err() != nil || w.active.Load() == 0 { // nobody gets a lease any more
			return false
		}
		cut, stop := r.m.opts.Clock.After(o.cut.Sub(r.m.now()))
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
