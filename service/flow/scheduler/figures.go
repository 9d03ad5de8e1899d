// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// shown is the job's state as clients see it. False: clients do not see the job, because it is not accepted.
func (j *job) shown() (task.State, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.public(), j.state.decided() && j.state != withdrawn
}

// public is the state that clients see. The caller holds mu.
func (j *job) public() task.State {
	switch {
	case j.state == done:
		return j.record.State
	case j.startedAt.IsZero():
		return task.Queued
	}
	return task.Running
}

// snapshot is the job's record now.
func (j *job) snapshot() task.Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state == done {
		return j.record
	}
	return task.Record{
		Task: j.withPrompt(), State: j.public(), ReplicaID: j.replica.ID, Fingerprint: j.replica.Fingerprint, StartedAt: j.startedAt,
	}
}

func (j *job) status() task.Status {
	s := j.snapshot().Status()
	if s.State.Final() {
		return s
	}
	s.TokensOut, s.LastEventID = j.log.Tokens(), j.log.LastEventID()
	s.QueuePosition, s.PredictedStart = j.place(s.StartedAt)
	return s
}

// place is the job's position and its start, from admission, as things are now.
func (j *job) place(startedAt time.Time) (position int, start time.Duration) {
	if !startedAt.IsZero() {
		return 0, since(j.task.AcceptedAt, startedAt)
	}
	position, _ = j.lane.queue.Position(j.ticket)
	return position, since(j.task.AcceptedAt, j.lane.s.o.Now()) + j.lane.predict(position, j.task.Request.Priority)
}

// since is how long after a moment of the record another one came. The clock may have been set back in between, such as over a restart,
// and then it is 0 (LO-802).
func since(was, now time.Time) time.Duration { return max(now.Sub(was), 0) }

// figures are those of a `metrics` frame. False: there are none any more. Every stream asks once a second, so no snapshot is made.
func (j *job) figures() (task.Metrics, bool) {
	j.mu.Lock()
	state, startedAt, lost, warm, moves := j.public(), j.startedAt, j.tries-j.yielded-1, j.warm, j.state == moving
	j.mu.Unlock()
	if state.Final() {
		return task.Metrics{}, false
	}
	l := j.lane
	m := task.Metrics{
		Phase: task.PhaseQueued, QueueDepth: l.queue.Depth(), KVWarmth: warm, Failover: max(lost, 0),
		Budgets: l.s.o.Sessions.Rests(j.task.Request.SessionID, j.task.Request.Actor),
	}
	var start time.Duration
	m.QueuePosition, start = j.place(startedAt)
	m.PredictedStartMS = start.Milliseconds()
	m.OnTimeProbability = l.onTime(j.task.Request.Deadline, start)
	switch {
	case state == task.Queued:
		if progress, loading := l.loading(); loading {
			m.Phase, m.LoadProgress = task.PhaseLoading, progress
		}
	case moves:
		m.Phase = task.PhaseMoving
	case j.log.Tokens() == 0:
		m.Phase = task.PhasePrefill
	default:
		m.Phase = task.PhaseDecode
	}
	return m, true
}
