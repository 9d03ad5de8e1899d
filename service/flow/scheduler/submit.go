// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"errors"
	"time"

	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

// Known answers for a task id that is taken: the admission it got if the body is the same, else CONFLICT (LO-101).
func (s *Scheduler) Known(ctx context.Context, id string, body [32]byte) (task.Admission, bool, error) {
	if j := s.job(id); j != nil {
		a, err := sameAs(ctx, j, body)
		return a, true, err
	}
	r, ok, err := s.lookUp(ctx, id)
	if !ok || err != nil {
		return task.Admission{}, err != nil, err
	}
	if r.Deleted != nil {
		return task.Admission{}, true, task.Errorf(task.Conflict, "task_id %s is that of a task that was deleted at %s: choose another id, or leave it out",
			id, r.Deleted.At.UTC().Format(time.RFC3339))
	}
	a, err := repeated(r.Task, body)
	return a, true, err
}

// sameAs answers a submit whose id a live task has, once that is accepted.
func sameAs(ctx context.Context, j *job, body [32]byte) (task.Admission, error) {
	if err := j.await(ctx); err != nil {
		return task.Admission{}, err
	}
	return repeated(j.task, body)
}

func repeated(t task.Task, body [32]byte) (task.Admission, error) {
	if t.Request.BodySHA256 != body {
		return task.Admission{}, task.Errorf(task.Conflict,
			"task_id %s is taken by a task with another body: choose another id, or leave it out", t.ID)
	}
	return t.Admission(), nil
}

// Enqueue records a task and queues it. Of two concurrent submits of one id, one is queued and both get its admission.
func (s *Scheduler) Enqueue(ctx context.Context, t task.Task) (task.Admission, error) {
	release := func() {}
	if t.Request.ID != "" { // else nobody else can have the id
		for {
			var wait <-chan struct{}
			if release, wait = s.reserve(t.ID); wait == nil {
				break
			}
			select {
			case <-wait:
			case <-ctx.Done():
				return task.Admission{}, context.Cause(ctx)
			}
		}
	}
	j, a, err := s.push(ctx, t, release)
	if j == nil || err != nil {
		return a, err
	}
	// The client may go while this is written: the task is accepted all the same, and its id finds it.
	panicked := s.guard(j, func() { err = s.o.Ledger.Accept(context.WithoutCancel(ctx), j.task) })
	if err = errors.Join(panicked, err); err != nil {
		e := task.AsError(panicked)
		if panicked == nil {
			e = errLedger("the task could not be recorded, so it was not accepted", err)
		}
		s.withdraw(j, e)
		return task.Admission{}, e
	}
	_ = s.guard(j, func() {
		s.o.Metrics.enqueued(j.task)
		s.o.Narrator.Admitted(narrated(j.snapshot(), j.version()))
	})
	j.accept()
	if t.Request.BatchID == "" { // else nobody has to make room for it
		j.lane.shed(t.Request.Priority)
	}
	j.lane.wake()
	return j.task.Admission(), nil
}

// reserve keeps a task id from other submits until release is called, so that one of them looks it up and makes the job. Where
// another submit has the id, wait is closed once it is free again.
func (s *Scheduler) reserve(id string) (release func(), wait <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.arriving[id]; other != nil {
		return nil, other
	}
	mine := make(chan struct{})
	s.arriving[id] = mine
	return func() {
		s.mu.Lock()
		delete(s.arriving, id)
		s.mu.Unlock()
		close(mine)
	}, nil
}

// push makes a task's job and gives it its place in the queue. The ledger does not know of it yet. Where the id is taken, the answer
// is the admission that it has.
func (s *Scheduler) push(ctx context.Context, t task.Task, release func()) (*job, task.Admission, error) {
	defer release()
	if t.Request.ID != "" { // it may have been accepted, and even have ended, since Known was asked
		if a, known, err := s.Known(ctx, t.ID, t.Request.BodySHA256); known {
			return nil, a, err
		}
	}
	l := s.lane(t.PoolID)
	switch {
	case s.Stopping():
		return nil, task.Admission{}, errStopping()
	case l == nil:
		return nil, task.Admission{}, errRemoved(t.PoolID)
	}
	j := newJob(l, t)
	if err := s.o.Sessions.Admit(&j.task); err != nil {
		return nil, task.Admission{}, err
	}
	if err := s.line(j); err != nil {
		e := task.AsError(err)
		s.withdraw(j, e)
		return nil, task.Admission{}, e
	}
	return j, task.Admission{}, nil
}

// line gives a job its place in the queue, where its id finds it.
func (s *Scheduler) line(j *job) (err error) {
	panicked := s.guard(j, func() {
		if err = j.lane.push(j); err == nil {
			err = s.keep(j)
		}
	})
	return errors.Join(panicked, err)
}

// push puts a job at the end of the queue, and notes what it found there: that is what its stream begins with.
func (l *lane) push(j *job) error {
	t := &j.task
	place, err := l.take(j)
	if err != nil {
		return err
	}
	defer l.rates.queue(j, 1)
	// Everybody else leaves the job alone until it is accepted.
	t.QueuePosition, t.PredictedStart, t.Backoff = place.Position, l.predict(place.Position), l.backoff()
	j.log = stream.New(t.Started(), l.s.o.Now)
	return nil
}

// take gives a job its number and its place, both in one order.
func (l *lane) take(j *job) (place queue.Pushed, err error) {
	l.pushing.Lock()
	defer l.pushing.Unlock()
	if j.task.Seq, err = l.s.o.Ledger.NextSeq(); err != nil {
		return place, errLedger("the task could not be given its number, so it was not accepted", err)
	}
	if q := &j.task.Request; q.BatchID != "" { // the feeder bounds how many there are
		place = l.queue.PushGuest(q.Priority, j, j.task.AcceptedAt)
	} else {
		place, err = l.queue.Push(q.Priority, j, j.task.AcceptedAt)
	}
	if err != nil || place.Over {
		l.s.o.Metrics.backpressure(l)
	}
	if err != nil {
		return place, l.errFull(err)
	}
	j.ticket = place.Ticket
	return place, nil
}

// withdraw forgets a task that was never accepted.
func (s *Scheduler) withdraw(j *job, e *task.Error) {
	if j.lane.drop(j) {
		j.lane.wake()
	}
	s.o.Sessions.Withdraw(j.task)
	s.forget(j)
	j.withdraw(e)
}

func errRemoved(poolID string) *task.Error {
	return task.Errorf(task.PoolUnavailable, "pool '%s' was removed just now: send the task again", poolID).Retry(0)
}

func errDeadline(t task.Task) *task.Error {
	return task.Errorf(task.DeadlineUnmet, "the task's deadline of %d ms passed before it was done: allow more time, or send it when the queue is shorter",
		t.Request.Deadline.Milliseconds())
}
