// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"slices"
	"sync/atomic"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
)

// Setup is the configuration in force: what the file says, except where a reload gave a pool another model. It may be read by several
// goroutines, and changed by one at a time.
type Setup struct {
	now     atomic.Pointer[config.Config]
	closing atomic.Pointer[[]config.Pool] // the pools that are no longer configured but still have tasks
}

// NewSetup puts a configuration into force.
func NewSetup(c config.Config) *Setup {
	s := &Setup{}
	s.now.Store(&c)
	s.closing.Store(&[]config.Pool{})
	return s
}

func (s *Setup) config() config.Config { return *s.now.Load() }

// served returns the pools that tasks may run in: those that take tasks, and those that only end the tasks they have.
func (s *Setup) served() []config.Pool {
	served := slices.Clone(s.config().Pools)
	for _, p := range *s.closing.Load() {
		if _, configured := s.pool(p.ID); !configured {
			served = append(served, p)
		}
	}
	return served
}

// pool finds a pool by its id.
func (s *Setup) pool(id string) (config.Pool, bool) {
	pools := s.now.Load().Pools
	if i := slices.IndexFunc(pools, func(p config.Pool) bool { return p.ID == id }); i >= 0 {
		return pools[i], true
	}
	return config.Pool{}, false
}

// remodel gives a pool another model.
func (s *Setup) remodel(id string, m config.Model) {
	c := s.config()
	c.Pools = slices.Clone(c.Pools)
	for i := range c.Pools {
		if c.Pools[i].ID == id {
			c.Pools[i].Model = m
		}
	}
	s.now.Store(&c)
}

// PoolSpecs returns the configured pools as the pool manager knows them. LibsDir holds the libraries of the built-in worker.
func PoolSpecs(c config.Config, libsDir string, by *Engines) []pool.Spec {
	specs := make([]pool.Spec, len(c.Pools))
	for i, p := range c.Pools {
		specs[i] = poolSpec(c, p, libsDir, by)
	}
	return specs
}

func poolSpec(c config.Config, p config.Pool, libsDir string, by *Engines) pool.Spec {
	spec := pool.Spec{
		ID: p.ID, Engine: p.Engine, ModelID: p.Model.ID, ModelRef: p.Model.Canonical, ModelPath: p.Model.Path,
		Device: string(p.Device), TensorSplit: p.TensorSplit, Replicas: p.Replicas, Slots: p.Slots, Ctx: p.Ctx, Threads: p.Threads,
		Workload: p.Workload, Pace: p.Pace,
		Prefixes: engine.Prefixes{Reuse: engine.Reusing(p.Determinism.Reuse), Piece: p.Determinism.Piece},
		Hosts:    p.RPC, BinaryArgs: p.Provisioning.Args, URLs: p.Provisioning.URLs, LibsDir: libsDir, ModelDigest: p.Model.Digest,
		OnDemand: onDemand(p), Key: string(p.Provisioning.Key), ModelName: p.Model.Name, Invariant: p.Determinism.BatchInvariant,
	}
	spec.Health, spec.Memory, spec.NoModel = p.Health, p.Memory.Bytes(), !p.HasModel()
	engineSpec(&spec, c, p, by)
	return spec
}

func onDemand(p config.Pool) bool { return p.Lifecycle == config.LifecycleOnDemand }

// SchedulerPools returns the configured pools as the scheduler knows them.
func SchedulerPools(c config.Config) []scheduler.Pool {
	pools := make([]scheduler.Pool, len(c.Pools))
	for i, p := range c.Pools {
		pools[i] = schedulerPool(p)
	}
	return pools
}

func schedulerPool(p config.Pool) scheduler.Pool {
	return scheduler.Pool{
		ID: p.ID, Engine: p.Engine, Capacity: p.Queue.Capacity, Policy: queue.Policy(p.Queue.FullPolicy),
		Wall: p.Timeouts.Wall, Prefill: p.Timeouts.Prefill, Idle: p.Timeouts.Idle, OnDemand: onDemand(p),
	}
}
