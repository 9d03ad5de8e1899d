// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"fmt"

	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/service/tracing"
)

// Subscribe opens a task's stream after the event named by after, or from the start. It waits until a task that was submitted is
// accepted.
func (s *Scheduler) Subscribe(ctx context.Context, id, after string) (*Stream, error) {
	j := s.job(id)
	if j == nil {
		return s.subscribeFinished(ctx, id, after)
	}
	if err := j.await(ctx); err != nil {
		return nil, err
	}
	sub, err := j.log.Subscribe(after, s.o.MicroBatch)
	if err != nil {
		return nil, err
	}
	j.enters()
	return s.stream(sub, j, j.leaves), nil
}

func errAbandoned() *task.Error {
	return task.Errorf(task.Canceled, "the task's client went away and did not come back, and it asked with `on_disconnect` that the task end then")
}

func (s *Scheduler) stream(sub *stream.Subscription, j *job, closed func()) *Stream {
	s.o.Metrics.streams.Inc()
	from := s.o.Now()
	return &Stream{Subscription: sub, job: j, closed: func() {
		s.o.Metrics.streams.Dec()
		s.o.Tracer.Part(&j.task, tracing.Part{Name: "delivery", From: from, To: s.o.Now()})
		closed()
	}}
}

// replay is the log of a finished task while somebody reads it, shared by all its readers.
type replay struct {
	reading chan struct{} // capacity 1: full while one of the readers reads the record
	job     *job          // nil until that has succeeded; written by that reader
	readers int           // guarded by Scheduler.mu
}

func (s *Scheduler) subscribeFinished(ctx context.Context, id, after string) (*Stream, error) {
	s.mu.Lock()
	p := s.replays[id]
	if p == nil {
		p = &replay{reading: make(chan struct{}, 1)}
		s.replays[id] = p
	}
	p.readers++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if p.readers--; p.readers == 0 && s.replays[id] == p { // a deletion may have taken it away
			delete(s.replays, id)
		}
	}
	j, err := s.replayed(ctx, p, id)
	if err != nil {
		leave()
		return nil, err
	}
	sub, err := j.log.Subscribe(after, 0)
	if err != nil {
		leave()
		return nil, err
	}
	return s.stream(sub, j, leave), nil
}

// replayed is the job of a replay. The first of its readers whose client stays long enough reads the record, for all of them.
func (s *Scheduler) replayed(ctx context.Context, p *replay, id string) (*job, error) {
	select {
	case p.reading <- struct{}{}:
		defer func() { <-p.reading }()
	case <-ctx.Done():
		return nil, errLedger("the task's record was not read yet", context.Cause(ctx))
	}
	if p.job == nil {
		r, err := s.finished(ctx, id)
		if err != nil {
			return nil, err
		}
		j := ended(r, s.lane(r.Task.PoolID))
		if j.log.LastEventID() != r.LastEventID { // the ids that clients hold are of other events
			return nil, errAltered(r, j.log.LastEventID())
		}
		p.job = j
	}
	return p.job, nil
}

func errAltered(r task.Record, last string) *task.Error {
	return task.Errorf(task.Internal, "the record of task %.128q gives other events than those that were sent: restore a backup of the ledger, or delete the task with `llama-orch rm %.128s`",
		r.Task.ID, r.Task.ID).Because(fmt.Errorf("its last event is %s, and was %s", last, r.LastEventID))
}

// Stream is a subscription to a task, and its moving figures.
type Stream struct {
	*stream.Subscription
	job    *job
	closed func()
}

// Metrics are the figures for a `metrics` frame now, and false once the task has ended.
func (s *Stream) Metrics() (task.Metrics, bool) { return s.job.figures() }

// Close ends the subscription.
func (s *Stream) Close() {
	s.Subscription.Close()
	s.closed()
}
