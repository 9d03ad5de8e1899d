// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
	"github.com/llama-orch/llama-orch/service/tracing"
)

// Cancel ends a task, sealing its log: when it returns, no token is written any more (ORCH-3026). For a task that has
// ended, it returns the recorded outcome.
func (s *Scheduler) Cancel(ctx context.Context, id string) (task.CancelResult, error) {
	j := s.job(id)
	if j == nil {
		r, err := s.finished(ctx, id)
		return r.CancelResult(), err
	}
	if err := j.await(ctx); err != nil {
		return task.CancelResult{}, err
	}
	canceled := task.Errorf(task.Canceled, "the task was canceled by its client")
	if !s.aside(func() { s.cancel(j, canceled, nil) }, j.told) {
		return task.CancelResult{}, errStopping()
	}
	select {
	case <-j.over:
	case <-ctx.Done():
		return task.CancelResult{}, errLedger("the task ends, but that is not recorded yet", context.Cause(ctx))
	}
	r := j.snapshot()
	if !r.State.Final() {
		return task.CancelResult{}, errStopping()
	}
	return r.CancelResult(), nil
}

// cancel ends a task because of its client; complete and fail end it with its result and with an error. Each does nothing where
// somebody else ends the task, or where the condition does not hold (see job.claim).
func (s *Scheduler) cancel(j *job, e *task.Error, still func() bool) {
	if j.claim(still) {
		s.end(j, task.StateCanceled, nil, e)
	}
}

func (s *Scheduler) complete(j *job, end *task.End) {
	if j.claim(nil) {
		s.end(j, task.Completed, end, nil)
	}
}

func (s *Scheduler) fail(j *job, e *task.Error, still func() bool) {
	if j.claim(still) {
		s.end(j, task.Failed, nil, e)
	}
}

// end ends a task that the caller has claimed: it seals the log, records the outcome, and only then lets anyone see it.
func (s *Scheduler) end(j *job, state task.State, end *task.End, e *task.Error) {
	if j.lane.drop(j) {
		j.lane.wake() // it may have been the first in the queue, and held up the others
	}
	was := j.snapshot().State
	var r task.Record
	var took *task.Energy
	err := s.guard(j, func() { r, took = s.outcome(j, state, end, e) })
	if err != nil { // it panicked
		err = s.guard(j, func() { r, took = s.outcome(j, task.Failed, nil, task.AsError(err)) })
	}
	if !j.recorded() && j.ran() {
		<-j.passing.quiet // whoever ends the task sees no more of its answer
	}
	recorded := !j.recorded()
	if err == nil && !recorded {
		err = s.guard(j, func() { recorded = s.tryRecord(r) || s.retryRecord(r) })
	}
	if err != nil || !recorded { // the next start runs it again
		j.leave()
		return
	}
	_ = s.guard(j, func() { // what it logs is all that can be done, since the outcome is recorded
		s.o.Sessions.Settle(r) // before anybody sees the end: its reader may send the session's next turn
		// The metrics and the log have the end before anybody sees it: whoever reads the end and then the metrics finds it there.
		s.o.Metrics.finished(r, j.version(), j.firstOutputAt(), s.o.Tracer.TraceID(&r.Task))
		s.o.Metrics.took(r.Task.PoolID, took)
		if j.lost() > 1 {
			s.o.Metrics.moved(r)
		}
		s.outlook.ended(r, j.chance)
		s.narrate(r, j.version(), was)
		s.traced(j, &r)
	})
	_ = s.guard(j, func() { j.finish(r) }) // from now on the ledger tells how it ended
	if r.State == task.StateCanceled {
		_ = s.guard(j, func() { s.flush(j) })
	}
	s.forget(j)
	close(j.over)
}

// traced tells of a task that has ended, and of its time in line.
func (s *Scheduler) traced(j *job, r *task.Record) {
	if s.o.Tracer == nil {
		return
	}
	left := j.began()
	if left.IsZero() { // no replica had it
		left = r.FinishedAt
	}
	s.o.Tracer.Part(&r.Task, tracing.Part{Name: "queue", From: r.Task.AcceptedAt, To: left})
	s.o.Tracer.Ended(r)
}

// flush waits until the readers of a canceled task have what was written, for a while.
func (s *Scheduler) flush(j *job) {
	ctx, stop := context.WithTimeout(context.Background(), s.o.FlushWithin)
	defer stop()
	s.o.Metrics.cutOffs.Add(float64(j.log.Flush(ctx)))
}

// outcome seals a task's log, ends it, and returns what is to be recorded, and what the cards took for the task; nil: that is not known.
func (s *Scheduler) outcome(j *job, state task.State, end *task.End, e *task.Error) (task.Record, *task.Energy) {
	sealedAt, _ := j.log.Seal()
	if e != nil {
		j.stopEngine(e)
	} else {
		j.stopEngine(nil) // and no error that is nil inside
	}
	r := j.snapshot()
	r.State, r.FinishedAt, r.SealedAt, r.End = state, s.o.Now(), sealedAt, end
	transcript, digest := j.log.Transcript()
	r.Transcript = transcript
	if end == nil {
		own := *e // one cause may end many tasks
		own.Engine, own.PoolID = j.task.Engine, j.task.PoolID
		r.Err = &own
	}
	took := j.took(r.FinishedAt)
	r.Charge = s.o.Sessions.Charge(r, j.decoded(r.FinishedAt), took)
	if end != nil {
		end.EnergyJ, end.EnergyCost = took.Shown()
		end.Receipt.TranscriptSHA256, end.Receipt.TranscriptForm = digest, transcript.Form()
		end.ToolCalls = transcript.Parts().Calls
		r.LastEventID = j.log.End(*end)
	} else {
		r.EnergyJ, r.EnergyCost = took.Shown()
		r.LastEventID = j.log.Fail(r.Err)
	}
	return r, took
}

func (s *Scheduler) tryRecord(r task.Record) bool {
	err := s.o.Ledger.Finish(context.Background(), r)
	if err != nil {
		s.o.Log.Error("an outcome cannot be recorded and waits until it can",
			append(narrated(r, r.Task.EngineVersion).Fields(), zap.Error(err))...)
	}
	return err == nil
}

// retryRecord waits until the ledger takes an outcome, as with a full disk: nobody may see what a crash could undo. It
// returns false when the orchestrator stops first.
func (s *Scheduler) retryRecord(r task.Record) bool {
	for lifecycle.Pause(s.halt, s.o.RecordEvery) {
		if s.o.Ledger.Finish(context.Background(), r) == nil {
			return true
		}
	}
	return false
}

// narrate writes the log line about a task's end. Was is the state that the task was in before.
func (s *Scheduler) narrate(r task.Record, version string, was task.State) {
	told := narrated(r, version)
	switch {
	case r.State == task.StateCanceled:
		s.o.Narrator.Canceled(told, was)
	case r.Err != nil:
		s.o.Narrator.StreamEnded(told, r.Err.Code)
	default:
		s.o.Narrator.StreamEnded(told, "")
	}
}
