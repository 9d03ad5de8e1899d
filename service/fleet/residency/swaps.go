// SPDX-License-Identifier: GPL-3.0-or-later

package residency

import (
	"fmt"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// maxSwaps is how many swaps are remembered.
const maxSwaps = 24

// Swaps are the latest swaps, the newest first, for people.
func (m *Manager) Swaps() []task.Swap {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Clone(m.swaps)
	slices.Reverse(out)
	return out
}

func (m *Manager) note(s task.Swap) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.swaps) == maxSwaps {
		m.swaps = slices.Delete(m.swaps, 0, 1)
	}
	m.swaps = append(m.swaps, s)
}

// whyIn says why a pool is loaded.
func whyIn(id string, pools []seen) string {
	for i := range pools {
		if p := &pools[i]; p.ID == id && p.demand.Waiting > 0 {
			return waits(p.demand.Waiting) + " for it"
		}
	}
	return "it was asked for"
}

// whyOut says why a pool has to go: for the others whose tasks wait, else because nobody has used it.
func whyOut(id string, pools []seen) string {
	var others []string
	for i := range pools {
		if p := &pools[i]; p.ID != id && p.State != Loaded && p.demand.Waiting > 0 {
			others = append(others, p.ID+", for which "+waits(p.demand.Waiting))
		}
	}
	if len(others) > 0 {
		return "makes room for " + strings.Join(others, "; ")
	}
	return "nobody has used it for a while"
}

func waits(n int) string {
	if n == 1 {
		return "1 task waits"
	}
	return fmt.Sprintf("%d tasks wait", n)
}
