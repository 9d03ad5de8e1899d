// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
)

// Engine returns the engine of a ready replica, for what needs no slot, such as a look at them.
func (m *Manager) Engine(replicaID string) (engine.Engine, bool) {
	r := m.layout.Load().replicas[replicaID]
	if r == nil {
		return nil, false
	}
	w := r.serving()
	if w == nil {
		return nil, false
	}
	return w.engine, true
}

// Reach is how the engine of a ready replica is reached by whoever speaks to it past its adapter.
type Reach struct {
	engine.Endpoint
	Replica Info
	Lost    context.Context // ends when this worker died, stopped answering, or was replaced
}

// Reach reaches the engine of a ready replica, for what needs no slot.
func (m *Manager) Reach(replicaID string) (Reach, bool) {
	r := m.layout.Load().replicas[replicaID]
	if r == nil {
		return Reach{}, false
	}
	w := r.serving()
	if w == nil {
		return Reach{}, false
	}
	return Reach{Endpoint: w.at, Replica: r.info(), Lost: w.ctx}, true
}

// Reach reaches the engine whose slot the lease is.
func (l *Lease) Reach() Reach { return Reach{Endpoint: l.w.at, Replica: l.info, Lost: l.w.ctx} }
