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

// Known answers for a task id that is taken: the admission it got if the body is the same, else CONFLICT (LO-101); DELETED where it was deleted.
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
		return task.Admission{TaskID: id, Failure: r.Err}, true, task.Errorf(task.Deleted,
			"task_id %s is that of a task that was deleted at %s: choose another id, or leave it out", id, r.Deleted.At.UTC().Format(time.RFC3339))
	}
	a, err := repeated(r, body)
	return a, true, err
}

// sameAs answers a submit whose id a live task has, once that is accepted.
func sameAs(ctx context.Context, j *job, body [32]byte) (task.Admission, error) {
	if err := j.await(ctx); err != nil {
		return task.Admission{}, err
	}
	return repeated(j.snapshot(), body)
}

func repeated(r task.Record, body [32]byte) (task.Admission, error) {
	if r.Task.Request.BodySHA256 != body {
		return task.Admission{}, task.Errorf(task.Conflict,
			"task_id %s is taken by a task with another body: choose another id, or leave it out", r.Task.ID)
	}
	a := r.Task.Admission()
	a.Failure = r.Err
	return a, nil
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
	panicked := s.guard(j, func() { err = s.record(context.WithoutCancel(ctx), j) })
	if err = errors.Join(panicked, err); err != nil {
		e := task.AsError(panicked)
		if panicked == nil {
			e = errLedger("the task could not be recorded, so it was not accepted", err)
		}
		s.withdraw(j, e)
		if s.o.Taken(err) { // another daemon has accepted a task of this id meanwhile
			if a, known, err := s.Known(ctx, t.ID, t.Request.BodySHA256); known {
				return a, err
			}
		}
		return task.Admission{}, e
	}
	s.accepted(j)
	return j.task.Admission(), nil
}

// accepted counts a job, and lets its lane have it.
func (s *Scheduler) accepted(j *job) {
	_ = s.guard(j, func() {
		s.o.Metrics.enqueued(j.task)
		s.o.Narrator.Admitted(narrated(j.snapshot(), j.version()))
		if j.slot != nil {
			j.lane.placed(j, j.slot, j.began())
		}
	})
	j.accept()
	if j.slot == nil {
		if j.task.Request.BatchID == "" { // else nobody has to make room for it
			j.lane.shed(j.task.Request.Priority)
		}
		j.lane.wake()
	}
}

// record records that a task is accepted, and that it runs where it found a free slot (LO-202).
func (s *Scheduler) record(ctx context.Context, j *job) error {
	if j.slot == nil {
		return s.o.Ledger.Accept(ctx, j.task)
	}
	r := j.slot.lease.Replica()
	return s.o.Ledger.AcceptRunning(ctx, j.task, task.Dispatch{ID: j.task.ID, ReplicaID: r.ID, Fingerprint: r.Fingerprint, At: j.began()})
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
	if err := s.o.Refusal(t.PoolID); err != nil {
		return nil, task.Admission{}, err
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

// line gives a job a free slot or its place in the queue, and its id finds it from now on. In a slot it runs at once.
func (s *Scheduler) line(j *job) (err error) {
	panicked := s.guard(j, func() {
		var run func()
		if run, err = j.lane.push(j); err == nil {
			err = s.keep(j, run)
		}
	})
	if err = errors.Join(panicked, err); err != nil && j.slot != nil {
		j.slot.lease.Release()
	}
	return err
}

// push gives a job a free slot, or puts it at the end of the queue, and notes what it found: that is what its stream begins with. It returns
// what runs the job in its slot; nil: it is in the queue.
func (l *lane) push(j *job) (run func(), err error) {
	t := &j.task
	free := l.free(j)
	defer func() {
		if free != nil && j.slot == nil {
			free.lease.Release()
		}
	}()
	place, err := l.take(j, free)
	if err != nil {
		return nil, err
	}
	// Everybody else leaves the job alone until it is accepted.
	t.QueuePosition, t.Backoff = place.Position, l.backoff()
	if j.slot == nil {
		defer l.rates.queue(j, 1)
		t.PredictedStart = l.predict(place.Position, t.Request.Priority)
	}
	if d := t.Request.Deadline; d > 0 {
		chance := l.onTime(d, t.PredictedStart)
		j.chance = &chance
	}
	j.log = stream.New(t.Started(), l.s.o.Now)
	if j.slot != nil {
		run = l.start(j, j.slot)
	}
	return run, nil
}

// free takes a free slot for a newcomer; nil: there is none, or others wait for one.
func (l *lane) free(j *job) *slot {
	if !l.looping.Load() || l.held.Load() || l.waiting() > 0 {
		return nil
	}
	ready := l.ready()
	defer ready.done()
	if ready.busy >= ready.slots {
		return nil
	}
	return l.slot(j, ready.all)
}

// take gives a job its number and its place, both in one order. Its place is the free slot, if it has one and nobody has come before it
// meanwhile, or the end of the queue.
func (l *lane) take(j *job, free *slot) (place queue.Pushed, err error) {
	l.pushing.Lock()
	defer l.pushing.Unlock()
	if j.task.Seq, err = l.s.o.Ledger.NextSeq(); err != nil {
		return place, errLedger("the task could not be given its number, so it was not accepted", err)
	}
	if free != nil && l.waiting() == 0 {
		j.slot = free
		return place, nil
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
