// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"sync"

	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
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
	return &Stream{Subscription: sub, job: j, closed: func() {
		s.o.Metrics.streams.Dec()
		closed()
	}}
}

// replay is the log of a finished task while somebody reads it, shared by all its readers.
type replay struct {
	build   sync.Once
	job     *job
	err     error
	readers int // Scheduler.mu guards it
}

func (s *Scheduler) subscribeFinished(ctx context.Context, id, after string) (*Stream, error) {
	s.mu.Lock()
	p := s.replays[id]
	if p == nil {
		p = &replay{}
		s.replays[id] = p
	}
	p.readers++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if p.readers--; p.readers == 0 {
			delete(s.replays, id)
		}
	}
	p.build.Do(func() { // for all its readers, whoever of them goes
		var r task.Record
		if r, p.err = s.finished(context.WithoutCancel(ctx), id); p.err == nil {
			p.job = ended(r, s.lane(r.Task.PoolID))
		}
	})
	if p.err != nil {
		leave()
		return nil, p.err
	}
	sub, err := p.job.log.Subscribe(after, 0)
	if err != nil {
		leave()
		return nil, err
	}
	return s.stream(sub, p.job, leave), nil
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
