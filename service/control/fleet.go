// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/task"
)

// Fleet shows the pools to the other packages. Each of them asks in its own way, so each has a view of its own.
type Fleet struct {
	*Setup
	manager *pool.Manager
	cards   *Cards
	shelf   *Shelf
	files   *described
	now     func() time.Time
}

// NewFleet makes a Fleet of the pools that the configuration in force names.
func NewFleet(s *Setup, manager *pool.Manager, cards *Cards, shelf *Shelf, now func() time.Time) Fleet {
	return Fleet{Setup: s, manager: manager, cards: cards, shelf: shelf, files: &described{known: map[string]description{}}, now: now}
}

// summary is what the replicas of a pool come to. Where some are Ready, ctx and slots are the largest among those; features and
// strict are what all of them have and are.
type summary struct {
	features  []task.Feature
	piece     int // as in pool.Info, where all of them have it
	ready     int
	version   string
	digest    string
	ctx       int
	slots     int
	strict    bool
	lastError string
	gaveUp    time.Duration // where all replicas were given up: the time until one is tried again
}

func (f Fleet) summary(p config.Pool) summary {
	s := summary{ctx: p.Ctx, slots: p.Slots, strict: p.Strict()}
	infos, failed := f.manager.Infos(p.ID), 0
	for _, r := range infos {
		if r.State == pool.Failed {
			failed++
			s.gaveUp = max(r.NextTry.Sub(f.now()), time.Second)
		}
		if r.EngineVersion != "" {
			s.version = r.EngineVersion
		}
		if r.ModelDigest != "" {
			s.digest = r.ModelDigest
		}
		if s.features == nil {
			s.features = r.Features
		}
		if r.State != pool.Ready {
			if r.LastError != "" {
				s.lastError = r.LastError
			}
			continue
		}
		if s.ready == 0 {
			s.features, s.piece = r.Features, r.Piece
			s.ctx, s.slots, s.strict = r.Ctx, r.Slots, r.Strict
		}
		s.ready++
		s.piece = min(s.piece, r.Piece)
		s.features = slices.DeleteFunc(slices.Clone(s.features), func(f task.Feature) bool { return !slices.Contains(r.Features, f) })
		s.ctx, s.slots, s.strict = max(s.ctx, r.Ctx), max(s.slots, r.Slots), s.strict && r.Strict
	}
	if failed < len(infos) {
		s.gaveUp = 0
	}
	return s
}

// Configured returns the pools of the configuration in force.
func (f Fleet) Configured() []config.Pool { return f.config().Pools }

// Standing says whether a pool has a Ready replica, and, where it has none, what went wrong last.
func (f Fleet) Standing(p config.Pool) (ready bool, problem string) {
	s := f.summary(p)
	return s.ready > 0, s.lastError
}

// Replicas returns the replicas as the scheduler asks for them.
func (f Fleet) Replicas() scheduler.Replicas { return replicas{f} }

// replicas implements scheduler.Replicas.
type replicas struct{ Fleet }

func (f replicas) Snapshot(poolID string, into []placement.Replica) []placement.Replica {
	for _, r := range f.manager.Infos(poolID) {
		others := 0
		if r.Load != nil {
			others = r.Load.Others
		}
		into = append(into, placement.Replica{
			Others: others,
			ID:     r.ID, State: string(r.State), Ready: r.State == pool.Ready, Parked: !r.Wanted, Slots: r.Slots, Active: r.Active,
			Strict: r.Strict, Pieces: r.Piece > 0, Ctx: r.Ctx, FreeVRAM: f.cards.ledger.Free(r.Cards...), Fingerprint: r.Fingerprint,
		})
	}
	return into
}

func (f replicas) Lease(replicaID string) (scheduler.Lease, error) {
	l, err := f.manager.Lease(replicaID)
	if err != nil {
		return nil, err
	}
	return lease{l}, nil
}

func (f replicas) EngineVersion(poolID string) string {
	for _, r := range f.manager.Infos(poolID) {
		if r.EngineVersion != "" {
			return r.EngineVersion
		}
	}
	return ""
}

type lease struct{ *pool.Lease }

func (l lease) Replica() scheduler.Replica {
	i := l.Info()
	return scheduler.Replica{ID: i.ID, EngineVersion: i.EngineVersion, ModelDigest: i.ModelDigest, Fingerprint: i.Fingerprint, Slots: i.EngineSlots, Piece: i.Piece, ReadyAt: i.Since, LoadTime: i.LoadTime, Cards: i.Cards}
}
