// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/task"
)

// guard runs what is done for one task. A panic there is logged and becomes an error: it ends that task as INTERNAL, and neither the
// tasks of others nor the process (LO-803).
func (s *Scheduler) guard(j *job, f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(j, p)
		}
	}()
	f()
	return nil
}

// survive is deferred by a goroutine that works for one task, and ends the task where that panics.
func (s *Scheduler) survive(j *job) {
	if p := recover(); p != nil {
		e := s.panicked(j, p)
		<-j.decided                                   // before that nobody can end it
		j.lane.rates.ended(j, 0, 0, s.o.Now(), false) // it may not have come so far
		_ = s.guard(j, func() { s.fail(j, e, nil) })  // it has logged what went wrong
	}
}

// unplaced is deferred where a job is given to a replica, or is to wait on for one. Where that panics it ends the task, so that those
// behind it are not held up.
func (l *lane) unplaced(j *job) {
	if p := recover(); p != nil {
		e := l.s.panicked(j, p)
		l.s.aside(func() { l.s.fail(j, e, nil) }, j.told)
	}
}

// worked is what the log says where the work for a task panicked.
const worked = "the work for a task panicked"

// caught is deferred by work that nobody can end otherwise than it ended.
func (s *Scheduler) caught(told func() []zap.Field) {
	if p := recover(); p != nil {
		contain.Log(s.o.Log, worked, p, told()...)
	}
}

func (s *Scheduler) panicked(j *job, p any) *task.Error {
	contain.Log(s.o.Log, worked, p, j.told()...)
	return task.Errorf(task.Internal, "something went wrong inside the orchestrator while it ran the task; its log has the cause under the task's id")
}
