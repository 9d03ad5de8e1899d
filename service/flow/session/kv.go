// SPDX-License-Identifier: GPL-3.0-or-later

package session

import "github.com/llama-orch/llama-orch/service/task"

// cell is a slot of a replica's engine.
type cell struct {
	replica string
	slot    int
}

// holding is what a slot holds since the last task that ended there.
type holding struct {
	session string // the session that can use it; empty: none can
	job     int    // the engine's name for the task
	cells   int    // tokens
	lost    <-chan struct{}
}

// gone reports whether the worker has ended, and its KV with it.
func (h holding) gone() bool {
	select {
	case <-h.lost:
		return true
	default:
		return false
	}
}

// warm reports whether a slot should still hold a session's KV. Only the engine knows for certain.
func (m *Manager) warm(e *entry) bool {
	h, ok := m.cells[e.place]
	return ok && h.session == e.ID && !h.gone()
}

// Warm returns the replica that should still hold a session's KV, or nothing. A session is never moved for it (ORCH-3009).
func (m *Manager) Warm(id string) string {
	if id == "" {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.sessions[id]; e != nil && m.warm(e) {
		return e.place.replica
	}
	return ""
}

// Began is told that a task runs on a replica. It returns whether the replica should hold the KV of the task's session. Where the
// replica has one slot, the task overwrites what that slot holds.
func (m *Manager) Began(t task.Task, replicaID string, slots int) (warm bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.sessions[t.Request.SessionID]; e != nil {
		warm = e.place.replica == replicaID && m.warm(e)
		e.place = cell{}
	}
	if at := (cell{replica: replicaID}); slots == 1 {
		if h, ok := m.cells[at]; ok {
			h.session = ""
			m.cells[at] = h
		}
	}
	return warm
}

// Kept is told what a task left in its slot when it was done.
func (m *Manager) Kept(t task.Task, replicaID string, lost <-chan struct{}, kv task.KV) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, h := cell{replica: replicaID, slot: kv.Slot}, holding{job: kv.Job, cells: kv.Cells, lost: lost}
	e := m.sessions[t.Request.SessionID]
	if e != nil {
		m.o.Metrics.turn(kv.Cached > 0)
	}
	if e != nil && kv.Told {
		h.session, e.place = e.ID, at
	}
	m.cells[at] = h
}

// Cells returns, for each replica, how many tokens its slots hold, as far as its engine has told.
func (m *Manager) Cells() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	sums := map[string]int{}
	for at, h := range m.cells {
		if !h.gone() {
			sums[at.replica] += h.cells
		}
	}
	return sums
}

// count is the number of sessions.
func (m *Manager) count() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return float64(len(m.sessions))
}
