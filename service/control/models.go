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

// Models is the residency's view of the on-demand pools.
func (f Fleet) Models(log *zap.Logger) residency.Models { return models{f, log} }

// models is the residency's view of the on-demand pools (LO-503).
type models struct {
	Fleet
	log *zap.Logger
}

// Memory is residency.Models's.
func (m models) Memory() ([]residency.Card, []residency.Tenant) {
	pools := m.served()
	if !slices.ContainsFunc(pools, onDemand) {
		return nil, nil
	}
	view := m.memory.ledger.View()
	var cards []residency.Card
	for _, c := range view.Cards {
		cards = append(cards, residency.Card{Index: c.Index, Free: c.Free})
	}
	if free, err := m.manager.HostMemory(); err == nil {
		cards = append(cards, residency.Card{Index: hostCard, Free: free})
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
		if t := &tenants[i]; !m.tried(t.ID) && !possible(cards, tenants, *t) {
			// The plan would leave it alone, and nobody would say why: so the load is tried, and refused with the reason.
			t.Wants = nil
		}
	}
	return cards, tenants
}

// tried reports whether a worker of the pool is, or was last, wanted: then its health says how that went.
func (m models) tried(poolID string) bool {
	return slices.ContainsFunc(m.manager.Infos(poolID), func(r pool.Info) bool { return r.Wanted || r.State != pool.Stopped })
}

// possible reports whether each replica of an on-demand pool would fit if all on-demand pools were gone.
func possible(cards []residency.Card, tenants []residency.Tenant, of residency.Tenant) bool {
	free := map[int]int64{}
	for _, c := range cards {
		free[c.Index] = c.Free
	}
	for _, t := range tenants {
		for _, s := range t.Holds {
			free[s.Card] += s.Bytes
		}
	}
	for _, want := range of.Wants {
		_, fits := residency.ChooseCard(free, want.Bytes)
		for _, s := range want.Shares {
			fits = free[s.Card] >= s.Bytes
			if !fits {
				break
			}
		}
		if !fits {
			return false
		}
	}
	return true
}

// tenant adds a replica to its pool's tenant: the pool is where its furthest replica is.
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
	case pool.Backoff, pool.Failed: // for want of memory: room has to be made; for another reason, that would not help
		if !r.Short && r.Wanted && t.State != residency.Loaded {
			t.State = residency.Loading
		}
	case pool.Stopped:
	}
	bytes := r.NeedBytes // as the load will ask for it, or the plan would not fit
	if device == "cpu" {
		share := residency.Share{Card: hostCard, Bytes: bytes}
		t.Wants = append(t.Wants, residency.Want{Shares: []residency.Share{share}})
		if r.PID != 0 {
			t.Holds = append(t.Holds, share)
		}
		return
	}
	want := residency.Want{Bytes: bytes}
	if cards, err := vram.Cards(device); err == nil {
		for _, s := range vram.Deal(cards, split, bytes) {
			want.Shares = append(want.Shares, residency.Share(s))
		}
	}
	t.Wants = append(t.Wants, want)
	for _, c := range view.Cards {
		for _, h := range c.Holders {
			if h.Owner != r.Owner {
				continue
			}
			if h.Phase == vram.Leaving {
				if t.State == residency.Absent && h.Kept > 0 {
					t.State = residency.Leaving
				}
				continue
			}
			t.Holds = append(t.Holds, residency.Share{Card: c.Index, Bytes: max(h.Due, h.Shown)})
		}
	}
}

// Load is residency.Models's. A pool that waits for memory after a refusal tries again at once.
func (m models) Load(poolID string) {
	err := m.manager.Load(poolID)
	if err == nil && slices.ContainsFunc(m.manager.Infos(poolID), func(r pool.Info) bool { return r.State == pool.Backoff }) {
		err = m.manager.Retry(poolID)
	}
	if err != nil {
		m.log.Warn("an on-demand pool cannot be loaded", zap.String("pool_id", poolID), zap.Error(err))
	}
}

// Unload is residency.Models's.
func (m models) Unload(poolID string) error { return m.manager.Unload(poolID) }

// Failed is residency.Models's: all of the pool's replicas were given up, and this is why.
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

// LoadTime is residency.Models's: that of the slowest replica. A pool that was never loaded is taken to load as fast, by bytes, as the
// others of its kind did; 0 where none of them was.
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

// slowest is the longest that a replica's last load took, and the most that one is expected to take.
func slowest(infos []pool.Info) (longest time.Duration, bytes int64) {
	for _, r := range infos {
		longest, bytes = max(longest, r.LoadTime), max(bytes, r.EstimateBytes)
	}
	return longest, bytes
}

// asFast is how long so many bytes take to load at the rate of the replicas that were loaded.
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

// Fetching is residency.Models's: all replicas wait for one fetch.
func (m models) Fetching(poolID string) (share float64, fetching bool) {
	for _, r := range m.manager.Infos(poolID) {
		if r.FetchTotal > 0 {
			return float64(r.FetchedBytes) / float64(r.FetchTotal), true
		}
		fetching = fetching || r.FetchedBytes > 0
	}
	return 0, fetching
}
