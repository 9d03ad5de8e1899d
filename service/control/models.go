// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

// hostCard stands for the machine's own memory among the cards, for on-demand pools on the CPU.
const hostCard = -1

// Models returns the on-demand pools as residency asks for them.
func (f Fleet) Models(log *zap.Logger) residency.Models { return models{f, log} }

// models implements residency.Models (LO-503).
type models struct {
	Fleet
	log *zap.Logger
}

// Memory implements residency.Models.
func (m models) Memory() ([]vram.Room, []residency.Tenant) {
	pools := m.served()
	if !slices.ContainsFunc(pools, onDemand) {
		return nil, nil
	}
	view := m.cards.ledger.View()
	var cards []vram.Room
	for _, c := range view.Cards {
		cards = append(cards, vram.Room{Card: c.Index, Free: c.Free})
	}
	if free, err := m.manager.HostMemory(); err == nil {
		cards = append(cards, vram.Room{Card: hostCard, Free: free})
	}
	var tenants []residency.Tenant
	for _, p := range pools {
		if onDemand(p) {
			t := residency.Tenant{ID: p.ID, State: residency.Absent, IdleTTL: p.IdleTTL}
			for _, r := range m.manager.Infos(p.ID) {
				m.tenant(&t, string(p.Device), p.TensorSplit, r, view)
			}
			tenants = append(tenants, t)
		}
	}
	for i := range tenants {
		t := &tenants[i]
		switch _, fetching := m.Fetching(t.ID); {
		case fetching && t.State == residency.Loading: // others may use the memory meanwhile
			t.Wants = nil
		case !m.tried(t.ID) && !residency.Possible(cards, tenants, t.Wants):
			// The plan would never load it, and nobody would learn why. So it is loaded once, and the refusal tells the reason.
			t.Wants = nil
		}
	}
	return cards, tenants
}

// tried reports whether somebody has tried to load the pool. Then its health says what came of that.
func (m models) tried(poolID string) bool {
	return slices.ContainsFunc(m.manager.Infos(poolID), func(r pool.Info) bool { return r.Wanted || r.State != pool.Stopped })
}

// tenant adds a replica to its pool's tenant. The pool is as far as its furthest replica.
func (m models) tenant(t *residency.Tenant, device string, split []float64, r pool.Info, view vram.View) {
	switch r.State {
	case pool.Ready:
		t.State = residency.Loaded
	case pool.Provisioning, pool.Loading, pool.Probing:
		if t.State != residency.Loaded {
			t.State = residency.Loading
		}
	case pool.Draining:
		if t.State == residency.Absent {
			t.State = residency.Leaving
		}
	case pool.Backoff, pool.Failed: // where it lacks memory, room has to be made; else that would not help
		if !r.Short && r.Wanted && t.State != residency.Loaded {
			t.State = residency.Loading
		}
	case pool.Stopped:
	}
	bytes := r.NeedBytes                                                                 // the load will ask for as much, so the plan has to as well
	waits := (r.State == pool.Backoff || r.State == pool.Failed) && !r.Short && r.Wanted // no memory is kept for its next try
	if device == "cpu" {
		share := vram.Share{Card: hostCard, Bytes: bytes}
		if !waits {
			t.Wants = append(t.Wants, residency.Want{Shares: []vram.Share{share}})
		}
		if r.PID != 0 {
			t.Holds = append(t.Holds, share)
		}
		return
	}
	want := residency.Want{Bytes: bytes}
	if cards, err := vram.Cards(device); err == nil {
		want.Shares = vram.Deal(cards, split, bytes)
	}
	if !waits {
		t.Wants = append(t.Wants, want)
	}
	for _, c := range view.Cards {
		for _, h := range c.Holders {
			if h.Owner != r.Owner {
				continue
			}
			bytes := max(h.Due, h.Shown)
			if h.Phase == vram.Leaving {
				if bytes = h.Kept + h.Shown; bytes > 0 && t.State == residency.Absent {
					t.State = residency.Leaving
				}
			}
			t.Holds = append(t.Holds, vram.Share{Card: c.Index, Bytes: bytes})
		}
	}
}

// Load implements residency.Models. Where the pool was refused memory and waits, it tries again at once.
func (m models) Load(poolID string) {
	err := m.manager.Load(poolID)
	if err == nil && slices.ContainsFunc(m.manager.Infos(poolID), func(r pool.Info) bool { return r.State == pool.Backoff }) {
		err = m.manager.Retry(poolID)
	}
	if err != nil {
		m.log.Warn("an on-demand pool cannot be loaded", zap.String("pool_id", poolID), zap.Error(err))
	}
}

// Unload implements residency.Models.
func (m models) Unload(poolID string) error { return m.manager.Unload(poolID) }

// Failed implements residency.Models: it says why all replicas of the pool were given up, and returns nil where they were not.
func (m models) Failed(poolID string) *task.Error {
	i := slices.IndexFunc(m.served(), func(p config.Pool) bool { return p.ID == poolID })
	if i < 0 {
		return nil
	}
	s := m.summary(m.served()[i])
	if s.gaveUp == 0 {
		return nil
	}
	return task.Errorf(task.PoolUnavailable, "the model of pool '%s' cannot be loaded, and the task waits no longer: %s", poolID, s.lastError).Retry(s.gaveUp)
}

// LoadTime implements residency.Models: it returns that of the slowest replica. A pool that was never loaded is expected to load as
// many bytes a second as the other pools on a card, or on the CPU, did. It returns 0 where none of those was loaded.
func (m models) LoadTime(poolID string) time.Duration {
	infos := m.manager.Infos(poolID)
	longest, bytes := slowest(infos)
	if longest > 0 || len(infos) == 0 {
		return longest
	}
	var others []pool.Info
	for _, id := range m.manager.Pools() {
		for _, r := range m.manager.Infos(id) {
			if (r.Device == string(config.CPU)) == (infos[0].Device == string(config.CPU)) {
				others = append(others, r)
			}
		}
	}
	return asFast(others, bytes)
}

// slowest returns how long the slowest load of a replica took, and how many bytes the largest replica should take.
func slowest(infos []pool.Info) (longest time.Duration, bytes int64) {
	for _, r := range infos {
		longest, bytes = max(longest, r.LoadTime), max(bytes, r.EstimateBytes)
	}
	return longest, bytes
}

// asFast returns how long the bytes would take to load at the rate of the replicas that were loaded.
func asFast(others []pool.Info, bytes int64) time.Duration {
	var loaded, took float64
	for _, r := range others {
		if r.LoadTime > 0 && r.EstimateBytes > 0 {
			loaded, took = loaded+float64(r.EstimateBytes), took+float64(r.LoadTime)
		}
	}
	if loaded == 0 {
		return 0
	}
	return time.Duration(took / loaded * float64(bytes))
}

// Fetching implements residency.Models: it returns how much of the model is there. All replicas wait for one fetch, so the first tells.
func (m models) Fetching(poolID string) (share float64, fetching bool) {
	for _, r := range m.manager.Infos(poolID) {
		if r.FetchTotal > 0 {
			return float64(r.FetchedBytes) / float64(r.FetchTotal), true
		}
		fetching = fetching || r.FetchedBytes > 0
	}
	return 0, fetching
}
