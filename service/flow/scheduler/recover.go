// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

// Recover takes up the tasks that an earlier process left, or a daemon that is gone. It comes before the first submit to their pools. The records are in the
// order in which the tasks go on: strict ones that were running, by their start, and then the queued ones in their order. A
// best-effort task that was running ends with WORKER_RESET, since its tokens cannot be made again (LO-202). Deadlines run on, and
// one that has passed ends its task at once.
func (s *Scheduler) Recover(left []task.Record) {
	running, queued := 0, 0
	var tried sync.WaitGroup // the outcomes are recorded together, so that they share a commit
	for _, r := range left {
		s.o.Sessions.Recover(r.Task)
		l := s.lane(r.Task.PoolID)
		switch {
		case r.Err != nil: // its record is damaged, so that nobody can run it
			s.abandon(&tried, r, r.Err)
		case l == nil:
			s.abandon(&tried, r, task.Errorf(task.PoolUnavailable,
				"the task's pool '%s' is no longer configured: send the task again", r.Task.PoolID).Retry(0))
		case r.State == task.Queued:
			s.restore(l, r)
			queued++
		case r.Task.Determinism == task.Strict:
			s.resume(l, r)
			running++
		default:
			s.abandon(&tried, r, l.errLost("a best-effort task cannot be continued after a restart"))
		}
	}
	tried.Wait()
	for _, l := range *s.lanes.Load() {
		l.wake()
	}
	if len(left) > 0 {
		s.o.Log.Info("took up the tasks of the run before", zap.Int("running", running), zap.Int("queued", queued),
			zap.Int("ended", len(left)-running-queued))
	}
}

// restore queues a task that had not been dispatched.
func (s *Scheduler) restore(l *lane, r task.Record) {
	j := newJob(l, r.Task)
	j.log = stream.New(r.Task.Started(), s.o.Now)
	if r.Task.Determinism == task.Strict { // it may have run, if its dispatch could not be recorded
		j.log = stream.Recover(r.Task.Started(), r.Checkpoint, s.o.Now)
	}
	if s.keep(j, nil) != nil {
		return
	}
	if q := &r.Task.Request; q.BatchID != "" {
		j.ticket = l.queue.PushGuest(q.Priority, j, r.Task.AcceptedAt).Ticket
	} else {
		j.ticket = l.queue.Restore(q.Priority, j, r.Task.AcceptedAt)
	}
	l.rates.queue(j, 1)
	j.accept()
	j.unread()
}

// resume lets a strict task that was running be decoded again, on the fingerprint it had.
func (s *Scheduler) resume(l *lane, r task.Record) {
	j := newJob(l, r.Task)
	j.startedAt, j.tries = r.StartedAt, 1
	j.replica = Replica{ID: r.ReplicaID, Fingerprint: r.Fingerprint}
	j.log = stream.Recover(r.Task.Started(), r.Checkpoint, s.o.Now)
	if s.keep(j, nil) != nil {
		return
	}
	j.accept()
	j.move(r.Fingerprint)
	j.unread()
}

// unread lets a task of a front that a restart found wait for its client, whose connection is gone. The client of the native API may have none, and
// come when it likes.
func (j *job) unread() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if q := &j.task.Request; q.Front.Dialect != "" && q.OnDisconnect == task.CancelIt && j.readers == 0 && j.state.live() {
		j.startAbsence()
	}
}

// abandon ends a task that nobody can continue. Tried is done once the ledger was asked to record that. If the ledger cannot, as with a
// full disk, the outcome waits until it can, and holds up nobody else.
func (s *Scheduler) abandon(tried *sync.WaitGroup, r task.Record, e *task.Error) {
	e.Engine, e.PoolID = r.Task.Engine, r.Task.PoolID
	log, was := stream.New(r.Task.Started(), s.o.Now), r.State
	r.SealedAt = log.LastEventID()
	r.LastEventID = log.Fail(e)
	r.State, r.FinishedAt, r.Err = task.Failed, s.o.Now(), e
	r.Charge = s.o.Sessions.Charge(r, 0, nil)
	tried.Add(1)
	asked := sync.OnceFunc(tried.Done)
	begun := s.aside(func() {
		defer asked() // also where the ledger panics: then the next start takes the task up
		recorded := s.tryRecord(r)
		asked()
		if recorded || s.retryRecord(r) {
			s.o.Sessions.Settle(r)
			s.o.Metrics.finished(r, r.Task.EngineVersion, time.Time{}, "")
			s.narrate(r, r.Task.EngineVersion, was)
		}
	}, narrated(r, r.Task.EngineVersion).Fields)
	if !begun {
		asked()
	}
}
