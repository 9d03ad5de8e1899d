// SPDX-License-Identifier: GPL-3.0-or-later

// Package control runs the pools of an orchestrator: it drains, reloads and explains them, follows the configuration, and shows
// each of the other packages the pools as that asks for them.
package control

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/flow/session"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

// tidyEvery is how often pools that are no longer configured are looked at.
const tidyEvery = time.Second

// Operator changes the pools while they run: drain, reload, and the configuration read again (ORCH-2101).
type Operator struct {
	Fleet
	schedule  *scheduler.Scheduler
	residency *residency.Manager
	policy    *policy.Policy
	sessions  *session.Manager
	log       *zap.Logger
	libsDir   string
	env       func(string) string
	engines   Engines

	mu      sync.Mutex             // one change at a time
	file    config.Config          // the file as it is in force: what only a restart can change is as it was at the start
	closing map[string]config.Pool // no longer configured, and still with tasks
	retired map[string]bool        // pools that were drained because their model was retired
	stop    context.CancelFunc
	tidying sync.WaitGroup
}

// OperatorOptions are what an Operator is made from.
type OperatorOptions struct {
	Fleet     Fleet
	Schedule  *scheduler.Scheduler
	Residency *residency.Manager
	Policy    *policy.Policy
	Sessions  *session.Manager
	Log       *zap.Logger
	LibsDir   string
	Env       func(string) string
	Engines   Engines
}

// NewOperator makes an operator of the configuration in force.
func NewOperator(o OperatorOptions) *Operator {
	return &Operator{
		Fleet: o.Fleet, schedule: o.Schedule, residency: o.Residency, sessions: o.Sessions, log: o.Log, libsDir: o.LibsDir, env: o.Env, engines: o.Engines,
		file: o.Fleet.config(), closing: map[string]config.Pool{}, policy: o.Policy, retired: map[string]bool{},
	}
}

// Drain is api.Control's.
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

// Reload is api.Control's.
func (o *Operator) Reload(ctx context.Context, id, ref string) (api.ReloadView, error) {
	p, known := o.Setup.pool(id)
	if !known {
		return api.ReloadView{}, o.unknown(id)
	}
	if p.Provisioning.Mode == config.ModeExternal && o.config().CanonicalRef(ref) == p.Model.Canonical {
		return api.ReloadView{ // back from a drain: more cannot be done to engines of somebody else
			PoolID: id, Model: api.ModelView{ID: p.Model.ID, Ref: ref}, PreviousRef: p.Model.Canonical,
		}, o.manager.Load(id)
	}
	if p.Provisioning.Mode == config.ModeExternal {
		return api.ReloadView{}, task.Errorf(task.InvalidParams, "the engines of pool '%s' are run by somebody else: give them the model there; the pool's own ref %s brings them back after a drain", id, p.Model.Canonical)
	}
	if added, known := o.shelf.Find(ref); known { // by its id
		ref = added.Ref
	}
	m, err := o.config().ModelAt(ref)
	if err != nil {
		return api.ReloadView{}, task.Errorf(task.ModelNotFound, "%s", err)
	}
	began := time.Now()
	if err := o.manager.Reload(ctx, id, pool.Model{Ref: m.Canonical, Path: m.Path}); err != nil {
		o.log.Warn("a pool keeps its model", zap.String("pool_id", id), zap.String("model_ref", m.Canonical), zap.Error(err))
		return api.ReloadView{}, err
	}
	m.ID = p.Model.ID // requests go on by the name they know
	o.mu.Lock()
	defer o.mu.Unlock()
	o.Setup.remodel(id, m)
	digest := ""
	for _, r := range o.manager.Infos(id) {
		digest = r.ModelDigest
	}
	view := api.ReloadView{
		PoolID: id, Model: api.ModelView{ID: m.ID, Ref: ref, Digest: digest}, PreviousRef: p.Model.Canonical, Took: time.Since(began),
	}
	o.log.Info("a pool has another model", zap.String("pool_id", id), zap.String("model_ref", m.Canonical), zap.Duration("took_ms", view.Took))
	return view, nil
}

// Explain is api.Control's.
func (o *Operator) Explain(_ context.Context, r task.Request) (api.Explanation, error) {
	seen := candidates{o.Fleet, o.schedule}
	var pools []placement.Pool
	home := o.sessions.Home(r.SessionID)
	for _, p := range seen.Snapshot(task.Interactive) {
		p.Home = home != "" && p.ID == home
		pools = append(pools, p.Pool)
	}
	e, err := placement.Explain(pools, func(id string) []placement.Replica {
		return replicas{o.Fleet}.Snapshot(id, nil)
	}, seen.CanonicalRef(r.ModelRef), r, o.sessions.Warm(r.SessionID))
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

// ReloadConfig is api.Control's, and what SIGHUP does.
func (o *Operator) ReloadConfig(ctx context.Context) (api.ConfigChange, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	next, err := config.Load(o.file.Path, o.env)
	if err == nil {
		err = Check(next)
	}
	if err == nil {
		err = o.findLibs(next)
	}
	if err != nil {
		o.log.Warn("the configuration was not read again, and nothing has changed", zap.Error(err))
		return api.ConfigChange{}, task.Errorf(task.InvalidParams, "the configuration is not valid, and nothing has changed: %s", err)
	}
	var change api.ConfigChange
	for _, path := range config.Diff(o.file, next) {
		if applies(path) {
			change.Changed = append(change.Changed, path)
		} else {
			change.RestartRequired = append(change.RestartRequired, path)
		}
	}
	if err := o.apply(next); err != nil {
		return api.ConfigChange{}, err
	}
	o.engines.found(ctx, o.file)
	o.log.Info("the configuration was read again", zap.Strings("changed", change.Changed), zap.Strings("restart_required", change.RestartRequired))
	return change, nil
}

// findLibs finds the libraries of the built-in worker, where no pool has used it so far. The caller holds mu.
func (o *Operator) findLibs(next config.Config) (err error) {
	if o.libsDir == "" && slices.ContainsFunc(next.Pools, func(p config.Pool) bool { return p.Provisioning.Mode == config.ModeBuiltin }) {
		o.libsDir, err = provision.LocateEngineLibs()
	}
	return err
}

// applies reports whether a setting takes effect without a restart: those that make up a pool's workers, and the policy.
func applies(path string) bool {
	if strings.HasPrefix(path, "sampler_profiles.") || strings.HasPrefix(path, "policy.") {
		return true
	}
	rest, isPool := strings.CutPrefix(path, "pools.")
	for _, fixed := range []string{"queue", "timeouts", "lifecycle", "idle_ttl", "engine"} {
		if strings.HasSuffix(rest, "."+fixed) || strings.Contains(rest, "."+fixed+".") {
			return false
		}
	}
	return isPool
}

// apply makes the pools those of the file. The caller holds mu.
func (o *Operator) apply(next config.Config) error {
	file, live, closing := o.file, o.config(), maps.Clone(o.closing)
	file.Pools, file.SamplerProfiles, file.Policy = nil, next.SamplerProfiles, next.Policy
	live.Pools, live.SamplerProfiles, live.Policy = nil, next.SamplerProfiles, next.Policy
	for _, p := range next.Pools {
		was, there := poolIn(o.file, p.ID)
		if !there {
			was, there = closing[p.ID]
		}
		if there { // what only a restart can change stays as it was
			p.Queue, p.Timeouts, p.Lifecycle, p.IdleTTL, p.Engine = was.Queue, was.Timeouts, was.Lifecycle, was.IdleTTL, was.Engine
		}
		file.Pools = append(file.Pools, p)
		if now, ok := o.Setup.pool(p.ID); ok && was.Model == p.Model { // a model that a reload gave it stays, unless the file names another
			p.Model = now.Model
		}
		live.Pools = append(live.Pools, p)
		delete(closing, p.ID)
	}
	for _, p := range o.file.Pools {
		if _, stays := poolIn(next, p.ID); !stays {
			closing[p.ID] = p
		}
	}
	if _, _, _, err := o.manager.Apply(o.specs(file, closing)); err != nil {
		return err
	}
	if err := o.policy.Replace(PolicyRules(next)); err != nil {
		return err // which Check would have found
	}
	o.close(closing)
	for _, p := range live.Pools {
		o.schedule.AddPool(schedulerPool(p))
	}
	o.Setup.now.Store(&live)
	o.file = file
	return nil
}

// close notes which pools are no longer configured, and still have tasks. The caller holds mu.
func (o *Operator) close(closing map[string]config.Pool) {
	o.closing = closing
	left := slices.Collect(maps.Values(closing))
	o.Setup.closing.Store(&left)
}

// specs are those of the pools that are configured, and of those that are no longer and have tasks yet.
func (o *Operator) specs(file config.Config, closing map[string]config.Pool) []pool.Spec {
	specs := make([]pool.Spec, 0, len(file.Pools)+len(closing))
	for _, p := range file.Pools {
		specs = append(specs, poolSpec(file, p, o.libsDir))
	}
	for _, id := range slices.Sorted(maps.Keys(closing)) {
		specs = append(specs, poolSpec(file, closing[id], o.libsDir))
	}
	return specs
}

func poolIn(c config.Config, id string) (config.Pool, bool) {
	return NewSetup(c).pool(id)
}

// Start looks after pools that are no longer configured, until they have no tasks. End joins it.
func (o *Operator) Start() {
	ctx, stop := context.WithCancel(context.Background())
	o.stop = stop
	o.tidying.Go(func() {
		o.engines.found(ctx, o.config())
		tick := time.NewTicker(tidyEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				o.tidy()
				o.retire()
			case <-ctx.Done():
				return
			}
		}
	})
}

// End ends what Start began.
func (o *Operator) End() {
	o.stop()
	o.tidying.Wait()
}

// tidy ends the pools that are no longer configured and have no task left.
func (o *Operator) tidy() {
	o.mu.Lock()
	defer o.mu.Unlock()
	gone, rest := []string{}, maps.Clone(o.closing)
	for id := range o.closing {
		if o.schedule.RemovePool(id) {
			delete(rest, id)
			gone = append(gone, id)
		}
	}
	if len(gone) == 0 {
		return
	}
	if _, _, _, err := o.manager.Apply(o.specs(o.file, rest)); err != nil { // a pool is being reloaded, perhaps
		o.log.Debug("pools that are no longer configured cannot be ended yet", zap.Strings("pools", gone), zap.Error(err))
		return
	}
	o.close(rest)
	o.log.Info("pools that are no longer configured have ended", zap.Strings("pools", gone))
}

// retire drains the pools of models whose time is over, and brings those back whose model is active again (ORCH-3072).
func (o *Operator) retire() {
	for _, p := range o.config().Pools {
		m, known := o.shelf.Find(p.Model.Canonical)
		over := known && m.State == catalog.Retired && !time.Now().Before(m.DrainBy)
		if over == o.retired[p.ID] {
			continue
		}
		log, err := o.log.With(zap.String("pool_id", p.ID), zap.String("model_id", m.ID)), error(nil)
		if over {
			if err = o.manager.Drain(p.ID, 0); err == nil {
				log.Info("a pool drains, because its model was retired")
				o.retired[p.ID] = true
			}
		} else if onDemand(p) { // a task loads it
			delete(o.retired, p.ID)
		} else if err = o.manager.Load(p.ID); err == nil {
			log.Info("a pool is back, because its model was activated again")
			delete(o.retired, p.ID)
		}
		if err != nil { // a reload is at work on it, perhaps: again in a second
			log.Debug("a pool does not follow its model yet", zap.Error(err))
		}
	}
}

// Register is api.Control's: a worker on another host joins an external pool (ORCH-2101).
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
