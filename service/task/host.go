// SPDX-License-Identifier: GPL-3.0-or-later

package task

import "time"

// Host is an orchestrator as it announces itself to those that share its ledger (LO-710).
type Host struct {
	ID      string // of its data folder; what it holds in the ledger is held by this name
	Name    string // for people
	Address string // the URL at which clients and the others reach it; empty: nobody passes anything on to it
	Version string
	Pools   []HostPool
	Since   time.Time // when its process began; this and the next by the ledger's clock
	Seen    time.Time // when it was last heard of
	Up      bool      // its lease runs
}

// HostPool is a pool that a host can serve.
type HostPool struct {
	ID     string
	Engine string
	Model  string // its id
	Ref    string // canonical
	Digest string // of the model; empty: it is not known yet, or never is
	Holds  bool   // the pool's queue is this host's; in what it announces, it is to be
}

// Pool returns the host's pool of that id, or nil.
func (h *Host) Pool(id string) *HostPool {
	for i := range h.Pools {
		if h.Pools[i].ID == id {
			return &h.Pools[i]
		}
	}
	return nil
}
