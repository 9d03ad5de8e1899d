// SPDX-License-Identifier: GPL-3.0-or-later

package prefix

import (
	"maps"
	"slices"
	"sync"
)

// Map is what the slots of all replicas were asked last. Its methods may be called from several goroutines. The zero Map holds nothing.
type Map struct {
	mu       sync.Mutex
	replicas map[string]*replica
}

// replica is what the slots of one worker were asked, the last one at the end.
type replica struct {
	lost   <-chan struct{} // closed when the worker is gone, and its KV with it
	chains []Chain
}

func (r *replica) gone() bool {
	select {
	case <-r.lost:
		return true
	default:
		return false
	}
}

// Left is told what a task that is done has left in a slot. Lost is closed when the worker is gone; slots is how many it has. The engine puts a task
// where it finds most of its prompt, or else where nothing was for the longest time.
func (m *Map) Left(replicaID string, lost <-chan struct{}, slots int, c Chain) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.replicas, func(_ string, r *replica) bool { return r.gone() }) // their names may never come again
	r := m.replicas[replicaID]
	if r == nil || r.lost != lost {
		if m.replicas == nil {
			m.replicas = map[string]*replica{}
		}
		r = &replica{lost: lost}
		m.replicas[replicaID] = r
	}
	if at := slices.IndexFunc(r.chains, func(held Chain) bool { return warm(c, held) > 0 }); at >= 0 {
		r.chains = slices.Delete(r.chains, at, at+1)
	}
	r.chains = append(r.chains, c)
	if over := len(r.chains) - max(slots, 1); over > 0 {
		r.chains = slices.Delete(r.chains, 0, over)
	}
}

// Emptied is told that nobody knows what is in the slots of a replica.
func (m *Map) Emptied(replicaID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.replicas, replicaID)
}

// Held returns, for the replicas that are warm for a task, how many bytes of what it asks they hold; nil: none is.
func (m *Map) Held(c Chain) (held map[string]int) {
	if len(c) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, r := range m.replicas {
		if r.gone() {
			delete(m.replicas, id)
			continue
		}
		most := 0
		for _, chain := range r.chains {
			most = max(most, warm(c, chain))
		}
		if most > 0 {
			if held == nil {
				held = map[string]int{}
			}
			held[id] = most
		}
	}
	return held
}

// warm is how many bytes of a task a slot holds that was asked another one; 0 where less than half of what the slot holds is of use, since the task
// would displace the rest.
func warm(c, held Chain) int {
	if n := c.shared(held); 2*n >= held.bytes() {
		return n
	}
	return 0
}
