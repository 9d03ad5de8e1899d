// SPDX-License-Identifier: GPL-3.0-or-later

package placement

// Replica is what Place knows of a replica.
type Replica struct {
	ID          string
	Ready       bool
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
}

// Place picks the replica for a task and returns its index, or -1 if none can take it now. Of the Ready replicas with a
// free slot it takes the most free VRAM, then the fewest active slots, then the smallest id (ORCH-3012). Considered is how
// many could have taken it.
func Place(replicas []Replica, need Need) (index, considered int) {
	index = -1
	for i := range replicas {
		r := &replicas[i]
		if !r.Ready || r.Active >= r.Slots || need.Strict && !r.Strict ||
			need.Fingerprint != "" && need.Fingerprint != r.Fingerprint {
			continue
		}
		considered++
		if index < 0 || before(r, &replicas[index]) {
			index = i
		}
	}
	return index, considered
}

func before(a, b *Replica) bool {
	if a.FreeVRAM != b.FreeVRAM {
		return a.FreeVRAM > b.FreeVRAM
	}
	if a.Active != b.Active {
		return a.Active < b.Active
	}
	return a.ID < b.ID
}
