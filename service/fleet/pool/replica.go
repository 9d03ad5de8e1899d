// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// healthyAfter is how long a worker must be ready before its replica's earlier failures are forgotten.
const healthyAfter = time.Minute

// deathThroes is how long a worker that failed may take to die by itself, so that how it died is known and not how it was killed.
const deathThroes = 200 * time.Millisecond

// shortageWait is how long a replica waits at most after a shortage of this process: the next try costs little, and the cause may have gone.
const shortageWait = 2 * time.Second

// desired is what the Manager wants of a replica.
type desired struct {
	wanted  bool      // that a worker runs
	gone    bool      // that the replica ends for good
	cut     time.Time // when the leases that are still held are lost; it counts only while no worker is wanted
	retries int       // each increase cuts the wait for the next try short
}

func (o desired) ends() bool { return o.gone || !o.wanted }

// replica is the place of one worker. Its supervisor does what is desired, and it alone changes what others see of the replica
// through the pointers shown and current.
type replica struct {
	m     *Manager
	spec  Spec // nobody changes it
	kind  engine.Kind
	index int
	id    string
	owner string     // its name in Options.VRAM
	after []*replica // the replicas that it replaces, until they have ended; owned by the supervisor

	states  stateSeries
	shown   atomic.Pointer[Info]
	wants   atomic.Bool            // whether a worker is desired, for readers without the mutex
	current atomic.Pointer[worker] // the worker, from ready until it is lost or has ended
	first   chan *loss             // capacity 1: how the first try went; nil: the worker got ready
	done    chan struct{}          // closed when the supervisor has ended

	mu      sync.Mutex // guards what follows, and every increase of the current worker's active; of several replicas the lower index is locked first
	desired desired
	changed chan struct{}           // closed and replaced when desired changes
	abort   context.CancelCauseFunc // ends the worker that is not ready yet; nil: there is none
	news    chan struct{}           // closed and replaced when the shown Info changes

	backoff  *backoff.ExponentialBackOff // owned by the supervisor
	breaker  breaker                     // owned by the supervisor
	restarts int                         // owned by the supervisor
	kept     int                         // the context that fitted last; 0: none did; owned by the supervisor
	inVain   int                         // how often in a row there was no memory; owned by the supervisor
	stretch  float64                     // factor by which a fitted worker asks for more than expected; owned by the supervisor
	probing  bool                        // the liveness probe has a slot; guarded by mu
}

func newReplica(m *Manager, spec Spec, index int, id string, wanted bool) *replica {
	r := &replica{
		m: m, spec: spec, index: index, id: id, desired: desired{wanted: wanted},
		stretch: 1, first: make(chan *loss, 1), done: make(chan struct{}), changed: make(chan struct{}), news: make(chan struct{}),
		breaker: breaker{failures: m.opts.BreakerFailures, window: m.opts.BreakerWindow},
	}
	r.kind, _ = m.opts.kind(spec.Engine) // complete has checked that there is one
	r.owner = r.id
	r.wants.Store(wanted)
	r.backoff = &backoff.ExponentialBackOff{
		InitialInterval: m.opts.BackoffMin, MaxInterval: m.opts.BackoffMax, Multiplier: 2, RandomizationFactor: 0.2,
	}
	r.backoff.Reset()
	r.shown.Store(&Info{
		ID: r.id, PoolID: spec.ID, State: Stopped, Engine: spec.Engine, ModelID: spec.ModelID, Device: spec.Device,
		Ctx: spec.Ctx, Slots: spec.Slots, Since: m.now(), Features: spec.features(r.kind), Strict: spec.strict(spec.Slots),
	})
	return r
}

// tell changes what is desired.
func (r *replica) tell(change func(*desired)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tellLocked(change)
}

func (r *replica) tellLocked(change func(*desired)) {
	before := r.desired
	change(&r.desired)
	if r.desired == before {
		return
	}
	r.wants.Store(!r.desired.ends())
	close(r.changed)
	r.changed = make(chan struct{})
	if r.desired.ends() && r.abort != nil {
		r.abort(errUnwanted)
	}
}

// watchDesired returns what is desired, and a channel that is closed when that changes.
func (r *replica) watchDesired() (desired, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.desired, r.changed
}

// abortable has abort called if the worker is not wanted any more, until abortable is called with nil.
func (r *replica) abortable(abort context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.abort = abort; abort != nil && r.desired.ends() {
		abort(errUnwanted)
	}
}

// serving returns the ready worker, or nil.
func (r *replica) serving() *worker {
	if r.shown.Load().State != Ready {
		return nil
	}
	if w := r.current.Load(); w != nil && w.ctx.Err() == nil {
		return w
	}
	return nil
}

func (r *replica) info() Info {
	info := *r.shown.Load()
	info.Owner, info.Wanted = r.owner, r.wants.Load()
	if info.State != Ready && info.State != Draining {
		return info
	}
	w := r.current.Load()
	switch {
	case w != nil && w.ctx.Err() == nil:
		info.Active, info.Load = int(w.active.Load()), w.load.Load()
	case info.State == Ready: // the worker is lost, and the supervisor has not shown it yet
		info.State = Backoff
	}
	return info
}

func (r *replica) unready() *task.Error {
	info := r.info()
	err := task.Errorf(task.PoolUnready, "replica %s is %s; try again later, the pool's health says what it waits for", r.id, info.State)
	err.Engine, err.PoolID = r.spec.Engine, r.spec.ID
	return err.Retry(max(info.NextTry.Sub(r.m.now()), 0))
}

// publish shows a new state. Only the supervisor calls it.
func (r *replica) publish(state State, change func(*Info)) {
	r.change(func(i *Info) {
		i.State, i.Since, i.NextTry, i.Short, i.Fixed, i.Missing, i.Progress = state, r.m.now(), time.Time{}, false, false, "", ""
		i.Restarts = r.restarts
		if change != nil {
			change(i)
		}
	})
	r.m.opts.OnChange(r.spec.ID)
}

// change shows something new in the same state. Only the supervisor calls it.
func (r *replica) change(change func(*Info)) {
	next := *r.shown.Load()
	change(&next)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shown.Store(&next)
	close(r.news)
	r.news = make(chan struct{})
}

// await returns when ok holds for what is shown.
func (r *replica) await(ctx context.Context, ok func(Info) bool) error {
	for {
		r.mu.Lock()
		news := r.news
		r.mu.Unlock()
		if ok(r.info()) {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// supervise does what is desired, until the replica has to end or the Manager stops.
func (r *replica) supervise() {
	defer close(r.done)
	contain.Loop(r.m.run, r.m.log, supervision, func(context.Context) {
		log := r.m.log.With(zap.String("pool_id", r.spec.ID), zap.String("replica_id", r.id))
		r.succeed()
		for r.step(log) {
		}
	}, zap.String("pool_id", r.spec.ID), zap.String("replica_id", r.id))
}

// step does what is desired once. It returns false when the replica has ended.
func (r *replica) step(log *zap.Logger) (more bool) {
	o, changed := r.watchDesired()
	switch {
	case r.m.run.Err() != nil || o.gone:
		r.publish(Stopped, r.without)
		return false
	case !o.wanted:
		r.publish(Stopped, func(i *Info) { r.without(i); i.Failing = false })
		r.rest(changed)
		return true
	}
	why := r.live(log)
	if why == nil || r.m.run.Err() != nil {
		return true // it ended because it was told to
	}
	r.tried(why)
	r.pause(why, o.retries, log)
	return true
}

// without shows that there is no worker.
func (r *replica) without(i *Info) { i.PID, i.Cards, i.Shares = 0, nil, nil }

// tried tells firstTries how the first try went.
func (r *replica) tried(why *loss) {
	select {
	case r.first <- why:
	default:
	}
}

// succeed waits until the replicas that this one replaces have ended.
func (r *replica) succeed() {
	if len(r.after) > 0 {
		r.publish(Draining, nil) // they are draining, and the pool shows this replica by now
	}
	for _, old := range r.after {
		<-old.done // somebody told them to end, or the Manager stops
	}
	r.after = nil
}

// pause waits for the next try after a loss. Retries is what desired.retries was when the lost worker began.
func (r *replica) pause(why *loss, retries int, log *zap.Logger) {
	if why.reason == filesChanged { // it is no failure, and what is there now is waited for
		r.backoff.Reset()
	}
	wait, state, text := r.backoff.NextBackOff(), Backoff, why.Error()
	if why.fixed {
		state = Failed
	}
	switch why.reason { //nolint:exhaustive // the others wait as long as they fail
	case ownShortage:
		wait = min(wait, shortageWait)
	case hostLost:
		wait = min(wait, hostWait)
	}
	now := r.m.now()
	if r.spec.Mode != External && r.breaker.fail(why.reason, now) {
		state, wait = Failed, jitter(10*r.m.opts.BackoffMax)
		text = r.breaker.gaveUp(why, now.Add(wait))
	}
	r.m.metrics.lost(r, why.reason)
	log.Warn("replica is not ready", zap.String("state", string(state)), zap.String("reason", string(why.reason)),
		zap.Duration("next_try_ms", wait), zap.Error(why))
	over, stop := r.m.opts.Clock.Until(now.Add(wait)) // who reads NextTry can rely on it
	defer stop()
	r.publish(state, func(i *Info) {
		r.without(i)
		i.LastError, i.NextTry, i.Short, i.Fixed, i.Failing = text, now.Add(wait), why.short, why.fixed, true
	})
	for waiting := true; waiting; {
		o, changed := r.watchDesired()
		if o.ends() || o.retries != retries {
			r.backoff.Reset()
			r.breaker.reset()
			break
		}
		select {
		case <-changed:
		case <-over:
			waiting = false
		case <-r.m.run.Done():
			waiting = false
		}
	}
	r.restarts++
}

// live takes one worker from provisioning to its end, and returns why it was lost, or nil if it was told to end. By then nothing
// of the worker is left.
func (r *replica) live(log *zap.Logger) (why *loss) {
	defer func() {
		if p := recover(); p != nil {
			why = panicked(p, log)
		}
	}()
	w := r.newWorker()
	r.abortable(w.lose)
	fixed := r.shown.Load().Fixed
	r.publish(Provisioning, func(i *Info) { i.Fixed = fixed }) // it stays so until the try has come further than the one before
	defer func() {
		r.abortable(nil)
		r.current.Store(nil)
		if why != nil && (why.reason == loadFailed || why.reason == probeFailed) && w.proc != nil {
			w.proc.Settle(deathThroes)
		}
		r.bury(w, why == nil)
		switch {
		case why == nil: // errors.Is would take a nil *loss for an error
		case errors.Is(why, errUnwanted):
			why = nil
		default:
			why = r.explain(why, w)
		}
	}()
	plan, err := r.provision(w, log)
	if err != nil {
		return asLoss(err, refused)
	}
	r.publish(Loading, func(i *Info) { i.ModelDigest = plan.facts.ModelDigest })
	base, err := r.load(w, plan, log)
	if err != nil {
		return asLoss(err, loadFailed)
	}
	r.publish(Probing, nil)
	props, err := r.probe(w)
	if err != nil {
		return asLoss(err, probeFailed)
	}
	if err := r.seal(w, plan, log); err != nil {
		return asLoss(err, loadFailed)
	}
	observed := r.settleClaim(w)
	r.abortable(nil) // from here on it is drained before it ends
	r.adopt(w, plan, props)
	if err := r.m.known.learn(w.facts, r.m.now()); err != nil {
		log.Warn("what this replica's fingerprint stands for is not kept over a restart", zap.Error(err))
	}
	r.serve(w, observed)
	log.Info("replica is ready", zap.String("engine", r.spec.Engine), zap.String("engine_version", props.Build),
		zap.String("url", base), zap.String("fingerprint", Fingerprint(w.facts)), zap.Ints("cards", w.claim.cards),
		zap.Int64("estimate_bytes", r.shown.Load().EstimateBytes), zap.Int64("observed_bytes", observed))
	r.tried(nil)
	since := r.m.now()
	why = r.watch(w, log)
	if r.m.now().Sub(since) >= healthyAfter {
		r.backoff.Reset()
	}
	if w.served.Load() || r.m.now().Sub(since) >= healthyAfter {
		r.breaker.reset()
	}
	return why
}

// adopt takes over what the engine says of itself.
func (r *replica) adopt(w *worker, plan *plan, props engine.Props) {
	w.facts = plan.facts
	w.facts.Build, w.facts.System = props.Build, props.System
	w.facts.Ctx, w.facts.Slots = cmp.Or(w.claim.load.Ctx, r.spec.Ctx), r.spec.Slots
	if props.Ctx > 0 {
		w.facts.Ctx = props.Ctx
	}
	if props.Slots > 0 {
		w.facts.Slots = props.Slots
	}
	w.slots, w.features = min(r.spec.Slots, w.facts.Slots), props.Features
	w.strict = r.spec.strict(w.facts.Slots)
}

// serve makes the worker the one whose slots are leased.
func (r *replica) serve(w *worker, observed int64) {
	w.used.Store(r.m.now().UnixNano())
	r.mu.Lock()
	r.probing = false // of the worker before, whose probe may have panicked
	r.mu.Unlock()
	r.current.Store(w)
	r.publish(Ready, func(i *Info) {
		i.Failing = false
		i.EngineVersion, i.Fingerprint = w.facts.Build, Fingerprint(w.facts)
		i.Ctx, i.Slots, i.EngineSlots = w.facts.Ctx, w.slots, w.facts.Slots
		i.Features, i.Strict, i.Piece = w.features, w.strict, w.at.Piece
		i.Shares = r.shares(w)
		i.LogTail, i.ObservedBytes, i.LoadTime = w.tail(), observed, r.m.now().Sub(w.born)
		class := ""
		if w.claim.load.Cards == 0 {
			class = w.claim.class
		}
		i.NeedBytes = r.m.learned.Need(w.claim.load, class, i.EstimateBytes, r.m.now())
	})
}
