// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/flow/budget"
	"github.com/llama-orch/llama-orch/service/flow/session"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/task"
)

// Sessions are the sessions together with the budgets, as the scheduler and the API ask for them. A task takes its turn before its
// budgets are asked. When it ends, its budgets are settled before its turn ends, so that the session's next turn finds them settled.
type Sessions struct {
	*session.Manager

	budgets *budget.Book
}

// OpenSessions makes them of what is recorded.
func OpenSessions(f Fleet, record SessionLedger, r prometheus.Registerer, log *zap.Logger) (*Sessions, error) {
	c := f.config()
	budgets, err := budget.New(context.Background(), budget.Options{
		Token: amount(config.Budget{Tokens: c.Budgets.Token.Tokens, TimeMS: c.Budgets.Token.TimeMS, Cost: c.Budgets.Token.Cost, Joules: c.Budgets.Token.Joules}),
		Renew: c.Budgets.Token.Renew, Price: f.price, Ledger: record, Now: f.now,
	})
	if err != nil {
		return nil, err
	}
	m, err := session.New(context.Background(), session.Options{
		TTL: c.Sessions.TTL, MaxTurns: c.Sessions.MaxTurns, Max: c.Sessions.MaxSessions, Budget: amount(c.Budgets.Session),
		Accounts: budgets, Ledger: record, Engines: slots{f}, Metrics: session.NewMetrics(r), Log: log,
		Now: f.now, NewID: uuid.NewString, SaveDir: SaveDir(c), SaveBytes: int64(c.Sessions.KVBytes), Free: fetch.FreeBytes,
	})
	if err != nil {
		return nil, fmt.Errorf("read the sessions of the run before: %w", err)
	}
	s := &Sessions{m, budgets}
	return s, r.Register(budgetMetrics{s})
}

// SaveDir is the folder of the KV of sessions whose workers have ended.
func SaveDir(c config.Config) string { return filepath.Join(c.DataDir, "kv") }

// SessionLedger is the durable record of both.
type SessionLedger interface {
	session.Ledger
	budget.Ledger
}

// Admit implements scheduler.Sessions.
func (s *Sessions) Admit(t *task.Task) error {
	if err := s.Manager.Admit(t); err != nil {
		return err
	}
	if err := s.budgets.Reserve(t); err != nil {
		s.Manager.Withdraw(t)
		return err
	}
	return nil
}

// Pays reports whether a budget may pay for a task.
func (s *Sessions) Pays(r task.Request) bool { return s.budgets.Pays(&r) }

// Withdraw implements scheduler.Sessions.
func (s *Sessions) Withdraw(t task.Task) {
	s.budgets.Release(t.ID)
	s.Manager.Withdraw(&t)
}

// Recover implements scheduler.Sessions.
func (s *Sessions) Recover(t task.Task) {
	s.Manager.Recover(&t)
	s.budgets.Recover(&t)
}

// Charge implements scheduler.Sessions.
func (s *Sessions) Charge(r task.Record, decode time.Duration, energy *task.Energy) *task.Charge {
	return s.budgets.Charge(&r, decode, energy)
}

// Settle implements scheduler.Sessions.
func (s *Sessions) Settle(r task.Record) {
	s.budgets.Settle(&r)
	s.Manager.Settle(&r)
}

// Rests returns what is left of the budgets of a session, which may be empty, and of an actor.
func (s *Sessions) Rests(sessionID, actor string) task.Budgets {
	return s.budgets.Rests(sessionID, actor)
}

func amount(b config.Budget) task.Amount {
	return task.Amount{
		Tokens: int64(b.Tokens), Time: time.Duration(b.TimeMS) * time.Millisecond, Cost: int64(math.Ceil(b.Cost * task.CostUnit)),
		Energy: int64(math.Ceil(b.Joules * task.Millijoules)),
	}
}

// price returns what a token costs in a pool now.
func (f Fleet) price(poolID string) budget.Price {
	p, _ := f.pool(poolID)
	return budget.Price{In: p.Price.In * task.CostUnit / 1000, Out: p.Price.Out * task.CostUnit / 1000}
}

// slots implements session.Engines.
type slots struct{ Fleet }

// lookWithin is how long an engine has to tell its slots, or to erase one.
const lookWithin = 2 * time.Second

func (f slots) Slot(ctx context.Context, replicaID string, slot int) (session.Slot, bool) {
	e, ok := f.manager.Engine(replicaID)
	if !ok {
		return session.Slot{}, false
	}
	s, ok, err := look(ctx, e, slot)
	return session.Slot{Job: s.Job, Bytes: s.Bytes}, ok && err == nil
}

// look returns a slot of an engine. It returns false where the engine does not tell the slot's last job.
func look(ctx context.Context, e engine.Engine, slot int) (engine.Slot, bool, error) {
	keeper, ok := e.(engine.Keeper)
	if !ok {
		return engine.Slot{}, false, nil
	}
	bounded, stop := awake.WithTimeout(ctx, lookWithin)
	defer stop()
	all, err := keeper.Slots(bounded)
	for _, s := range all {
		if s.ID == slot {
			return s, s.Told, err
		}
	}
	return engine.Slot{}, false, err
}

// Erase implements session.Engines. It holds a slot of the replica meanwhile, so that no task gets the slot that is erased.
func (f slots) Erase(ctx context.Context, replicaID string, slot, job int) error {
	held, err := f.manager.Lease(replicaID)
	if task.HasCode(err, task.ReplicaExhausted) || task.HasCode(err, task.PoolUnready) {
		return nil // a task has the slot and overwrites it, or the worker is gone
	}
	if err != nil {
		return err
	}
	defer held.Release()
	s, ok, err := look(ctx, held.Engine(), slot)
	if err != nil || !ok || s.Busy || s.Job != job {
		return err
	}
	keeper, ok := held.Engine().(engine.Keeper)
	if !ok {
		return nil
	}
	bounded, stop := awake.WithTimeout(ctx, lookWithin)
	defer stop()
	return keeper.Erase(bounded, slot)
}

// KVMetrics returns the gauges of the replicas' KV. They are read when they are asked for.
func (f Fleet) KVMetrics(sessions *Sessions) prometheus.Collector {
	return kvMetrics{f, sessions}
}

// kvMetrics tell how full the replicas' KV is, as far as their engines have told (ORCH-3022).
type kvMetrics struct {
	Fleet
	sessions *Sessions
}

var kvDesc = prometheus.NewDesc("kv_cache_usage_ratio", "Tokens that a replica's slots hold, of those they have room for.", observe.ReplicaLabels(), nil)

// Describe implements prometheus.Collector.
func (k kvMetrics) Describe(out chan<- *prometheus.Desc) { out <- kvDesc }

// Collect implements prometheus.Collector.
func (k kvMetrics) Collect(out chan<- prometheus.Metric) {
	cells := k.sessions.Cells()
	for _, id := range k.manager.Pools() {
		for _, r := range k.manager.Infos(id) {
			if r.State != pool.Ready || r.Ctx <= 0 || r.EngineSlots <= 0 {
				continue
			}
			ratio := min(float64(cells[r.ID])/float64(r.Ctx*r.EngineSlots), 1)
			if r.Load != nil && r.Load.KV >= 0 { // the engine itself knows best
				ratio = r.Load.KV
			}
			out <- prometheus.MustNewConstMetric(kvDesc, prometheus.GaugeValue, ratio, r.Engine, r.EngineVersion, r.PoolID, r.ID)
		}
	}
}
