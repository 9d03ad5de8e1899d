// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/engine"
	"github.com/llama-orch/llama-orch/service/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

// run takes a task through its replica. The slot is idle when it returns, or its worker is being replaced.
func (l *lane) run(ctx context.Context, j *job, lease Lease, considered int) {
	o := &l.s.o
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	replica, now := lease.Replica(), o.Now()
	if !j.start(replica, now, cancel) {
		return
	}
	l.rates.began(j, now)
	waited := now.Sub(j.task.AcceptedAt)
	o.Metrics.dispatched(j.task, replica, waited)
	o.Narrator.Placed(narrated(j.snapshot(), replica.EngineVersion), waited, considered)

	if err := o.Ledger.Dispatch(ctx, j.task.ID, replica.ID, now); err != nil {
		l.s.finish(j, task.Failed, nil, task.Errorf(task.LedgerUnavailable,
			"the task's start could not be recorded, so it was not run: send it again").Retry(time.Second).Because(err))
		l.rates.ended(j, o.Now(), false)
		return
	}
	result, answer, err := l.generate(ctx, cancel, j, lease)
	if err == nil {
		l.s.finish(j, task.Completed, ending(j, replica, result, answer), nil)
	} else {
		l.s.finish(j, task.Failed, nil, l.explain(ctx, j, err))
		l.settle(j, lease)
	}
	l.rates.ended(j, o.Now(), err == nil)
}

// generate runs the engine under the watchdogs (OC-CORE-1022).
func (l *lane) generate(ctx context.Context, cancel context.CancelCauseFunc, j *job, lease Lease) (engine.Result, json.RawMessage, error) {
	wall := time.AfterFunc(l.pool.Wall, func() {
		cancel(task.Errorf(task.DecodeTimeout, "the task ran longer than the %s that pool '%s' allows", l.pool.Wall, l.pool.ID))
	})
	defer wall.Stop()
	idle := time.AfterFunc(l.pool.Idle, func() {
		cancel(task.Errorf(task.DecodeTimeout, "the engine sent no token for %s; send the task again", l.pool.Idle).Retry(0))
	})
	defer idle.Stop()

	t := &j.task
	work := engine.Job{
		Workload: t.Request.Workload, Prompt: t.Prompt, PromptTokens: t.PromptTokens, Inputs: t.Request.Inputs, Seed: t.Seed, Sampling: t.Sampling,
		MaxTokens: t.Request.MaxTokens, CachePrompt: t.Determinism == task.BestEffort,
	}
	if work.Workload != task.Completion {
		answer, result, err := lease.Engine().Answer(ctx, work)
		if err == nil {
			l.firstOutput(j)
		}
		return result, answer, err
	}
	result, err := lease.Engine().Generate(ctx, work, func(text string) error {
		idle.Reset(l.pool.Idle)
		if j.log.Tokens() == 0 {
			l.firstOutput(j)
		}
		return j.log.Token(text)
	})
	return result, nil, err
}

func (l *lane) firstOutput(j *job) {
	now := l.s.o.Now()
	j.outputAt(now)
	waited := now.Sub(j.task.AcceptedAt)
	r := j.snapshot()
	l.s.o.Metrics.firstOutput(r.Task, j.version(), waited)
	l.s.o.Narrator.StreamStarted(narrated(r, j.version()), waited)
}

// explain says to the client why a run ended early.
func (l *lane) explain(ctx context.Context, j *job, err error) *task.Error {
	if errors.Is(err, stream.ErrSealed) {
		return task.Errorf(task.Canceled, "the task was canceled") // and whoever sealed the log says so
	}
	var e *task.Error
	if cause := context.Cause(ctx); errors.As(cause, &e) {
		return e
	}
	e = task.AsError(err)
	l.s.o.Log.Warn("a run failed", zap.String("job_id", j.task.ID), zap.String("pool_id", l.pool.ID), zap.Error(err))
	return e
}

// settle waits until the engine's slots are idle after a run that ended early, and else has the worker replaced: the next
// task must not share a slot with a dead one (ORCH-3026).
func (l *lane) settle(j *job, lease Lease) {
	ctx, stop := context.WithTimeout(context.Background(), l.s.o.IdleWithin)
	defer stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		if idle, err := lease.Engine().Idle(ctx); err == nil && idle {
			return
		}
		select {
		case <-lease.Lost():
			return
		case <-ctx.Done():
			l.s.o.Log.Warn("a slot stayed busy after its task ended; its worker is replaced",
				zap.String("job_id", j.task.ID), zap.String("replica_id", lease.Replica().ID), zap.Duration("waited", l.s.o.IdleWithin))
			lease.Replace("slot still busy after its task ended")
			return
		case <-poll.C:
		}
	}
}

func ending(j *job, r Replica, result engine.Result, answer json.RawMessage) *task.End {
	return &task.End{
		TokensIn: result.TokensIn, TokensOut: j.log.Tokens(), DecodeTimeMS: result.Decode.Milliseconds(),
		FinishReason: result.Finish, Result: answer,
		Receipt: task.Receipt{
			Seed: j.task.Seed, Determinism: j.task.Determinism, Fingerprint: r.Fingerprint, RequestDigest: j.task.RequestDigest,
			ReplicaID: r.ID, EngineVersion: r.EngineVersion, ModelDigest: r.ModelDigest,
		},
	}
}
