// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"

	"github.com/llama-orch/llama-orch/service/task"
)

// Known answers for a task id that is taken: the admission it got if the body is the same, else CONFLICT (LO-101).
func (s *Scheduler) Known(ctx context.Context, id string, body [32]byte) (task.Admission, bool, error) {
	if j := s.job(id); j != nil {
		a, err := s.sameAs(ctx, j, body)
		return a, true, err
	}
	r, ok, err := s.recorded(ctx, id)
	if !ok || err != nil {
		return task.Admission{}, err != nil, err
	}
	a, err := repeated(r.Task, body)
	return a, true, err
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
	l := s.lane(t.PoolID)
	j, other, a, err := s.push(ctx, l, t)
	switch {
	case err != nil:
		return a, err
	case other != nil:
		return s.sameAs(ctx, other, t.Request.BodySHA256)
	case j == nil:
		return a, nil
	}
	// The client may go while this is written: the task is accepted all the same, and its id finds it.
	if err := s.o.Ledger.Accept(context.WithoutCancel(ctx), j.task); err != nil {
		e := errLedger("the task could not be recorded, so it was not accepted", err)
		s.withdraw(j, e)
		return task.Admission{}, e
	}
	s.o.Metrics.enqueued(j.task)
	s.o.Narrator.Admitted(narrated(j.snapshot(), j.version()))
	s.accept(j)
	l.shed(t.Request.Priority)
	l.wake()
	return a, nil
}

// accept lets the lane have a recorded job, and its deadline run.
func (s *Scheduler) accept(j *job) {
	j.accept(s.o.Now(), func() {
		s.aside(func() { s.finish(j, task.Failed, nil, errDeadline(j.task)) })
	})
}

func errDeadline(t task.Task) *task.Error {
	return task.Errorf(task.DeadlineUnmet, "the task's deadline of %d ms passed before it was done: allow more time, or send it when the queue is shorter",
		t.Request.Deadline.Milliseconds())
}

// sameAs answers a submit whose id a live task has, once that is recorded.
func (s *Scheduler) sameAs(ctx context.Context, j *job, body [32]byte) (task.Admission, error) {
	select {
	case <-j.recorded:
	case <-ctx.Done():
		return task.Admission{}, context.Cause(ctx)
	}
	if e := j.withdrawn(); e != nil {
		return task.Admission{}, e
	}
	return repeated(j.task, body)
}

// push takes the id and a place in the queue. Other is the live task that has the id; neither: a task that has ended had it,
// and its admission is the answer.
func (s *Scheduler) push(ctx context.Context, l *lane, t task.Task) (j, other *job, a task.Admission, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, nil, a, errStopping()
	}
	if l == nil || s.lane(t.PoolID) != l {
		return nil, nil, a, task.Errorf(task.PoolUnavailable, "pool '%s' was removed just now: send the task again", t.PoolID).Retry(0)
	}
	if known, ok := s.live[t.ID]; ok {
		return nil, known, a, nil
	}
	if t.Request.ID != "" { // it may have been accepted, and even have ended, since Known looked
		r, ok, err := s.recorded(ctx, t.ID)
		if err != nil {
			return nil, nil, a, err
		}
		if ok {
			a, err = repeated(r.Task, t.Request.BodySHA256)
			return nil, nil, a, err
		}
	}
	if t.Seq, err = s.o.Ledger.NextSeq(); err != nil {
		return nil, nil, a, errLedger("the task could not be given its number, so it was not accepted", err)
	}
	if err := s.o.Sessions.Admit(&t); err != nil {
		return nil, nil, a, err
	}
	j = newJob(l, t)
	pushed, err := l.queue.Push(t.Request.Priority, j, t.AcceptedAt)
	if err != nil || pushed.Over {
		s.o.Metrics.backpressure(l)
	}
	if err != nil {
		s.o.Sessions.Withdraw(t)
		return nil, nil, a, l.errFull(err)
	}
	j.admit(pushed.Ticket, pushed.Position)
	l.rates.queue(j, 1)
	s.live[t.ID] = j
	return j, nil, j.task.Admission(), nil
}

// withdraw forgets a task that was never accepted. Whoever has its stream already hears why.
func (s *Scheduler) withdraw(j *job, e *task.Error) {
	j.lane.drop(j)
	j.lane.wake()
	s.mu.Lock()
	delete(s.live, j.task.ID)
	s.mu.Unlock()
	s.o.Sessions.Withdraw(j.task)
	j.withdraw(e)
}
