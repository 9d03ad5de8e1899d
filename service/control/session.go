// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/flow/session"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// NewSessions keeps the sessions of the configuration in force, with those that are recorded.
func NewSessions(f Fleet, ledger session.Ledger, r prometheus.Registerer, log *zap.Logger) (*session.Manager, error) {
	c := f.config()
	m, err := session.New(context.Background(), session.Options{
		TTL: c.Sessions.TTL, MaxTurns: c.Sessions.MaxTurns, Max: c.Sessions.MaxSessions, Budget: amount(c.Budgets.Session),
		Token: amount(config.Budget{Tokens: c.Budgets.Token.Tokens, TimeMS: c.Budgets.Token.TimeMS, Cost: c.Budgets.Token.Cost}),
		Renew: c.Budgets.Token.Renew, Price: f.price, Ledger: ledger, Engines: slots{f}, Metrics: session.NewMetrics(r), Log: log,
		Now: time.Now, NewID: uuid.NewString,
	})
	if err != nil {
		return nil, fmt.Errorf("read the sessions of the run before: %w", err)
	}
	return m, nil
}

func amount(b config.Budget) task.Amount {
	return task.Amount{Tokens: int64(b.Tokens), Time: time.Duration(b.TimeMS) * time.Millisecond, Cost: int64(math.Ceil(b.Cost * task.CostUnit))}
}

// price is what a pool's tokens cost now.
func (f Fleet) price(poolID string) session.Price {
	p, _ := f.pool(poolID)
	return session.Price{In: p.Price.In * task.CostUnit / 1000, Out: p.Price.Out * task.CostUnit / 1000}
}

// slots is the sessions' view of the engines.
type slots struct{ Fleet }

// lookWithin bounds a look at an engine's slots.
const lookWithin = 2 * time.Second

func (f slots) Slot(ctx context.Context, replicaID string, slot int) (session.Slot, bool) {
	e, ok := f.manager.Engine(replicaID)
	if !ok {
		return session.Slot{}, false
	}
	s, ok, err := look(ctx, e, slot)
	return session.Slot{Job: s.Job, Bytes: s.Bytes}, ok && err == nil
}

// look finds a slot, where the engine tells what it did last.
func look(ctx context.Context, e engine.Engine, slot int) (engine.Slot, bool, error) {
	keeper, ok := e.(engine.Keeper)
	if !ok {
		return engine.Slot{}, false, nil
	}
	bounded, stop := context.WithTimeout(ctx, lookWithin)
	defer stop()
	all, err := keeper.Slots(bounded)
	for _, s := range all {
		if s.ID == slot {
			return s, s.Told, err
		}
	}
	return engine.Slot{}, false, err
}

// Erase holds a slot of the replica meanwhile, so that no task is sent to the one that is erased.
func (f slots) Erase(ctx context.Context, replicaID string, slot, job int) error {
	held, err := f.manager.Lease(replicaID)
	if task.HasCode(err, task.ReplicaExhausted) || task.HasCode(err, task.PoolUnready) {
		return nil // who has the slot overwrites it, and what is gone needs no erasing
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
	bounded, stop := context.WithTimeout(ctx, lookWithin)
	defer stop()
	return keeper.Erase(bounded, slot)
}

// sweepEvery is how often sessions that are over are looked for.
const sweepEvery = 10 * time.Second

// StartSweeps forgets sessions that have been over for long, until the function it returns is called, which joins it.
func StartSweeps(m *session.Manager) (end func()) {
	ctx, stop := context.WithCancel(context.Background())
	var sweeps sync.WaitGroup
	sweeps.Go(func() {
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.Sweep(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		stop()
		sweeps.Wait()
	}
}

// KVMetrics are the gauges of the replicas' KV, read when they are asked for.
func (f Fleet) KVMetrics(sessions *session.Manager) prometheus.Collector {
	return kvMetrics{f, sessions}
}

// kvMetrics is how full the replicas' KV is, as their engines told last (ORCH-3022).
type kvMetrics struct {
	Fleet
	sessions *session.Manager
}

var kvDesc = prometheus.NewDesc("kv_cache_usage_ratio", "Tokens that a replica's slots hold, of those they have room for.", observe.ReplicaLabels(), nil)

// Describe is prometheus.Collector's.
func (k kvMetrics) Describe(out chan<- *prometheus.Desc) { out <- kvDesc }

// Collect is prometheus.Collector's.
func (k kvMetrics) Collect(out chan<- prometheus.Metric) {
	cells := k.sessions.Cells()
	for _, id := range k.manager.Pools() {
		for _, r := range k.manager.Infos(id) {
			if r.State != pool.Ready || r.Ctx <= 0 || r.EngineSlots <= 0 {
				continue
			}
			ratio := min(float64(cells[r.ID])/float64(r.Ctx*r.EngineSlots), 1)
			out <- prometheus.MustNewConstMetric(kvDesc, prometheus.GaugeValue, ratio, r.Engine, r.EngineVersion, r.PoolID, r.ID)
		}
	}
}
