// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/task"
)

// Start sets the lanes going. Stop joins what it starts.
func (s *Scheduler) Start(context.Context) error {
	if !s.loops.Begin() {
		return nil
	}
	s.mu.Lock()
	s.started = true
	lanes := *s.lanes.Load()
	s.mu.Unlock()
	for _, l := range lanes {
		s.begin(l)
	}
	s.loops.Go(func(ctx context.Context) {
		contain.Loop(ctx, s.o.Log, "the deletion of texts whose time is over panicked, and is tried again", s.expire)
	})
	s.loops.Go(func(ctx context.Context) {
		contain.Loop(ctx, s.o.Log, "the record of what was measured of the pools panicked, and goes on", s.keepMeasured)
	})
	return nil
}

// Stop refuses new tasks and lets running ones finish until ctx ends. What is left stays in the ledger for the next start:
// queued tasks, and strict ones that ran. What is not recorded ends with SHUTTING_DOWN. Streams of those are closed without an end, so that their clients come back. A
// best-effort task that ran ends with SHUTTING_DOWN, since nobody could continue its bytes.
func (s *Scheduler) Stop(ctx context.Context) error {
	s.mu.Lock()
	first := !s.stopping
	s.stopping = true
	s.mu.Unlock()
	if !first {
		select {
		case <-s.stopped:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer close(s.stopped)
	if err := s.loops.End(context.WithoutCancel(ctx), nil); err != nil { // a loop never waits for long
		return err
	}
	var ends sync.WaitGroup
	for _, j := range s.jobs() { // where a worker dies from now on, the run lets go of its task
		s.letGo(j, &ends, func() bool { return j.state.waits() })
	}
	finished := make(chan struct{})
	ends.Go(func() { s.runs.Wait(); close(finished) })
	select {
	case <-finished:
	case <-ctx.Done():
		for _, j := range s.jobs() {
			s.letGo(j, &ends, nil)
		}
	}
	s.endRuns(errStopping())
	ends.Wait()
	return nil
}

// Stopping reports whether Stop was called.
func (s *Scheduler) Stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// letGo ends this process's part in a task, unless somebody ends the task already, or the condition does not hold (see job.claim). What it
// still has to write, ends joins.
func (s *Scheduler) letGo(j *job, ends *sync.WaitGroup, still func() bool) {
	<-j.decided // a submit that waits for the ledger is not cut short
	if !j.claim(still) {
		return
	}
	if !j.recorded() || j.ran() && j.task.Determinism == task.BestEffort {
		ends.Go(func() { _ = s.guard(j, func() { s.end(j, task.Failed, nil, errStopping()) }) }) // it has logged what went wrong
		return
	}
	if j.ran() {
		s.o.Ledger.Checkpoint(j.task.ID, j.log.Checkpoint())
	}
	j.leave()
	j.stopEngine(errStopping())
}

func errStopping() *task.Error {
	return task.Errorf(task.ShuttingDown, "the orchestrator is stopping: send the task again once it is back").Retry(5 * time.Second)
}
