// SPDX-License-Identifier: GPL-3.0-or-later

package placement

import "slices"

// Replica is what Place knows of a replica.
type Replica struct {
	ID          string
	State       string // where it is on its way to serve, in a word
	Ready       bool
	InDoubt     bool // its engine broke off a run, and has not answered since
	Parked      bool // somebody took it out of service, and it does not come back by itself
	Slots       int
	Active      int  // slots in use
	Others      int  // requests that its engine has from elsewhere
	Strict      bool // its engine has one slot
	Pieces      bool // strict tasks reuse KV on it
	Ctx         int  // tokens a slot's context holds; 0: not known
	FreeVRAM    int64
	Fingerprint string
}

// Need is what a task asks of its replica.
type Need struct {
	Strict      bool   // an engine of one slot only
	Fingerprint string // of the bytes it has to continue; empty: any
	Warm        string // the replica that holds the KV of its session; empty: none
	// Held is how much of its prompt each warm replica holds (LO-442).
	Held map[string]int
	Ctx  int // tokens of its prompt and answer
}

// Place picks the replica for a task and returns its index, or -1 if none can take it now. Of the Ready replicas with a free slot
// it picks the one that holds the task's KV, else the one that holds the longest beginning of its prompt, else the one with the most free VRAM, then the fewest active
// slots and requests of others, then the smallest id (ORCH-3009, LO-442, ORCH-3012). Considered is how many could have taken the task.
func Place(replicas []Replica, need Need) (index, considered int) {
	index, need = -1, need.among(replicas)
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

// among lowers the context that a task asks for to the largest that a replica has, or will have once it is back. No replica will ever
// hold a larger task, so it need not wait: the engine refuses it.
func (n Need) among(replicas []Replica) Need {
	if n.Ctx == 0 {
		return n
	}
	most := 0
	for i := range replicas {
		switch r := &replicas[i]; {
		case r.Parked:
		case r.Ready && r.Ctx == 0: // its context is not known, so it may hold anything
			return n
		default:
			most = max(most, r.Ctx)
		}
	}
	n.Ctx = min(n.Ctx, most)
	return n
}

// holds reports whether the replica's context is large enough for the task.
func (r *Replica) holds(need Need) bool { return r.Ctx == 0 || need.Ctx <= r.Ctx }

// Suited reports whether the replica of this id is one of those that could run the task if they had a free slot.
func Suited(replicas []Replica, need Need, id string) bool {
	need = need.among(replicas)
	return slices.ContainsFunc(replicas, func(r Replica) bool { return r.ID == id && r.suits(need) })
}

// takes reports whether the replica can run the task now.
func (r *Replica) takes(need Need) bool { return r.Active < r.Slots && r.suits(need) }

// suits reports whether the replica can run the task once a slot is free.
func (r *Replica) suits(need Need) bool {
	return r.Ready && !r.InDoubt && (!need.Strict || r.Strict) && r.holds(need) && (need.Fingerprint == "" || need.Fingerprint == r.Fingerprint)
}

// busy is how much its engine has to do.
func (r *Replica) busy() int { return r.Active + r.Others }

// reuses reports whether the task can use KV that the replica holds.
func (n Need) reuses(r *Replica) bool { return !n.Strict || r.Pieces }

// warm reports whether the replica holds the KV of the task's session.
func (n Need) warm(r *Replica) bool { return n.Warm != "" && r.ID == n.Warm && n.reuses(r) }

// held is how much of the task's prompt the replica holds.
func (n Need) held(r *Replica) int {
	if !n.reuses(r) {
		return 0
	}
	return n.Held[r.ID]
}

func (n Need) before(a, b *Replica) bool {
	if n.warm(a) != n.warm(b) {
		return n.warm(a)
	}
	if x, y := n.held(a), n.held(b); x != y {
		return x > y
	}
	if a.FreeVRAM != b.FreeVRAM {
		return a.FreeVRAM > b.FreeVRAM
	}
	if a.busy() != b.busy() {
		return a.busy() < b.busy()
	}
	return a.ID < b.ID
}
