// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/spare"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/service/tracing"
)

// A checkpoint of a strict task's log is recorded after so many tokens, or so much time.
const (
	checkpointTokens = 256
	checkpointTime   = 2 * time.Second
)

// longPrompt is from how many tokens on a prompt may take long, so that the engine is to tell of its progress.
const longPrompt = 256

// run takes a task through a replica. The slot is idle when it returns, or its worker is being replaced.
func (l *lane) run(ctx context.Context, cancel context.CancelCauseFunc, j *job, s *slot) {
	o, lease := &l.s.o, s.lease
	replica, now := lease.Replica(), o.Now()
	l.rates.began(j, replica, now)
	if j.line() && l.interactiveWaits() { // one came before it could see that there is a line to make way
		l.wake()
	}
	if s != j.slot { // else nobody may know of it yet
		l.placed(j, s, now)
	}
	warm, before := l.s.o.Sessions.Began(j.task, replica.ID, replica.Slots), j.sent()
	warm = reuses(&j.task, replica) && (warm || l.restored(ctx, j, lease))
	t, result, answer, err := l.work(o.Tracer.Context(ctx, &j.task), cancel, j, warm, s)
	if refused := j.await(context.Background()); err == nil { // it may have sent no token, and not have waited for the ledger
		err = refused
	}
	l.rates.ended(j, j.log.Tokens(), result.Cached, o.Now(), err == nil && before == 0)
	l.traced(j, replica, now, failure(ctx, err))
	l.active()
	if err == nil {
		l.idle(s)
		l.kept(ctx, j, t, warm, s, result)
		if result.Cached > 0 {
			o.Metrics.reused(*t, result.Cached, l.rates.prefill(replica.ID, result.Cached))
		}
		if !result.Left {
			lease.Release() // the next task need not wait for the disk
		}
		l.s.complete(j, endOf(j, t, replica, result, answer))
		if result.Left { // else a rest of it would be decoded beside the next task
			l.awaitIdle(j, lease)
		}
		return
	}
	if replica.Slots == 1 && s.asked && !spare.Short(err) { // else the engine has not heard of it
		l.s.prefixes.Emptied(replica.ID)
	}
	l.brokeOff(ctx, j, lease, err) // before the task waits for a slot again
	if !l.retry(ctx, j, lease, err) {
		l.s.fail(j, l.whyEnded(ctx, j, err), nil)
	}
	l.awaitIdle(j, lease)
}

// traced tells of a run: of its model's load, if the task waited for that, and of the run itself up to its first output, and from there.
func (l *lane) traced(j *job, r Replica, from time.Time, err error) {
	o := &l.s.o
	if o.Tracer == nil {
		return
	}
	if began := r.ReadyAt.Add(-r.LoadTime); r.LoadTime > 0 && r.ReadyAt.After(j.task.AcceptedAt) && !r.ReadyAt.After(from) {
		o.Tracer.Part(&j.task, tracing.Part{Name: "load", From: latest(began, j.task.AcceptedAt), To: r.ReadyAt, Replica: r.ID})
	}
	now, first := o.Now(), j.decodesSince()
	if first.IsZero() {
		o.Tracer.Part(&j.task, tracing.Part{Name: "prefill", From: from, To: now, Replica: r.ID, Err: err})
		return
	}
	o.Tracer.Part(&j.task, tracing.Part{Name: "prefill", From: from, To: first, Replica: r.ID})
	o.Tracer.Part(&j.task, tracing.Part{Name: "decode", From: first, To: now, Replica: r.ID, Tokens: j.log.Tokens(), Err: err})
}

// failure is what a run's span says of its end. A task that was canceled, or that gave way, has not failed.
func failure(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	ended, ok := errors.AsType[*task.Error](cause)
	switch {
	case err == nil, ok && ended.Code == task.Canceled, errors.Is(cause, errYields):
		return nil
	case ok:
		return ended
	case errors.Is(err, stream.ErrSealed):
		return nil // the task's own span says why it ended
	}
	return err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// work has the engine do the task. A panic on the way is an error like any other (LO-803).
func (l *lane) work(ctx context.Context, cancel context.CancelCauseFunc, j *job, warm bool, s *slot) (t *task.Task, result engine.Result, answer json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = l.s.panicked(j, p)
		}
	}()
	if t, err = l.templated(ctx, j, s.lease.Engine()); err != nil {
		return t, result, nil, err
	}
	result, answer, err = l.generate(ctx, cancel, j, t, warm, s)
	if ctx.Err() == nil && !errors.Is(err, stream.ErrSealed) { // nobody ended it. An engine whose files were cut short is gone by now
		if changed := s.lease.Intact(ctx); changed != nil {
			err = fmt.Errorf("%w: %w", errChanged, changed)
		}
	}
	return t, result, answer, err
}

// errChanged is the end of a run whose files changed. No other replica gives the bytes that it has sent.
var errChanged = errors.New("the files of the task's worker changed")

// templated is the job's task with its messages templated. Admission did that already, unless the pool's model was not loaded then. That of a
// chat is a copy, since its run may find another prompt.
func (l *lane) templated(ctx context.Context, j *job, e engine.Engine) (*task.Task, error) {
	if len(j.task.Request.Messages) == 0 {
		return &j.task, nil
	}
	t := j.asked()
	if t.Prompt != "" {
		return &t, nil
	}
	templater, ok := e.(engine.Templater)
	if !ok { // it takes the messages as they are
		t.RequestDigest = t.Digest()
		return &t, nil
	}
	prompt, err := templater.ApplyTemplate(ctx, t.Request.Messages, t.Request.Chat)
	if err != nil {
		return &t, err
	}
	return &t, l.rendered(ctx, j, &t, prompt)
}

// renderedAgain takes the prompt that the engine has made of the messages now, and that is not the one the task has. A template prints the date, or the
// engine is another one. What was sent came from the prompt before, so then the new one will not do (LO-412).
func (l *lane) renderedAgain(ctx context.Context, j *job, t *task.Task, prompt string) error {
	if j.log.Recovering() || j.log.Tokens() > 0 {
		return fmt.Errorf("%w: %w", errPrompt, l.errLost("the model's chat template makes another prompt now than the one that the sent part of the answer came from"))
	}
	l.s.o.Log.Info("the engine makes another prompt of a task's messages than at its admission, and the task takes that one", j.told()...)
	return l.rendered(ctx, j, t, prompt)
}

// rendered gives a task the prompt that its run has made, which is recorded before anything is decoded from it: a run of a later process asks for the
// same (LO-412).
func (l *lane) rendered(ctx context.Context, j *job, t *task.Task, prompt string) error {
	if err := j.await(ctx); err != nil { // it runs while its accept is written, and the prompt is written behind that
		return err
	}
	if !j.rendered(t, prompt, l.s.o.Now()) {
		return stream.ErrSealed
	}
	write := func() (err error) {
		panicked := l.s.guard(j, func() { err = l.s.o.Ledger.Render(context.WithoutCancel(ctx), *t) })
		return errors.Join(panicked, err)
	}
	return l.persist(ctx, j, "a task's new prompt was not recorded", write(), write)
}

// errPrompt is the end of a run whose prompt changed. No replica makes the old one.
var errPrompt = errors.New("the task's prompt changed")

// placed counts a dispatch and logs it. It is a function of its own because it copies the task: the stack of run lasts as long as the
// task, and need not hold the copies.
func (l *lane) placed(j *job, s *slot, at time.Time) {
	r, waited := s.lease.Replica(), since(j.task.AcceptedAt, at)
	l.s.o.Metrics.dispatched(j.task, r, waited, j.tried())
	if j.tried() == 1 {
		l.s.outlook.started(j.task.PredictedStart, waited)
	}
	l.s.o.Narrator.Placed(narrated(j.snapshot(), r.EngineVersion), waited, s.considered)
}

// generate runs the engine under the watchdogs (OC-CORE-1022).
func (l *lane) generate(ctx context.Context, cancel context.CancelCauseFunc, j *job, t *task.Task, warm bool, s *slot) (engine.Result, json.RawMessage, error) {
	wall := awake.AfterFunc(l.pool.Wall, func() {
		cancel(task.Errorf(task.DecodeTimeout, "the task ran longer than the %s that pool '%s' allows", l.pool.Wall, l.pool.ID))
	})
	defer wall.Stop()
	var decodes atomic.Bool
	idle := awake.AfterFunc(l.pool.Prefill, func() {
		if decodes.Load() {
			cancel(task.Errorf(task.DecodeTimeout, "the engine sent no token for %s; send the task again", l.pool.Idle).Retry(0))
			return
		}
		cancel(task.Errorf(task.DecodeTimeout, "the engine sent no first token, and told of no progress with the prompt, for %s; send the task again", l.pool.Prefill).Retry(0))
	})
	defer idle.Stop()
	var writes sync.WaitGroup
	defer writes.Wait()
	var dispatched func() error
	if s == j.slot { // its accept records the dispatch as well
		dispatched = func() error {
			if !j.now().decided() { // it is not the run that is waited for
				wall.Stop()
				defer wall.Reset(l.pool.Wall)
			}
			return j.await(ctx)
		}
	} else {
		dispatched = l.recordDispatch(ctx, &writes, j, s)
	}

	work := engine.Job{
		Workload: t.Request.Workload, Prompt: t.Prompt, PromptTokens: t.PromptTokens, Inputs: t.Request.Inputs, Seed: t.Seed,
		Sampling: t.Sampling, MaxTokens: most(t), Reuse: reuse(t), Messages: t.Request.Messages, Chat: t.Request.Chat,
		RenderedOn: t.AcceptedAt,
	}
	if !t.RenderedAt.IsZero() {
		work.RenderedOn = t.RenderedAt
	}
	if len(work.Messages) > 0 {
		work.CallID = func(n int) string { return engine.CallID(t.RequestDigest, n) }
		work.Rendered = func(prompt string) error {
			wall.Stop() // nothing is decoded before the ledger has the prompt
			defer wall.Reset(l.pool.Wall)
			idle.Stop()
			defer idle.Reset(l.pool.Prefill)
			return l.renderedAgain(ctx, j, t, prompt)
		}
	}
	if work.Workload != task.Completion {
		idle.Stop() // nothing comes before the answer
		answer, result, err := engine.Answer(ctx, s.lease.Engine(), work)
		if err == nil {
			l.firstOutput(j)
		}
		return result, answer, err
	}
	if warm { // otherwise the KV that is reused is not the session's: many prompts begin alike
		work.Cached = j.cached
	}
	if t.PromptTokens == 0 || t.PromptTokens >= longPrompt {
		work.Progress = func() { idle.Reset(l.pool.Prefill) }
	}
	attempt, tokens, saved := j.attempt(&work), 0, l.s.o.Now()
	s.asked = true
	result, err := s.lease.Engine().Generate(ctx, work, func(p task.Piece) error {
		if tokens > 0 {
			idle.Reset(l.pool.Idle)
		} else {
			decodes.Store(true)
			j.decodes(l.s.o.Now())
			l.rates.firstToken(j, l.s.o.Now())
			idle.Stop() // it is not the engine that is waited for
			if err := dispatched(); err != nil {
				return err
			}
			idle.Reset(l.pool.Idle)
			l.firstOutput(j)
		}
		tokens++
		if !l.s.o.MaySend(l.pool.ID) {
			idle.Stop() // it is not the engine that is waited for
			if err := l.untilMaySend(ctx); err != nil {
				return err
			}
			idle.Reset(l.pool.Idle)
		}
		if err := attempt.Append(p); err != nil {
			return err
		}
		if now := l.s.o.Now(); t.Determinism == task.Strict && (tokens%checkpointTokens == 0 || now.Sub(saved) >= checkpointTime) {
			saved = now
			l.s.o.Ledger.Checkpoint(t.ID, j.log.Checkpoint())
		}
		return nil
	})
	if err == nil {
		err = attempt.Done()
	}
	return result, nil, err
}

// sendLook is how often a run that may not send looks whether it may.
const sendLook = 20 * time.Millisecond

// untilMaySend waits until clients may be told more. If another daemon has the pool by now, this process ends instead (LO-714).
func (l *lane) untilMaySend(ctx context.Context) error {
	for !l.s.o.MaySend(l.pool.ID) {
		if !lifecycle.Pause(ctx, sendLook) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// recordDispatch records the dispatch, and returns a function that waits until that is done. A task must not send a token that the
// next start could not make again, or end the task for (LO-202). For a strict task a note will do, which a crash may lose: any
// replica gives the same bytes. Only where the pool has others (binds), and for a best-effort task, the dispatch is on the disk
// first. It is written while the engine reads the prompt. Where it cannot be, a best-effort task fails, and a strict one waits.
func (l *lane) recordDispatch(ctx context.Context, writes *sync.WaitGroup, j *job, s *slot) func() error {
	r := s.lease.Replica()
	d := task.Dispatch{ID: j.task.ID, ReplicaID: r.ID, Fingerprint: r.Fingerprint, At: l.s.o.Now()}
	strict := j.task.Determinism == task.Strict
	if strict && !s.binds {
		l.s.o.Ledger.Started(d)
		return func() error { return nil }
	}
	done := make(chan error, 1)
	writes.Go(func() { done <- l.writeDispatch(ctx, j, d) })
	return func() error {
		return l.persist(ctx, j, "a dispatch was not recorded", <-done, func() error { return l.writeDispatch(ctx, j, d) })
	}
}

// persist sees to it that what a run needs on the disk is there. Err is what came of the first write. Where it cannot be written, a best-effort task
// fails, and a strict one waits.
func (l *lane) persist(ctx context.Context, j *job, not string, err error, again func() error) error {
	if err == nil {
		return nil
	}
	l.s.o.Log.Warn(not, append(j.told(), zap.Error(err))...)
	for j.task.Determinism == task.Strict && err != nil && !task.HasCode(err, task.Internal) {
		if !lifecycle.Pause(ctx, l.s.o.RecordEvery) {
			return context.Cause(ctx)
		}
		err = again()
	}
	if err != nil {
		return errLedger("the task's start could not be recorded, so it was not run", err)
	}
	return nil
}

func (l *lane) writeDispatch(ctx context.Context, j *job, d task.Dispatch) (err error) {
	panicked := l.s.guard(j, func() { err = l.s.o.Ledger.Dispatch(context.WithoutCancel(ctx), d) })
	return errors.Join(panicked, err)
}

// retry lets a task whose engine broke, or whose run gave way, wait for another slot, where one could go on with it: for a strict task that has sent
// tokens, a replica of the same fingerprint (LO-203); for a best-effort task any one (LO-209).
func (l *lane) retry(ctx context.Context, j *job, lease Lease, err error) bool {
	at, sent, strict, changed := l.s.o.Now(), j.log.Tokens() > 0, j.task.Determinism == task.Strict, errors.Is(err, errChanged)
	if sent && strict && changed || errors.Is(err, errPrompt) {
		return false
	}
	gaveWay := errors.Is(context.Cause(ctx), errYields)
	if gaveWay {
		j.excuse()
	} else if !l.again(ctx, j, err) {
		return false
	}
	fingerprint := j.wanted() // an earlier process may have sent tokens
	switch {
	case !sent:
	case strict:
		fingerprint = lease.Replica().Fingerprint
	case !changed && continues(j, lease.Engine()):
		j.broke(at)
	case !j.log.Rewind():
		return false
	}
	if gaveWay {
		l.s.o.Metrics.gaveWay(l)
		l.s.o.Log.Info("a batch's line gives way to an interactive task", append(j.told(), zap.Int("tries", j.tried()))...)
	} else {
		l.s.o.Log.Warn("a task lost its worker and moves to another", append(j.told(), zap.Int("tries", j.tried()), zap.Error(err))...)
	}
	if !j.move(fingerprint) {
		return false
	}
	l.wake()
	if l.s.Stopping() { // no loop will take it up
		l.s.letGo(j, &l.s.runs, nil)
	}
	return true
}

// again reports whether a task whose run ended with this error is worth another try.
func (l *lane) again(ctx context.Context, j *job, err error) bool {
	if ctx.Err() != nil || !task.HasCode(err, task.WorkerReset) {
		return false
	}
	if spare.Short(err) { // the replica is not to blame (LO-839), and keeps its slot for this task meanwhile
		j.excuse()
		lifecycle.Pause(ctx, l.s.o.RecordEvery)
	}
	return ctx.Err() == nil && j.blamed() < attempts
}

// continues reports whether another engine like this one can go on behind what the task has sent: an answer, thinking, or an answer behind it. Of a call it
// is not known how the model wrote it.
func continues(j *job, e engine.Engine) bool {
	c, ok := e.(engine.Continuer)
	work := engine.Job{Messages: j.task.Request.Messages, Chat: j.task.Request.Chat}
	sent := j.behind(&work)
	for i, m := range sent.Marks {
		if m.Kind != task.EventReasoning || m.Piece != i {
			return false
		}
	}
	return ok && c.Continues(work)
}

func (l *lane) errLost(why string) *task.Error {
	return task.Errorf(task.WorkerReset, "the task's worker was lost, and %s: send the task again", why).Retry(0)
}

func (l *lane) firstOutput(j *job) {
	now := l.s.o.Now()
	if !j.outputAt(now) {
		return
	}
	waited := since(j.task.AcceptedAt, now)
	r := j.snapshot()
	l.s.o.Metrics.firstOutput(r.Task, j.version(), waited, l.s.o.Tracer.TraceID(&r.Task))
	l.s.o.Narrator.StreamStarted(narrated(r, j.version()), waited)
}

// whyEnded is the error that tells the client why a run ended early.
func (l *lane) whyEnded(ctx context.Context, j *job, err error) *task.Error {
	if errors.Is(err, stream.ErrSealed) {
		return task.Errorf(task.Canceled, "the task was canceled") // nobody sees it: whoever sealed the log ends the task
	}
	var e *task.Error
	if cause := context.Cause(ctx); errors.As(cause, &e) {
		return e
	}
	e = task.AsError(err)
	switch {
	case errors.Is(context.Cause(ctx), errYields):
		e = task.Errorf(task.WorkerReset, "the task gave way to an interactive one, and no engine can go on in the middle of this answer: send the task again").Retry(0)
	case errors.Is(err, stream.ErrDiverged):
		e = l.errLost("decoding it again did not give what was already sent").Because(stream.ErrDiverged)
	case e.Code == task.WorkerReset && j.blamed() >= attempts:
		e = l.errLost("so were the workers that tried it again")
	case e.Code == task.WorkerReset && j.sent() > 0 && !errors.Is(err, errChanged) && !errors.Is(err, errPrompt):
		e = l.errLost("no other one can go on in the middle of this answer")
	}
	l.s.o.Log.Warn("a run failed", append(j.told(), zap.Error(err))...)
	return e
}

// awaitIdle waits, after a run that ended early, until the slot is idle, or else has its worker replaced.
func (l *lane) awaitIdle(j *job, lease Lease) {
	if engine.AwaitIdle(lease, l.s.o.IdleWithin) {
		return
	}
	l.s.o.Log.Warn("a slot stayed busy after its task ended; a worker of ours is replaced, and a strict one elsewhere is tried first",
		append(j.told(), zap.Duration("waited_ms", l.s.o.IdleWithin))...)
	lease.Replace("slot still busy after its task ended")
}

// most is how many tokens a task's answer has at most; 0: there is no bound.
func most(t *task.Task) int {
	if t.Request.Chat == nil {
		return t.Request.MaxTokens
	}
	return t.Request.Chat.Logprobs.Bound(t.Request.MaxTokens)
}

func endOf(j *job, t *task.Task, r Replica, result engine.Result, answer json.RawMessage) *task.End {
	return &task.End{
		TokensIn: result.TokensIn, TokensOut: j.log.Tokens(), DecodeTimeMS: (j.decodedBefore() + result.Decode).Milliseconds(),
		FinishReason: result.Finish, Result: answer,
		Receipt: task.Receipt{
			Seed: t.Seed, Determinism: t.Determinism, Fingerprint: r.Fingerprint, RequestDigest: t.RequestDigest,
			ReplicaID: r.ID, EngineVersion: r.EngineVersion, ModelDigest: r.ModelDigest, TokensCached: result.Cached, ContinuedAt: j.log.Continued(),
		},
	}
}
