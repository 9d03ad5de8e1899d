// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/safefile"
	"github.com/llama-orch/llama-orch/service/spare"
	"github.com/llama-orch/llama-orch/service/task"
)

// worker is what a replica runs for a time: a process of ours, or an engine at a URL.
type worker struct {
	ctx      context.Context // ends, with a *loss as its cause, when the worker is lost
	lose     context.CancelCauseFunc
	engine   engine.Engine
	at       engine.Endpoint  // of the engine
	proc     *process.Process // nil for external
	slots    int
	features []task.Feature
	strict   bool // as in Info

	now      func() time.Time
	born     time.Time
	oomKills int64  // how many there were when it was born
	claim    claim  // owned by the supervisor
	held     Held   // keeps its model from being deleted; owned by the supervisor
	model    string // its model's file; owned by the supervisor
	// What its files looked like when they were hashed: those of the model, and those whose code it runs. Set by the supervisor before it is ready.
	marks, code []safefile.Mark
	facts       Facts // set when ready

	active atomic.Int32  // slots in use; it grows only under the replica's mutex
	warm   atomic.Int64  // until when the liveness probe keeps away, because somebody comes back for the KV; in ns since the epoch
	used   atomic.Int64  // when a slot was last given back, in ns since the epoch
	served atomic.Bool   // a lease was given back while the worker was well
	freed  chan struct{} // capacity 1: a slot was given back
	load   atomic.Pointer[Load]
}

func (r *replica) newWorker() *worker {
	w := &worker{now: r.m.now, born: r.m.now(), oomKills: r.m.opts.OOMKills(), freed: make(chan struct{}, 1)}
	w.ctx, w.lose = context.WithCancelCause(r.m.run)
	return w
}

// meter asks the engine how busy it is, if it tells. What it does not tell now is not known.
func (w *worker) meter(ctx context.Context) {
	m, ok := w.engine.(engine.Meter)
	if !ok {
		return
	}
	ours := int(w.active.Load())
	l, err := m.Load(ctx)
	if err != nil {
		w.load.Store(nil)
		return
	}
	others := 0
	if w.proc == nil { // nobody else uses a worker of ours
		others = max(l.Busy()-ours, 0)
	}
	w.load.Store(&Load{Load: l, Others: others})
}

// free gives a slot back.
func (w *worker) free() {
	w.used.Store(w.now().UnixNano())
	w.active.Add(-1)
	select {
	case w.freed <- struct{}{}:
	default:
	}
}

func (w *worker) tail() []string {
	if w.proc == nil {
		return nil
	}
	return w.proc.Tail()
}

// healthEvery is how often a worker that loads is asked whether it is healthy.
const healthEvery = 50 * time.Millisecond

// load starts the worker's process, if it has one, and waits until the engine is healthy. The time for that begins anew with each step that the engine's
// output tells of (LO-463).
func (r *replica) load(w *worker, plan *plan, log *zap.Logger) (base string, err error) {
	ctx, cancel := context.WithCancelCause(w.ctx)
	defer cancel(nil)
	limit := r.m.opts.LoadTimeout
	patience := awake.AfterFunc(limit, func() { cancel(errLate) })
	defer patience.Stop()
	base, err = r.loadUntil(ctx, w, plan, func() { patience.Reset(limit) }, log)
	if !errors.Is(err, errLate) {
		return base, err
	}
	if step := r.shown.Load().Progress; step != "" {
		return "", fmt.Errorf("the worker was neither healthy nor further within %s; the last that it did: %s", limit, step)
	}
	return "", fmt.Errorf("the worker was not healthy within %s", limit)
}

// errLate ends a load that takes too long.
var errLate = errors.New("the load takes too long")

// loadUntil does it until ctx ends. Further is called with each step.
func (r *replica) loadUntil(ctx context.Context, w *worker, plan *plan, further func(), log *zap.Logger) (base string, err error) {
	key := r.spec.Key
	if r.spec.Mode == External {
		base = strings.TrimRight(r.spec.URLs[r.index], "/")
	} else {
		if r.kind.Start.KeyEnv != "" {
			key = rand.Text()
		}
		if w.proc, err = r.m.launcher.Spawn(r.command(plan, key), func() { w.lose(errExited) }, log); err != nil {
			return "", err
		}
		if w.claim.reserved {
			r.m.opts.VRAM.Spawned(r.owner, w.proc.PID)
		}
		r.publish(Loading, func(i *Info) { i.PID = w.proc.PID })
		address := plan.address
		if address == "" {
			select {
			case address = <-w.proc.Announced():
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
		}
		base = "http://" + address
	}
	at := engine.Endpoint{URL: base, Key: key, Model: r.spec.ModelName, ModelID: r.spec.ModelID, Health: r.spec.Health, Piece: plan.piece}
	if r.spec.Mode == External {
		at.Network = r.m.opts.Outbound
	}
	w.at, w.engine = at, r.kind.New(at)
	for {
		err := w.engine.Health(ctx)
		if err == nil {
			return base, nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if r.spec.Mode == External { // it is not loading anything for us, so try again later
			if l := r.stranger(ctx, w, err, loadFailed); l != nil {
				return "", l
			}
			return "", fmt.Errorf("the engine at %s does not answer as healthy: %w", base, engineSaid(err))
		}
		if step := r.progress(w); step != "" && step != r.shown.Load().Progress {
			further()
			r.change(func(i *Info) { i.Progress = step })
		}
		r.sleep(ctx, healthEvery)
	}
}

// progress is the last step that the worker's output tells of; empty: none.
func (r *replica) progress(w *worker) string {
	read := r.kind.Start.Progress
	if read == nil {
		return ""
	}
	for _, line := range slices.Backward(w.tail()) {
		if step := read(line); step != "" {
			return step
		}
	}
	return ""
}

// command is the process of a plan. The key goes into the environment: everybody can read command lines.
func (r *replica) command(p *plan, key string) process.Command {
	cards := cardNames(r.spec, p.cards)
	args := make([]string, len(p.args))
	for i, arg := range p.args {
		args[i] = strings.ReplaceAll(arg, engine.MaskHere, strings.Join(cards, ","))
	}
	c := process.Command{Owner: r.id, Path: p.exe, Args: args, Foreign: r.spec.Mode != Builtin, Noted: r.notes()}
	if r.kind.Start.Files != nil { // its last words are those of Python: a page of where it was, below what happened
		c.Signs = r.kind.Start.Deaths.Texts()
	}
	if p.container == nil {
		mask := r.spec.Device
		if p.cards != nil {
			mask = strings.Join(cards, ",")
		}
		c.Env = append(process.WorkerEnv(r.spec.LibsDir, mask), r.kind.Start.Env...)
	} else {
		c.Args, c.Container = p.container.Args(p.image, cards, args), p.container
		c.Env = process.ContainerEnv()
	}
	if key != "" {
		c.Env = append(c.Env, r.kind.Start.KeyEnv+"="+key)
	}
	return c
}

// probe makes the model answer once: only then is the replica ready (ORCH-3002).
func (r *replica) probe(w *worker) (engine.Props, error) {
	ctx, cancel := r.probeTime(w)
	defer cancel()
	for {
		props, err := w.engine.Props(ctx)
		if err == nil {
			err = r.decode(ctx, w, 4)
		}
		if err == nil {
			w.meter(ctx)
		}
		if ctx.Err() != nil || !spare.Short(err) {
			return props, r.probeError(ctx, w, err)
		}
		r.sleep(ctx, healthEvery) // the worker is well, and this process lacks something
	}
}

// sleep waits for d, or until ctx ends.
func (r *replica) sleep(ctx context.Context, d time.Duration) {
	again, stop := r.m.opts.Clock.Until(r.m.now().Add(d))
	defer stop()
	select {
	case <-again:
	case <-ctx.Done():
	}
}

func (r *replica) probeTime(w *worker) (context.Context, context.CancelFunc) {
	return awake.WithTimeoutCause(w.ctx, r.m.opts.ProbeTimeout,
		fmt.Errorf("the probe was not answered within %s", r.m.opts.ProbeTimeout))
}

func (r *replica) probeError(ctx context.Context, w *worker, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		if l := r.stranger(ctx, w, err, probeFailed); l != nil {
			return l
		}
		return fmt.Errorf("the probe failed: %w", engineSaid(err))
	}
	return nil
}

// decode makes the model answer with at most so many tokens.
func (r *replica) decode(ctx context.Context, w *worker, tokens int) (err error) {
	if r.spec.Workload == task.Opaque { // nobody knows what it could be asked
		return w.engine.Health(ctx)
	}
	job := engine.Job{
		Workload: r.spec.Workload, Prompt: "Hello", Seed: 1, MaxTokens: tokens,
		Sampling: task.Sampling{Profile: "probe", TopP: 1, TopK: 1, RepeatPenalty: 1},
	}
	if r.spec.Workload == task.Completion {
		_, err = w.engine.Generate(ctx, job, func(task.Piece) error { return nil })
		return err
	}
	job.Inputs = []string{"Hello"}
	if r.spec.Workload == task.Embedding {
		job.Prompt = ""
	}
	_, _, err = engine.Answer(ctx, w.engine, job)
	return err
}

// bury gives back what the worker still has: its process with the whole group, its memory, its model and its connections. A worker
// that was told to end gets time to do so.
func (r *replica) bury(w *worker, told bool) {
	w.lose(errStopping) // does nothing if the worker is lost already
	contain.Each(r.m.log, supervision, []func(){
		func() {
			if w.proc == nil {
				return
			}
			grace := time.Duration(0)
			if told || r.m.run.Err() != nil {
				grace = r.m.opts.StopGrace
			}
			w.proc.End(r.m.kill, grace)
			r.change(func(i *Info) { i.LogTail = w.tail() })
		},
		func() { r.release(w) },
		func() {
			if w.held.Release != nil {
				w.held.Release()
			}
		},
		func() {
			if c, ok := w.engine.(engine.Closer); ok {
				c.Close()
			}
		},
	}, zap.String("pool_id", r.spec.ID), zap.String("replica_id", r.id)) // where one panics, the others are given back all the same
}

// errUnwanted ends a worker that was not ready yet when it was told to end.
var errUnwanted = errors.New("the worker is not wanted any more")
