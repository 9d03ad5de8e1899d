// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// healthyAfter is how long a worker must have been ready for its replica's backoff to start anew.
const healthyAfter = time.Minute

// missesAllowed is how many health checks in a row a ready replica may miss. One alone may be a busy machine.
const missesAllowed = 1

// reason says why a worker was, or could not be, started again. It labels a metric: the list is closed.
type reason string

const (
	refused     reason = "refused"      // a check before the spawn failed
	loadFailed  reason = "load_failed"  // spawned, but did not get healthy
	probeFailed reason = "probe_failed" // healthy, but did not answer the probe
	exited      reason = "exited"       // the process of a ready worker ended
	unhealthy   reason = "unhealthy"    // a ready worker stopped answering health checks
	replaced    reason = "replaced"     // Lease.Replace
)

// errExited is why a worker is lost whose process ended.
var errExited = errors.New("the worker process ended")

// loss is why a replica has no worker.
type loss struct {
	reason reason
	detail string
	err    error
	fixed  bool // repeating alone does not help: somebody must change something
}

func (l *loss) Error() string {
	switch {
	case l.err == nil:
		return l.detail
	case l.detail == "":
		return l.err.Error()
	}
	return l.detail + ": " + l.err.Error()
}

func (l *loss) Unwrap() error { return l.err }

// worker is one incarnation of a replica: a process, or a URL found healthy.
type worker struct {
	ctx    context.Context // ends, with a *loss as its cause, when the worker is lost
	lose   context.CancelCauseFunc
	engine engine.Engine
	proc   *process // nil for external
	slots  int
	active atomic.Int32
}

// replica is one worker's place. Its supervisor alone changes it; others read through the two pointers.
type replica struct {
	m     *Manager
	spec  Spec
	index int
	id    string

	shown   atomic.Pointer[Info]
	current atomic.Pointer[worker] // set while ready

	backoff  *backoff.ExponentialBackOff // owned by the supervisor
	restarts int                         // owned by the supervisor
}

func newReplica(m *Manager, spec Spec, index int) *replica {
	r := &replica{m: m, spec: spec, index: index, id: fmt.Sprintf("%s-%d", spec.ID, index)}
	r.backoff = &backoff.ExponentialBackOff{
		InitialInterval: m.opts.BackoffMin, MaxInterval: m.opts.BackoffMax, Multiplier: 2, RandomizationFactor: 0.2,
	}
	r.backoff.Reset()
	r.shown.Store(&Info{
		ID: r.id, PoolID: spec.ID, State: Stopped, Engine: spec.Engine, ModelID: spec.ModelID, Device: spec.Device,
		Ctx: spec.Ctx, Slots: spec.Slots, Since: time.Now(),
	})
	m.metrics.state(r.spec.ID, r.id, Stopped)
	return r
}

// serving returns the ready worker, or nil.
func (r *replica) serving() *worker {
	if w := r.current.Load(); w != nil && w.ctx.Err() == nil {
		return w
	}
	return nil
}

func (r *replica) info() Info {
	info := *r.shown.Load()
	if info.State != Ready {
		return info
	}
	w := r.current.Load()
	if w == nil || w.ctx.Err() != nil { // lost, and the supervisor has not got round to say so
		info.State = Backoff
		return info
	}
	info.Active = int(w.active.Load())
	return info
}

func (r *replica) unready() *task.Error {
	info := r.info()
	err := task.Errorf(task.PoolUnready, "replica %s is %s; try again later, the pool's health says what it waits for", r.id, info.State)
	err.Engine, err.PoolID = r.spec.Engine, r.spec.ID
	return err.Retry(max(time.Until(info.NextTry), 0))
}

// publish shows a new state. Only the supervisor calls it.
func (r *replica) publish(state State, change func(*Info)) {
	next := *r.shown.Load()
	next.State, next.Since, next.NextTry = state, time.Now(), time.Time{}
	next.Restarts = r.restarts
	if change != nil {
		change(&next)
	}
	r.shown.Store(&next)
	r.m.metrics.state(r.spec.ID, r.id, state)
	r.m.opts.OnChange(r.spec.ID)
}

// supervise keeps the replica running until the manager stops.
func (r *replica) supervise() {
	log := r.m.log.With(zap.String("pool_id", r.spec.ID), zap.String("replica_id", r.id))
	for {
		why := r.live(log)
		if r.m.run.Err() != nil {
			r.publish(Stopped, func(i *Info) { i.PID = 0 })
			return
		}
		wait := r.backoff.NextBackOff()
		state := Backoff
		if why.fixed {
			state = Failed
		}
		r.m.metrics.restarts.WithLabelValues(r.spec.ID, r.id, string(why.reason)).Inc()
		log.Warn("replica is not ready", zap.String("state", string(state)), zap.String("reason", string(why.reason)),
			zap.Duration("next_try_in", wait), zap.Error(why))
		r.publish(state, func(i *Info) { i.PID, i.LastError, i.NextTry = 0, why.Error(), i.Since.Add(wait) })
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.m.run.Done():
			timer.Stop()
		}
		r.restarts++
	}
}

// live leads one worker from provisioning to its end, and returns why it ended. Nothing of it is left then.
func (r *replica) live(log *zap.Logger) (why *loss) {
	r.publish(Provisioning, nil)
	plan, err := r.provision(r.m.run)
	if err != nil {
		return asLoss(err, refused)
	}
	r.publish(Loading, func(i *Info) { i.ModelDigest = plan.facts.ModelDigest })

	w := &worker{}
	w.ctx, w.lose = context.WithCancelCause(r.m.run)
	defer w.lose(errStopping)
	base, err := r.load(w, plan, log)
	defer func() {
		r.bury(w)
		if errors.Is(why, errExited) { // only now is it known how
			why = &loss{reason: why.reason, detail: w.proc.epitaph}
		}
	}()
	if err != nil {
		return asLoss(err, loadFailed)
	}
	r.publish(Probing, nil)
	props, err := r.probe(w)
	if err != nil {
		return asLoss(err, probeFailed)
	}
	r.settle(w, plan, props)
	log.Info("replica is ready", zap.String("engine", r.spec.Engine), zap.String("engine_version", props.Build),
		zap.String("url", base), zap.String("fingerprint", r.shown.Load().Fingerprint))
	since := time.Now()
	why = r.watch(w)
	r.current.Store(nil)
	if time.Since(since) >= healthyAfter {
		r.backoff.Reset()
	}
	return why
}

// load starts the worker, where it is a process of ours, and waits until it is healthy.
func (r *replica) load(w *worker, plan *plan, log *zap.Logger) (base string, err error) {
	ctx, cancel := context.WithTimeoutCause(w.ctx, r.m.opts.LoadTimeout,
		fmt.Errorf("the worker was not healthy within %s", r.m.opts.LoadTimeout))
	defer cancel()
	key := ""
	if r.spec.Mode == External {
		base = strings.TrimRight(r.spec.URLs[r.index], "/")
	} else {
		key = rand.Text()
		if w.proc, err = r.spawn(plan, key, w.lose, log); err != nil {
			return "", err
		}
		r.publish(Loading, func(i *Info) { i.PID = w.proc.pid })
		address := plan.address
		if address == "" {
			select {
			case address = <-w.proc.announced:
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
		}
		base = "http://" + address
	}
	w.engine = r.m.opts.NewEngine(base, key)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := w.engine.Health(ctx)
		if err == nil {
			return base, nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if r.spec.Mode == External { // nothing of ours is loading: back off
			return "", fmt.Errorf("the engine at %s does not answer as healthy: %w", base, err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// probe has the model answer once: only then is the replica ready (ORCH-3002).
func (r *replica) probe(w *worker) (engine.Props, error) {
	ctx, cancel := context.WithTimeoutCause(w.ctx, r.m.opts.ProbeTimeout,
		fmt.Errorf("the probe was not answered within %s", r.m.opts.ProbeTimeout))
	defer cancel()
	job := engine.Job{
		Workload: r.spec.Workload, Prompt: "Hello", Seed: 1, MaxTokens: 4,
		Sampling: task.Sampling{Profile: "probe", TopP: 1, TopK: 1, RepeatPenalty: 1},
	}
	props, err := w.engine.Props(ctx)
	switch {
	case err != nil:
	case r.spec.Workload == task.Completion:
		_, err = w.engine.Generate(ctx, job, func(string) error { return nil })
	default:
		job.Inputs = []string{"Hello"}
		if r.spec.Workload == task.Embedding {
			job.Prompt = ""
		}
		_, _, err = w.engine.Answer(ctx, job)
	}
	if ctx.Err() != nil {
		return props, context.Cause(ctx)
	}
	if err != nil {
		return props, fmt.Errorf("the probe failed: %w", err)
	}
	return props, nil
}

// settle makes the worker the one that is leased.
func (r *replica) settle(w *worker, plan *plan, props engine.Props) {
	facts := plan.facts
	facts.Build, facts.System = props.Build, props.System
	facts.Ctx, facts.Slots = r.spec.Ctx, r.spec.Slots
	if props.Ctx > 0 {
		facts.Ctx = props.Ctx
	}
	if props.Slots > 0 {
		facts.Slots = props.Slots
	}
	w.slots = min(r.spec.Slots, facts.Slots)
	r.current.Store(w)
	r.publish(Ready, func(i *Info) {
		i.EngineVersion, i.Fingerprint = props.Build, Fingerprint(facts)
		i.Ctx, i.Slots, i.EngineSlots = facts.Ctx, w.slots, facts.Slots
		i.LogTail = w.tail()
	})
}

// watch checks the worker's health until it is lost.
func (r *replica) watch(w *worker) *loss {
	ticker := time.NewTicker(r.m.opts.HealthInterval)
	defer ticker.Stop()
	misses := 0
	for {
		select {
		case <-w.ctx.Done():
			return asLoss(context.Cause(w.ctx), exited)
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(w.ctx, r.m.opts.HealthInterval)
		err := w.engine.Health(ctx)
		cancel()
		if err == nil {
			misses = 0
			continue
		}
		if misses++; misses > missesAllowed {
			w.lose(&loss{reason: unhealthy, detail: "the engine stopped answering health checks", err: err})
		}
	}
}

// bury ends what the worker still has: its process, with everything in its group, and its connections.
func (r *replica) bury(w *worker) {
	w.lose(errStopping) // no effect on a worker that was lost already
	if w.proc != nil {
		grace := time.Duration(0)
		if r.m.run.Err() != nil {
			grace = r.m.opts.StopGrace
		}
		w.proc.end(r.m.kill, grace)
		tail := w.tail()
		next := *r.shown.Load()
		next.LogTail = tail
		r.shown.Store(&next)
	}
	if c, ok := w.engine.(interface{ Close() }); ok {
		c.Close() // its idle connections
	}
}

func (w *worker) tail() []string {
	if w.proc == nil {
		return nil
	}
	return w.proc.log.tail(tailLines)
}

// asLoss finds the *loss in err's chain, else makes one.
func asLoss(err error, why reason) *loss {
	if l, ok := errors.AsType[*loss](err); ok {
		return l
	}
	return &loss{reason: why, err: err}
}
