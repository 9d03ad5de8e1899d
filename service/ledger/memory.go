// SPDX-License-Identifier: GPL-3.0-or-later

// Package ledger is the record of accepted tasks: what was accepted, dispatched and how it ended. This implementation
// keeps it in memory, bounded; a restart forgets it.
package ledger

import (
	"context"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Memory keeps the newest finished tasks. Its methods may be called from several goroutines.
type Memory struct {
	mu       sync.Mutex
	keep     int
	finished map[string]task.Record
	order    []string // of finished, as a ring once it is full
	oldest   int
}

// NewMemory makes a ledger that remembers the given number of finished tasks.
func NewMemory(keep int) *Memory {
	return &Memory{keep: max(keep, 1), finished: map[string]task.Record{}}
}

// Accept records a task before its client is told that it was accepted.
func (m *Memory) Accept(context.Context, task.Task) error { return nil }

// Dispatch records that a task is about to be run by a replica, before its first token leaves.
func (m *Memory) Dispatch(_ context.Context, _, _ string, _ time.Time) error { return nil }

// Finish records how a task ended, before anyone is told.
func (m *Memory) Finish(_ context.Context, r task.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.order) < m.keep {
		m.order = append(m.order, r.Task.ID)
	} else {
		delete(m.finished, m.order[m.oldest])
		m.order[m.oldest] = r.Task.ID
		m.oldest = (m.oldest + 1) % m.keep
	}
	m.finished[r.Task.ID] = r
	return nil
}

// Get returns a finished task.
func (m *Memory) Get(id string) (task.Record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.finished[id]
	return r, ok
}

// List returns at most limit finished tasks, the last to finish first. An empty state means all.
func (m *Memory) List(state task.State, limit int) []task.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []task.Record
	for i := range m.order {
		at := (m.oldest + len(m.order) - 1 - i) % len(m.order)
		if r := m.finished[m.order[at]]; state == "" || r.State == state {
			found = append(found, r)
			if len(found) == limit {
				break
			}
		}
	}
	return found
}
