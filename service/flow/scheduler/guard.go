// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"fmt"
	"runtime/debug"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// maxPanic bounds what a log line says of a panic, in bytes.
const maxPanic = 500

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
		j.lane.rates.ended(j, 0, s.o.Now(), false) // it may not have come so far
		s.fail(j, e, nil)
	}
}

func (s *Scheduler) panicked(j *job, p any) *task.Error {
	text := task.Clip(fmt.Sprint(p), maxPanic)
	s.o.Log.Error("the work for a task panicked", append(j.told(), zap.String("panic", text), zap.ByteString("stack", debug.Stack()))...)
	return task.Errorf(task.Internal, "something went wrong inside the orchestrator while it ran the task; its log has the cause under the task's id")
}
