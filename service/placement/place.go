// SPDX-License-Identifier: GPL-3.0-or-later

package placement

// Replica is what Place knows of a replica.
type Replica struct {
	ID          string
	State       string // where it is on its way to serve, in a word
	Ready       bool
	Parked      bool // it was taken out of service on purpose, and does not come back by itself
	Slots       int
	Active      int  // slots in use
	Strict      bool // its engine has one slot
	FreeVRAM    int64
	Fingerprint string
}

// Need is what a task asks of its replica.
type Need struct {
	Strict      bool   // an engine of one slot only
	Fingerprint string // of the bytes it has to continue; empty: any
	Warm        string // the replica that holds the KV of its session; empty: none
}

// Place picks the replica for a task and returns its index, or -1 if none can take it now. Of the Ready replicas with a
// free slot it takes the one that holds the task's KV, then the most free VRAM, then the fewest active slots, then the smallest id (ORCH-3012). Considered is how
// many could have taken it.
func Place(replicas []Replica, need Need) (index, considered int) {
	index = -1
	for i := range replicas {
		r := &replicas[i]
		if !r.takes(need) {
			continue
		}
		considered++
		if index < 0 || need.before(r, &replicas[index]) {
			index = i
		}
	}
	return index, considered
}

// takes reports whether the replica can run the task now.
func (r *Replica) takes(need Need) bool {
	return r.Ready && r.Active < r.Slots && (!need.Strict || r.Strict) && (need.Fingerprint == "" || need.Fingerprint == r.Fingerprint)
}

func (n Need) before(a, b *Replica) bool {
	if n.Warm != "" && (a.ID == n.Warm) != (b.ID == n.Warm) {
		return a.ID == n.Warm
	}
	if a.FreeVRAM != b.FreeVRAM {
		return a.FreeVRAM > b.FreeVRAM
	}
	if a.Active != b.Active {
		return a.Active < b.Active
	}
	return a.ID < b.ID
}
