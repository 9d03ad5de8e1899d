// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Admit gives a task the turn of the session that it names, which may be a new one, or refuses the task. It notes in the task how the
// session then stands. Each Admit is followed by a Withdraw, where the task was not accepted, or by a Settle.
func (m *Manager) Admit(t *task.Task) error {
	id := t.Request.SessionID
	if id == "" {
		return nil
	}
	now := m.o.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.sessions[id]
	switch {
	case m.making[id]:
		return task.Errorf(task.Conflict, "session %s is just being made: send the task again", id).Retry(0).Narrate("its session was just being made")
	case e != nil:
		if err := e.refuse(now); err != nil {
			return err
		}
	default:
		if err := m.room(now); err != nil {
			return err
		}
		e = &entry{Session: m.fresh(id, now), begunBy: t.ID}
		m.add(e)
	}
	e.turn = t.ID
	e.Turns++
	after := e.Session
	t.Session = &after
	return nil
}

// refuse says why the session takes no task now. It returns nil where it takes one.
func (e *entry) refuse(now time.Time) error {
	switch {
	case e.turn != "":
		return errBusy(e)
	case !now.Before(e.ends()):
		return task.Errorf(task.Conflict, "session %s ended %s ago, after its time of %s: begin another one under a new id, or DELETE /v1/sessions/%[1]s to use this id again",
			e.ID, spoken(now.Sub(e.ends())), spoken(e.TTL)).Narrate("its session is over")
	case e.Turns >= e.MaxTurns:
		return task.Errorf(task.Conflict, "session %s has had its %d turns: begin another one under a new id, or DELETE /v1/sessions/%[1]s to use this id again",
			e.ID, e.MaxTurns).Narrate("its session has had all of its turns")
	}
	return nil
}

// turnOf returns the session whose turn a task has, or nil. The caller holds mu.
func (m *Manager) turnOf(t *task.Task) *entry {
	if e := m.sessions[t.Request.SessionID]; e != nil && e.turn == t.ID {
		return e
	}
	return nil
}

// Withdraw takes back the Admit of a task that was not accepted.
func (m *Manager) Withdraw(t *task.Task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.turnOf(t)
	if e == nil {
		return
	}
	e.turn, e.idle = "", m.o.Now()
	e.Turns--
	if e.begunBy == t.ID {
		m.remove(e)
	}
}

// Recover takes up the turn of a task that an earlier process accepted.
func (m *Manager) Recover(t *task.Task) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.sessions[t.Request.SessionID]; e != nil {
		e.turn = t.ID
	}
}

// Settle ends a task's turn once its outcome is recorded.
func (m *Manager) Settle(r *task.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.turnOf(&r.Task)
	if e == nil {
		return
	}
	e.turn, e.idle = "", m.o.Now()
	if r.ReplicaID != "" {
		e.PoolID, e.ReplicaID = r.Task.PoolID, r.ReplicaID
	}
}
