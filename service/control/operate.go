// SPDX-License-Identifier: GPL-3.0-or-later

// Package control operates the pools. It drains and reloads them, explains placements, follows the configuration and the catalog, and
// shows the pools to each of the other packages in the way that package asks for them.
package control

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/task"
)

// tidyEvery is how often the operator looks after pools that are no longer configured, and after those of retired models.
const tidyEvery = time.Second

// Operator changes the pools while they run: it drains and reloads them, and applies a changed configuration (ORCH-2101).
type Operator struct {
	Fleet
	schedule  *scheduler.Scheduler
	residency *residency.Manager
	policy    *policy.Policy
	sessions  *Sessions
	log       *zap.Logger
	libsDir   string
	env       func(string) string
	engines   *Engines
	reloads   reloads

	mu      sync.Mutex             // one change at a time
	file    config.Config          // what the file says, but what only a restart can change is as it was at the start; with mu
	closing map[string]config.Pool // the pools that are no longer configured but still have tasks; with mu
	retired map[string]bool        // the pools that were drained because their model was retired; the goroutine of Start alone
	life    lifecycle.Life
}

// OperatorOptions are what an Operator is made from. LibsDir holds the libraries of the built-in worker; empty: no pool needs them yet.
type OperatorOptions struct {
	Fleet     Fleet
	Schedule  *scheduler.Scheduler
	Residency *residency.Manager
	Policy    *policy.Policy
	Sessions  *Sessions
	Log       *zap.Logger
	LibsDir   string
	Env       func(string) string
	Engines   *Engines
	// Registerer is where the series of reloads go; nil: nowhere.
	Registerer prometheus.Registerer
}

// NewOperator makes an operator. The configuration in force is what the file said at the start.
func NewOperator(o OperatorOptions) *Operator {
	return &Operator{
		Fleet: o.Fleet, schedule: o.Schedule, residency: o.Residency, sessions: o.Sessions, log: o.Log, libsDir: o.LibsDir, env: o.Env, engines: o.Engines,
		file: o.Fleet.config(), closing: map[string]config.Pool{}, policy: o.Policy, retired: map[string]bool{},
		reloads: newReloads(o.Registerer, o.Fleet.now()),
	}
}

// Start looks after pools that are no longer configured, until they have no tasks, and after those whose models are retired. It
// implements lifecycle.Service.
func (o *Operator) Start(context.Context) error {
	if !o.life.Begin() {
		return nil
	}
	o.life.Go(func(ctx context.Context) {
		contain.Loop(ctx, o.log, stumbled, o.lookAfter)
	})
	return nil
}

// stumbled is what the log says where the look after the pools panicked. Each second it is taken anew.
const stumbled = "the look after the pools panicked, and goes on"

func (o *Operator) lookAfter(ctx context.Context) {
	_ = contain.Do(o.log, stumbled, func() { o.engines.found(ctx, o.config()) }) // the engines serve all the same
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			contain.Each(o.log, stumbled, []func(){o.tidy, o.retire})
		case <-ctx.Done():
			return
		}
	}
}

// Stop ends that. It implements lifecycle.Service.
func (o *Operator) Stop(ctx context.Context) error { return o.life.End(ctx, context.Canceled) }

// Drain implements api.Control.
func (o *Operator) Drain(_ context.Context, id string, deadline time.Duration) (api.DrainView, error) {
	if err := o.manager.Drain(id, deadline); err != nil {
		return api.DrainView{}, err
	}
	v := api.DrainView{PoolID: id, Draining: true, Deadline: deadline}
	interactive, batch := o.schedule.Depth(id)
	v.Queued = interactive + batch
	for _, r := range o.manager.Infos(id) {
		v.Running += r.Active
	}
	o.log.Info("a pool drains", zap.String("pool_id", id), zap.Duration("deadline_ms", deadline), zap.Int("running", v.Running), zap.Int("queued", v.Queued))
	return v, nil
}

// Reload implements api.Control.
func (o *Operator) Reload(ctx context.Context, id, ref string) (api.ReloadView, error) {
	p, known := o.Setup.pool(id)
	if !known {
		return api.ReloadView{}, o.unknown(id)
	}
	if p.Provisioning.Mode == config.ModeExternal && o.config().CanonicalRef(ref) == p.Model.Canonical {
		return api.ReloadView{ // it comes back from a drain: nothing else can be done to an engine that somebody else runs
			PoolID: id, Model: api.ModelView{ID: p.Model.ID, Ref: ref}, PreviousRef: p.Model.Canonical,
		}, o.manager.Load(id)
	}
	if p.Provisioning.Mode == config.ModeExternal {
		return api.ReloadView{}, task.Errorf(task.InvalidParams, "the engines of pool '%s' are run by somebody else: give them the model there; the pool's own ref %s brings them back after a drain", id, p.Model.Canonical)
	}
	m, err := o.modelFor(ctx, p, ref)
	if err != nil {
		return api.ReloadView{}, err
	}
	began := o.now()
	if err := o.manager.Reload(ctx, id, pool.Model{Ref: m.Canonical, Path: m.Path}); err != nil {
		o.log.Warn("a pool keeps its model", zap.String("pool_id", id), zap.String("model_ref", m.Canonical), zap.Error(err))
		return api.ReloadView{}, err
	}
	m.ID = p.Model.ID // clients still ask for the model by this name
	o.mu.Lock()
	defer o.mu.Unlock()
	o.Setup.remodel(id, m)
	digest := ""
	for _, r := range o.manager.Infos(id) {
		digest = r.ModelDigest
	}
	view := api.ReloadView{
		PoolID: id, Model: api.ModelView{ID: m.ID, Ref: m.Ref, Digest: digest}, PreviousRef: p.Model.Canonical, Took: o.now().Sub(began),
	}
	o.log.Info("a pool has another model", zap.String("pool_id", id), zap.String("model_ref", m.Canonical), zap.Duration("took_ms", view.Took))
	return view, nil
}

// modelFor is the model that a pool is to get, by its ref or the id that the catalog has for it.
func (o *Operator) modelFor(ctx context.Context, p config.Pool, ref string) (config.Model, error) {
	added, shelved := o.shelf.Find(ref)
	if shelved {
		ref = added.Ref
	}
	find, check := o.config().ModelAt, fetch.CheckLocal
	if p.FromFolder() { // the engine's kind looks into it
		find, check, shelved = o.config().Folder, func(context.Context, string) error { return nil }, false
	}
	m, err := find(ref)
	if err != nil {
		return m, task.Errorf(task.ModelNotFound, "%s", err)
	}
	if m.Path == "" || shelved {
		return m, nil
	}
	if err := o.permitsTarget(ctx, m.Path); err != nil {
		return m, err
	}
	return m, check(ctx, m.Path)
}

// Explain implements api.Control.
func (o *Operator) Explain(_ context.Context, r task.Request) (api.Explanation, error) {
	seen := candidates{Fleet: o.Fleet, schedule: o.schedule}
	r, err := seen.Resolve(r)
	if err != nil {
		return api.Explanation{}, err
	}
	var pools []placement.Pool
	home := o.sessions.Home(r.SessionID)
	for _, p := range seen.Snapshot(task.Interactive) {
		p.Home = home != "" && p.ID == home
		pools = append(pools, p.Pool)
	}
	e, err := placement.Explain(pools, o.schedule.Replicas, r, o.sessions.Warm(r.SessionID))
	if err != nil {
		return api.Explanation{}, err
	}
	out := api.Explanation{PoolID: e.PoolID, ReplicaID: e.ReplicaID}
	for _, v := range e.Verdicts {
		out.Candidates = append(out.Candidates, api.CandidateView{
			PoolID: v.PoolID, ReplicaID: v.ReplicaID, Chosen: v.Chosen, Reasons: v.Reasons, Active: v.Active, VRAMFree: v.FreeVRAM,
		})
	}
	if p, ok := o.Setup.pool(e.PoolID); ok && e.ReplicaID == "" && onDemand(p) {
		for _, evicted := range o.residency.Evictions(e.PoolID) {
			for _, r := range o.manager.Infos(evicted) {
				out.Evictions = append(out.Evictions, api.EvictionView{PoolID: evicted, ReplicaID: r.ID, Frees: max(r.ObservedBytes, r.EstimateBytes)})
			}
		}
	}
	return out, nil
}

// Register implements api.Control: a worker on another host joins an external pool (ORCH-2101).
func (o *Operator) Register(_ context.Context, w api.WorkerRegistration) (api.WorkerLease, error) {
	p, known := o.Setup.pool(w.PoolID)
	switch {
	case !known:
		return api.WorkerLease{}, o.unknown(w.PoolID)
	case p.Provisioning.Mode != config.ModeExternal:
		return api.WorkerLease{}, task.Errorf(task.InvalidParams, "pool '%s' runs its own workers: register with a pool of provisioning mode external", p.ID)
	case w.Engine != p.Engine:
		return api.WorkerLease{}, task.Errorf(task.InvalidParams, "pool '%s' is for engines of kind %s, not %.40q", p.ID, p.Engine, w.Engine)
	case p.Ctx > 0 && w.Ctx < p.Ctx:
		return api.WorkerLease{}, task.Errorf(task.InvalidParams,
			"the worker's context of %d tokens is smaller than the %d of pool '%s': start it with a larger one", w.Ctx, p.Ctx, p.ID)
	}
	replica, err := o.manager.Join(p.ID, pool.Announced{Name: w.WorkerID, URL: w.URL, ModelDigest: w.ModelDigest}, registrationLease)
	if err != nil {
		return api.WorkerLease{}, err
	}
	return api.WorkerLease{WorkerID: w.WorkerID, ReplicaID: replica, Lease: registrationLease}, nil
}

// registrationLease is how long a registered worker belongs to its pool without being heard of again.
const registrationLease = 30 * time.Second

func (o *Operator) unknown(id string) error {
	return task.Errorf(task.NotFound, "there is no pool %.80q: use one of %s", id, strings.Join(o.manager.Pools(), ", "))
}
