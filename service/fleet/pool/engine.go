// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import "github.com/llama-orch/llama-orch/service/fleet/engine"

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
