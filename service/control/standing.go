// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/task"
)

// standing says how a pool stands, by its replicas: what is ready, else what is on its way, else why nothing is (LO-842). Admission, the dry
// run, readiness and the pool's own view all go by it.
func (f Fleet) standing(p config.Pool) task.Standing {
	infos := f.manager.Infos(p.ID)
	wanted, failed, leaving, fixed, reason := 0, 0, false, true, ""
	way := task.Standing{State: task.PoolLoading}
	for _, r := range infos {
		switch {
		case !r.Wanted:
			leaving = leaving || r.State == pool.Draining || r.State == pool.Ready
			continue
		case r.State == pool.Ready:
			return task.Standing{State: task.PoolReady}
		}
		wanted++
		way.Failing = way.Failing || r.Failing && !r.Short
		if left := r.NextTry.Sub(f.now()); !r.NextTry.IsZero() && (way.Retry == 0 || left < way.Retry) {
			way.Retry = max(left, time.Millisecond)
		}
		switch {
		case r.State == pool.Failed, r.State == pool.Provisioning && r.Fixed: // who comes while it tries again hears the same as before
			failed++
			if fixed = fixed && r.Fixed; fixed {
				reason = r.LastError
			}
		case r.FetchTotal > 0 || r.FetchedBytes > 0:
			way.State = task.PoolFetching
			if r.FetchTotal > 0 {
				way.Progress = min(float64(r.FetchedBytes)/float64(r.FetchTotal), 1)
			}
		case r.State == pool.Loading && r.LoadTime > 0 && way.Progress == 0:
			way.Progress = min(float64(f.now().Sub(r.Since))/float64(r.LoadTime), nearlyLoaded)
		}
	}
	switch {
	case len(infos) == 0: // an external pool, for which engines register
		way.Reason = "no engine has registered with it"
	case wanted > 0 && failed == wanted:
		if way.State, way.Fixed, way.Progress = task.PoolFailed, fixed, 0; fixed {
			way.Reason = reason
		}
	case wanted > 0:
	case leaving:
		way = task.Standing{State: task.PoolDraining}
	case !onDemand(p):
		way = task.Standing{State: task.PoolDrained}
	case infos[0].Missing != "":
		way = task.Standing{State: task.PoolFailed, Reason: infos[0].Missing, Fixed: true}
	default:
		way = task.Standing{State: task.PoolUnloaded}
	}
	return way
}

// nearlyLoaded bounds the progress of a load, whose end nobody knows before.
const nearlyLoaded = 0.99

// Writer tells whether the record of tasks can be written.
type Writer interface {
	Writable(ctx context.Context) error
}

// runs says what keeps a pool from running a task that came now, or returns nil. Its queue may be full: that goes by.
func (f views) runs(p config.Pool) *task.Error {
	switch s := f.standing(p); {
	case f.schedule.Stuck(p.ID):
		stuck := task.Errorf(task.PoolUnavailable, "the queue of pool '%s' stands still: tasks wait, and none was started or ended for minutes; restart the orchestrator, which loses no task", p.ID)
		stuck.PoolID = p.ID
		return stuck
	case s.State == task.PoolReady:
		return nil
	case onDemand(p) && s.State != task.PoolFailed && !s.Failing:
		return nil
	default:
		return s.Refusal(p.ID, p.Engine)
	}
}

// Ready implements api.Pools: it returns nil where a task that came now would be accepted, and some pool has a way to run it (LO-841).
func (f views) Ready(ctx context.Context) error {
	if f.schedule.Stopping() {
		return task.Errorf(task.ShuttingDown, "the orchestrator is stopping").Retry(5 * time.Second)
	}
	if err := f.ledger.Writable(ctx); err != nil {
		why := task.Errorf(task.LedgerUnavailable, "the record of tasks cannot be written, so no task is accepted: make room on the disk of the data folder, or see to the database that ledger.postgres names; the orchestrator's log has the cause").
			Retry(time.Second).Because(err)
		why.Reasons = []task.Reason{{Code: why.Code, Message: why.Message}}
		return why
	}
	unready := task.Errorf(task.PoolUnready, "no pool can run a task now: `llama-orch pools` says why").Retry(time.Second)
	for _, p := range f.config().Pools {
		why := f.runs(p)
		if why == nil {
			return nil
		}
		unready.Reasons = append(unready.Reasons, task.Reason{PoolID: p.ID, Code: why.Code, Message: why.Message})
	}
	return unready
}

// Resume implements api.Control: it ends a drain.
func (o *Operator) Resume(_ context.Context, id string) (api.StandingView, error) {
	p, err := o.known(id)
	if err != nil {
		return api.StandingView{}, err
	}
	if m, known := o.shelf.Find(p.Model.Canonical); known && o.shelf.Retired(p.Model.Canonical) {
		e := task.Errorf(task.ModelDeprecated, "the model of pool '%s' was retired, so the pool stays drained: activate it first, with `llama-orch models activate %s`", id, m.ID)
		e.PoolID = id
		return api.StandingView{}, e
	}
	if s := o.standing(p); s.State == task.PoolDraining || s.State == task.PoolDrained {
		if err := o.manager.Load(id); err != nil {
			return api.StandingView{}, err
		}
		o.log.Info("a pool's drain is over", zap.String("pool_id", id))
	}
	return o.stands(p), nil
}

// Load implements api.Control: it loads an on-demand pool, for which idle ones make room, and has any pool that waits for its next try
// make it now.
func (o *Operator) Load(_ context.Context, id string) (api.StandingView, error) {
	p, err := o.known(id)
	if err != nil {
		return api.StandingView{}, err
	}
	if s := o.standing(p); !onDemand(p) && (s.State == task.PoolDraining || s.State == task.PoolDrained) {
		e := task.Errorf(task.Conflict, "pool '%s' is %s: `llama-orch pool resume %[1]s` brings it back", id, s.State)
		e.PoolID = id
		return api.StandingView{}, e
	}
	if onDemand(p) {
		for _, idle := range o.residency.Evictions(id) {
			if err := o.manager.Unload(idle); err != nil { // a task has started there meanwhile, so this one waits for its memory
				o.log.Debug("an on-demand pool does not make room", zap.String("pool_id", idle), zap.Error(err))
				continue
			}
			o.residency.Note(idle, false, "makes room for "+id+", which somebody asked for")
		}
	}
	if err := o.manager.Load(id); err != nil {
		return api.StandingView{}, err
	}
	for _, r := range o.manager.Infos(id) {
		if r.State == pool.Failed || r.State == pool.Backoff {
			if err := o.manager.Retry(id); err != nil {
				return api.StandingView{}, err
			}
			break
		}
	}
	if onDemand(p) {
		o.residency.Note(id, true, byHand)
	}
	o.log.Info("a pool is to be loaded", zap.String("pool_id", id))
	return o.stands(p), nil
}

// byHand is why a model came or went that no plan asked for.
const byHand = "somebody asked for it"

// unloadWithin is how long the tasks of a pool that is to be unloaded may go on: as long as a drain's at most.
const unloadWithin = 24 * time.Hour

// Unload implements api.Control: an on-demand pool's workers go once what they run has ended.
func (o *Operator) Unload(_ context.Context, id string) (api.StandingView, error) {
	p, err := o.known(id)
	if err != nil {
		return api.StandingView{}, err
	}
	if !onDemand(p) {
		e := task.Errorf(task.Conflict, "pool '%s' is pinned, and so stays loaded: set `lifecycle: on_demand`, or drain it with `llama-orch pool drain %[1]s`", id)
		e.PoolID = id
		return api.StandingView{}, e
	}
	if err := o.manager.Drain(id, unloadWithin); err != nil {
		return api.StandingView{}, err
	}
	o.residency.Note(id, false, byHand)
	o.log.Info("a pool is to leave the memory", zap.String("pool_id", id))
	return o.stands(p), nil
}

// known finds a configured pool.
func (o *Operator) known(id string) (config.Pool, error) {
	p, known := o.Setup.pool(id)
	if !known {
		return p, o.unknown(id)
	}
	return p, nil
}

// stands is what an operator is told of a pool.
func (o *Operator) stands(p config.Pool) api.StandingView {
	v := api.StandingView{PoolID: p.ID, State: o.standing(p).State}
	interactive, batch := o.schedule.Depth(p.ID)
	v.Queued = interactive + batch
	for _, r := range o.manager.Infos(p.ID) {
		v.Running += r.Active
	}
	return v
}
