// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"context"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/service/tracing"
)

// Pools tells the desk about the pools.
type Pools interface {
	// Snapshot describes every pool as a task of that priority would find it.
	Snapshot(p task.Priority) []Pool
	// Resolve reads a request's model_ref, which may be an alias: the request that it returns names a pool's model by its id or canonical
	// ref. MODEL_NOT_FOUND if there is none.
	Resolve(req task.Request) (task.Request, error)
	// Tokenizer returns the engine of a Ready replica, or false where the pool has none.
	Tokenizer(poolID string) (Tokenizer, bool)
}

// Tokenizer is the part of an engine that admission needs.
type Tokenizer interface {
	ApplyTemplate(ctx context.Context, messages []task.Message, chat *task.Chat) (string, error)
	CountTokens(ctx context.Context, prompt string) (int, error)
	// CountChat counts a chat with images, which no prompt shows.
	CountChat(ctx context.Context, messages []task.Message, chat *task.Chat) (int, error)
}

// Scheduler takes accepted tasks.
type Scheduler interface {
	// Known answers a repeated submit. Found says that the id is taken. If the body is the same as in the first submit, the
	// answer is that one's admission, else CONFLICT (LO-101).
	Known(ctx context.Context, id string, body [32]byte) (admission task.Admission, found bool, err error)
	// Enqueue records a task and queues it, or refuses it, for instance because the queue is full.
	Enqueue(ctx context.Context, t task.Task) (task.Admission, error)
	// Ended is the record of a task that has ended. NOT_FOUND, CONFLICT where it has not, DELETED.
	Ended(ctx context.Context, id string) (task.Record, error)
}

// Options are what a Desk is made from.
type Options struct {
	Pools     Pools
	Scheduler Scheduler
	Now       func() time.Time
	NewID     func() string
	NewSeed   func() uint32 // at most task.MaxSeed
	Metrics   *Metrics
	Tracer    *tracing.Tracer // nil: nothing is traced
	Narrator  *observe.Narrator
	Limits    Limits
	Rates     map[task.Priority]Rate                 // a priority that has none is not capped
	Home      func(sessionID string) (poolID string) // where the session had its last turn, or empty; may be nil
	Pays      func(task.Request) bool                // whether a budget may pay for the task, which has to know its tokens; nil: none does
}

// Desk takes submits. Its methods may be called from several goroutines.
type Desk struct {
	o     Options
	caps  *caps
	turns turns // to have an engine read a prompt
}

// NewDesk makes a desk.
func NewDesk(o Options) *Desk { return &Desk{o: o, caps: newCaps(o.Rates)} }

// Submit admits a task, or refuses it with a *task.Error.
func (d *Desk) Submit(ctx context.Context, req task.Request) (task.Admission, error) {
	admission, pool, err := d.submit(ctx, req)
	if err != nil {
		return task.Admission{}, d.refused(ctx, req, pool, err)
	}
	return admission, nil
}

// refused counts a refusal, and names the pool in it.
func (d *Desk) refused(ctx context.Context, req task.Request, pool Pool, err error) error {
	if ctx.Err() != nil { // the client is gone: nobody was refused
		return err
	}
	e := task.AsError(err)
	if e.Engine == "" && pool.ID != "" {
		e.Engine, e.PoolID = pool.Engine, pool.ID
	}
	d.o.Metrics.rejected(e)
	d.o.Narrator.Refused(observe.Job{
		ID: req.ID, SessionID: req.SessionID, CorrelationID: req.CorrelationID, Actor: req.Actor, Engine: e.Engine,
		EngineVersion: pool.EngineVersion, PoolID: e.PoolID, Priority: req.Priority, Workload: req.Workload, Model: pool.ModelID,
	}, e)
	return e
}

// Rejected counts a submit whose request was refused before it was a task: for instance its body does not fit the contract (ORCH-3028).
func (d *Desk) Rejected(err error) { d.o.Metrics.rejected(task.AsError(err)) }

func (d *Desk) submit(ctx context.Context, req task.Request) (task.Admission, Pool, error) {
	came := d.o.Now()
	if err := d.check(req); err != nil {
		return task.Admission{}, Pool{}, err
	}
	if req.ID != "" {
		if known, found, err := d.o.Scheduler.Known(ctx, req.ID, req.BodySHA256); found {
			return known, Pool{}, err
		}
	}
	if err := d.caps.take(d.o.Now(), req.Actor, req.Priority); err != nil {
		return task.Admission{}, Pool{}, err
	}
	req, err := d.again(ctx, req)
	if err != nil {
		return task.Admission{}, Pool{}, err
	}
	req, pool, routing, err := d.choose(req)
	if err != nil {
		return task.Admission{}, pool, err
	}
	f := Facts{ID: req.ID, Seed: d.o.NewSeed(), Pool: pool, Routing: routing}
	if f.ID == "" {
		f.ID = d.o.NewID()
	}
	if err = d.read(ctx, req, &f); err != nil {
		return task.Admission{}, pool, err
	}
	t, err := Decide(d.o.Now(), req, f)
	if err != nil {
		return task.Admission{}, pool, err
	}
	admission, err := d.o.Scheduler.Enqueue(ctx, t)
	if err == nil {
		d.o.Tracer.Part(&t, tracing.Part{Name: "admission", From: came, To: d.o.Now()})
	}
	return admission, pool, err
}

// check refuses what a request alone has wrong. What a replay has in words is in the record of another task.
func (d *Desk) check(req task.Request) error {
	if req.ReplayOf == "" {
		return Check(req, d.o.Limits)
	}
	if req.Prompt != "" || len(req.Messages) > 0 || len(req.Inputs) > 0 || req.Chat != nil {
		return task.Errorf(task.InvalidParams,
			"`replay_of` asks what another task was asked: leave out `prompt`, `messages`, `inputs`, and what a chat asks besides, or leave out `replay_of`")
	}
	return nil
}

// again gives a replay the words of the task that it is of (LO-301). They are kept no longer than that task's.
func (d *Desk) again(ctx context.Context, req task.Request) (task.Request, error) {
	if req.ReplayOf == "" {
		return req, nil
	}
	of, err := d.o.Scheduler.Ended(ctx, req.ReplayOf)
	if err != nil {
		return req, err
	}
	q := of.Task.Request
	req.Workload, req.Prompt, req.Messages, req.Chat, req.Inputs, req.KeepText = q.Workload, q.Prompt, q.Messages, q.Chat, q.Inputs, q.KeepText
	return req, Check(req, d.o.Limits)
}

// choose returns the pool for a request, and the request as that pool takes it.
func (d *Desk) choose(req task.Request) (task.Request, Pool, placement.Routing, error) {
	req, err := d.o.Pools.Resolve(req)
	if err != nil {
		return req, Pool{}, placement.Routing{}, err
	}
	pool, routing, err := d.route(req)
	if err != nil {
		return req, Pool{}, routing, err
	}
	req = pool.Rules.Apply(req)
	if len(req.Unfit) > 0 {
		return req, pool, routing, req.Unfit[0].Err
	}
	if err := serves(req, pool); err != nil {
		return req, pool, routing, err
	}
	if err := pool.Refusal(); err != nil {
		return req, pool, routing, err
	}
	return req, pool, routing, nil
}

func (d *Desk) route(req task.Request) (Pool, placement.Routing, error) {
	pools := d.o.Pools.Snapshot(req.Priority)
	home := ""
	if req.SessionID != "" && d.o.Home != nil {
		home = d.o.Home(req.SessionID)
	}
	candidates := make([]placement.Pool, len(pools))
	for i, p := range pools {
		candidates[i] = p.Pool
		candidates[i].Home = home != "" && p.ID == home
	}
	routing, err := placement.Route(candidates, req)
	if err != nil {
		return Pool{}, routing, err
	}
	for _, p := range pools {
		if p.ID == routing.PoolID {
			return p, routing, nil
		}
	}
	return Pool{}, routing, task.Errorf(task.Internal, "the routed pool '%s' is gone: send the task again", routing.PoolID).Retry(0)
}

// read has the pool's engine template the prompt, and count its tokens where that matters: only the engine can. Where the pool's model is not loaded, that
// is done when the task runs.
func (d *Desk) read(ctx context.Context, req task.Request, f *Facts) (err error) {
	tokenizer, ready := d.o.Pools.Tokenizer(f.Pool.ID)
	f.Prompt = req.Prompt
	switch {
	case ready:
	case f.Pool.OnDemand:
		f.Unread = true
		return nil
	default: // its last worker was lost just now
		return task.Standing{State: task.PoolLoading}.Refusal(f.Pool.ID, f.Pool.Engine)
	}
	if len(req.Messages) > 0 || d.counts(req, f) {
		done, err := d.turns.take(ctx, f.Pool.ID)
		if err != nil {
			return err
		}
		defer done()
	}
	if len(req.Messages) > 0 && f.Pool.Faces.Templates { // else the engine takes them as they are
		if f.Prompt, err = tokenizer.ApplyTemplate(ctx, req.Messages, req.Chat); err != nil {
			return unready(err)
		}
	}
	switch {
	case req.Workload != task.Completion:
	case f.Pool.Faces.CountsChats && (task.HasImages(req.Messages) || len(req.Messages) > 0 && f.Prompt == "" && d.counts(req, f)):
		f.PromptTokens, err = tokenizer.CountChat(ctx, req.Messages, req.Chat)
	case f.Pool.Faces.CountsTokens && (f.Prompt != "" || len(req.Messages) == 0) && d.counts(req, f):
		f.PromptTokens, err = tokenizer.CountTokens(ctx, f.Prompt)
	}
	if err != nil {
		return unready(err)
	}
	return nil
}

// counts reports whether the number of the prompt's tokens matters. It does not where prompt and answer fit whatever the number is:
// counting is one more call of the engine.
func (d *Desk) counts(req task.Request, f *Facts) bool {
	most := engine.MostTokens(f.Prompt)
	if f.Prompt == "" {
		most = mostOfChat(req)
	}
	fits := req.MaxTokens > 0 && most+req.MaxTokens <= f.Pool.Ctx
	return !fits || d.o.Pays != nil && d.o.Pays(req)
}

// unready turns the error of an engine that broke off into POOL_UNREADY: the task is not admitted yet, so it has lost nothing.
func unready(err error) error {
	if !task.HasCode(err, task.WorkerReset) {
		return err
	}
	return task.Errorf(task.PoolUnready, "the pool's engine broke off while it read the prompt: try again in a moment").
		Retry(time.Second).Because(err)
}
