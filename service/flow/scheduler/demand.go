// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/task"
)

// Demand is what the tasks of a pool ask for, as residency.Queues.
func (s *Scheduler) Demand(poolID string) (residency.Demand, bool) {
	l := s.lane(poolID)
	if l == nil {
		return residency.Demand{}, false
	}
	retries := l.retries.list()
	d := residency.Demand{
		Interactive: l.oldest(task.Interactive), Batch: l.oldest(task.Batch), Waiting: l.queue.Depth() + len(retries),
		ActiveAt: time.Unix(0, l.activeAt.Load()),
	}
	for _, j := range retries { // they ran before, and nobody is ahead of them, but of a batch's line
		since := &d.Interactive
		if j.line() {
			since = &d.Batch
		}
		if came := j.task.AcceptedAt; since.IsZero() || came.Before(*since) {
			*since = came
		}
	}
	d.Running = l.busy()
	return d, true
}

// Hold keeps a pool from starting further tasks, or lets it start them again.
func (s *Scheduler) Hold(poolID string, hold bool) {
	if l := s.lane(poolID); l != nil && l.held.Swap(hold) && !hold {
		l.wake()
	}
}

// MakeWay has the batches' lines that run in a pool give way to an interactive task of another pool, which is to have the memory (LO-444).
func (s *Scheduler) MakeWay(poolID string) {
	if l := s.lane(poolID); l != nil {
		for _, line := range l.lines((*job).makesWay) {
			line.yield()
		}
	}
}

// GiveUp ends the tasks that wait for a pool. A task that has sent tokens ends with WORKER_RESET, because its client cannot go on.
func (s *Scheduler) GiveUp(poolID string, why *task.Error) {
	l := s.lane(poolID)
	for _, j := range s.jobs() {
		if j.lane != l || !j.now().waits() {
			continue
		}
		e := why
		if j.log.Tokens() > 0 {
			e = l.errLost("its pool cannot load its model again")
		}
		s.aside(func() { s.fail(j, e, func() bool { return j.state.waits() }) }, j.told)
	}
}
