// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

// Passage is a request that is passed to an engine as it is. Its task is in no ledger: what it was asked and answered passes through, and a task that nobody
// can run again is not promised to anybody (LO-467).
type Passage interface {
	// Queued tells the place that the request has, before anything else happens to it.
	Queued(a task.Admission)
	// Pass has the engine of a slot serve the request, and returns once nothing of it is under way any more. That is soon after ctx ends.
	Pass(ctx context.Context, at Lease, signs Signs) error
}

// Signs are what a Passage calls to show that it is alive.
type Signs struct {
	Sent func() // some of the request has gone to the engine
	Came func() // some of the answer has come
}

// passing is what a job has that is not recorded.
type passing struct {
	Passage

	quiet chan struct{} // closed once its run has left the engine, if there was a run
}

// recorded reports whether the ledger knows of the job. One that it does not know waits for no accept, ends without a record, and does not outlive this process.
func (j *job) recorded() bool { return j.passing == nil }

// Passing is a request that has its place.
type Passing struct{ j *job }

// Pass gives a request its place in its pool's queue, or a free slot, or refuses it. Wait has to be called next.
func (s *Scheduler) Pass(t task.Task, p Passage) (*Passing, error) {
	l := s.lane(t.PoolID)
	switch {
	case s.Stopping():
		return nil, errStopping()
	case l == nil:
		return nil, errRemoved(t.PoolID)
	}
	j := newJob(l, t)
	j.passing = &passing{Passage: p, quiet: make(chan struct{})}
	if err := s.o.Sessions.Admit(&j.task); err != nil {
		return nil, err
	}
	if err := s.line(j); err != nil {
		e := task.AsError(err)
		s.withdraw(j, e)
		return nil, e
	}
	if err := s.guard(j, func() { p.Queued(j.task.Admission()) }); err != nil {
		e := task.AsError(err)
		s.withdraw(j, e)
		return nil, e
	}
	s.accepted(j)
	return &Passing{j}, nil
}

// Wait returns once the request is over, with what it failed for. When ctx ends, its client is gone, and so is the request.
func (p *Passing) Wait(ctx context.Context) error {
	j, s := p.j, p.j.lane.s
	select {
	case <-j.over:
	case <-ctx.Done():
		gone := task.Errorf(task.Canceled, "the request's client went away")
		if !s.aside(func() { s.cancel(j, gone, nil) }, j.told) {
			j.stopEngine(gone) // the scheduler stops, and ends the task as well
		}
		<-j.over
	}
	if e := j.snapshot().Err; e != nil {
		return e
	}
	return nil
}

// pass takes a request through a replica.
func (l *lane) pass(ctx context.Context, cancel context.CancelCauseFunc, j *job, s *slot) {
	o, replica, began := &l.s.o, s.lease.Replica(), l.s.o.Now()
	l.rates.began(j, replica, began)
	if s != j.slot {
		l.placed(j, s, began)
	}
	err := l.through(ctx, cancel, j, s)
	l.rates.ended(j, 0, 0, o.Now(), err == nil)
	l.active()
	if err != nil {
		why := l.whyBroken(ctx, j, err)
		l.brokeOff(ctx, j, s.lease, why)
		if why.Code == task.Canceled { // the client was gone before anybody else saw it
			l.s.cancel(j, why, nil)
		} else {
			l.s.fail(j, why, nil)
		}
		l.awaitIdle(j, s.lease)
		return
	}
	l.idle(s)
	s.lease.Release()
	l.s.complete(j, &task.End{
		DecodeTimeMS: since(began, o.Now()).Milliseconds(), FinishReason: task.FinishResult,
		Receipt: task.Receipt{Determinism: j.task.Determinism, Fingerprint: replica.Fingerprint, ReplicaID: replica.ID, EngineVersion: replica.EngineVersion, ModelDigest: replica.ModelDigest},
	})
}

// errWorkerLost ends a passage whose worker is lost.
var errWorkerLost = errors.New("the worker is lost")

// through has the engine serve the request, under the watchdogs.
func (l *lane) through(ctx context.Context, cancel context.CancelCauseFunc, j *job, s *slot) (err error) {
	defer close(j.passing.quiet)
	if err := j.await(ctx); err != nil {
		return err
	}
	wall := awake.AfterFunc(l.pool.Wall, func() {
		cancel(task.Errorf(task.DecodeTimeout, "the request ran longer than the %s that pool '%s' allows with timeouts.wall: ask for less", l.pool.Wall, l.pool.ID))
	})
	defer wall.Stop()
	var answers atomic.Bool
	idle := awake.AfterFunc(l.pool.Prefill, func() {
		what, within := "did not begin to answer", l.pool.Prefill
		if answers.Load() {
			what, within = "sent nothing more", l.pool.Idle
		}
		cancel(task.Errorf(task.DecodeTimeout, "the server of pool '%s' %s for %s; send the request again", l.pool.ID, what, within).Retry(0))
	})
	defer idle.Stop()
	watched := make(chan struct{})
	defer close(watched)
	l.s.beside(j, func() {
		select {
		case <-s.lease.Lost():
			cancel(errWorkerLost)
		case <-watched:
		}
	})
	signs := Signs{
		Sent: func() {
			if !answers.Load() {
				idle.Reset(l.pool.Prefill)
			}
		},
		Came: func() {
			answers.Store(true)
			idle.Reset(l.pool.Idle)
			l.firstOutput(j)
		},
	}
	panicked := l.s.guard(j, func() { err = j.passing.Pass(ctx, s.lease, signs) })
	return errors.Join(panicked, err)
}

// beside runs f beside the run that calls it. Stop joins both.
func (s *Scheduler) beside(j *job, f func()) {
	s.runs.Go(func() {
		defer s.caught(j.told)
		f()
	})
}

// whyBroken is the error that tells why a passage ended early.
func (l *lane) whyBroken(ctx context.Context, j *job, err error) *task.Error {
	if errors.Is(err, stream.ErrSealed) {
		return task.Errorf(task.Canceled, "the request was canceled")
	}
	cause := context.Cause(ctx)
	if e, ok := errors.AsType[*task.Error](cause); ok {
		return e
	}
	l.s.o.Log.Warn("a request that was passed on failed", append(j.told(), zap.Error(err))...)
	if e, ok := errors.AsType[*task.Error](err); ok {
		return e
	}
	return task.Errorf(task.WorkerReset, "the server of pool '%s' was lost, or its connection broke, before the answer was whole: send the request again", l.pool.ID).
		Retry(time.Second).Because(errors.Join(cause, err))
}
