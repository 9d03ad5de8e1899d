// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// job is a live task.
type job struct {
	lane   *lane
	task   task.Task    // set by admit, then constant
	ticket queue.Ticket // set by admit
	log    *stream.Log  // set by admit

	mu          sync.Mutex
	accepted    bool // recorded: may be dispatched
	state       task.State
	replica     Replica
	startedAt   time.Time
	firstOutput time.Time
	tried       int                     // runs so far, one of an earlier process included
	wants       string                  // the fingerprint a further run needs; empty: any
	cancelRun   context.CancelCauseFunc // not nil while a replica runs it
	deadline    *time.Timer             // where the task has one
	patience    *time.Timer             // while it waits for a replica to go on with
	readers     int                     // of its stream
	visits      int                     // readers so far
	absence     *time.Timer             // while its last reader may come back, where it ends without one
	warm        bool                    // the engine took part of the prompt from KV, in this run
	claimed     bool                    // somebody is ending it
	refusal     *task.Error             // it could not be recorded, and never was accepted
	recorded    chan struct{}           // closed once it is recorded, or could not be
	record      task.Record             // once final
	done        chan struct{}           // closed once final, or left to the next start
}

func newJob(l *lane, t task.Task) *job {
	return &job{lane: l, task: t, recorded: make(chan struct{}), done: make(chan struct{})}
}

// admit gives a job its place. Scheduler.mu is held, and the lane doesn't touch the job before accept.
func (j *job) admit(ticket queue.Ticket, position int) {
	j.ticket, j.state = ticket, task.Queued
	j.task.QueuePosition, j.task.PredictedStart, j.task.Backoff = position, j.lane.predict(position), j.lane.backoff()
	j.log = stream.New(j.task.Started())
}

// accept lets the lane have the job, and its deadline run.
func (j *job) accept(now time.Time, expire func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.accepted = true
	close(j.recorded)
	if d := j.task.Request.Deadline; d > 0 && !j.claimed {
		j.deadline = time.AfterFunc(d-now.Sub(j.task.AcceptedAt), expire)
	}
}

// withdraw ends a job that could not be recorded.
func (j *job) withdraw(e *task.Error) {
	j.mu.Lock()
	j.claimed, j.refusal = true, e
	j.mu.Unlock()
	j.log.Fail(e)
	j.log.Publish()
	close(j.recorded)
	close(j.done)
}

// withdrawn says why a job was never accepted, or nil.
func (j *job) withdrawn() *task.Error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.refusal
}

// dispatchable reports whether the lane may have the job: it is recorded, and nobody has ended it.
func (j *job) dispatchable() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.accepted && !j.claimed
}

// start marks the job as run by a replica; cancel ends that run. It returns false if the job was ended before.
func (j *job) start(r Replica, now time.Time, cancel context.CancelCauseFunc) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.claimed {
		return false
	}
	if j.patience != nil {
		j.patience.Stop()
	}
	if j.startedAt.IsZero() {
		j.startedAt = now
	}
	j.state, j.replica, j.cancelRun, j.warm = task.Running, r, cancel, false
	j.tried++
	return true
}

// waits makes the job, whose run broke off, wait for another replica until patience ends and over says that this was it.
func (j *job) waits(fingerprint string, patience time.Duration, over func() bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cancelRun, j.wants = nil, fingerprint
	if j.claimed {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(patience, func() {
		if over() {
			return
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		if !j.claimed && j.patience == timer {
			timer.Reset(patience)
		}
	})
	j.patience = timer
}

// need is what the job asks of its next replica.
func (j *job) need() placement.Need {
	j.mu.Lock()
	defer j.mu.Unlock()
	q := &j.task.Request
	need := placement.Need{
		Strict: j.task.Determinism == task.Strict, Fingerprint: j.wants, Ctx: max(q.Ctx, j.task.PromptTokens+max(q.MaxTokens, 1)),
	}
	if reuse(&j.task) {
		need.Warm = j.lane.s.o.Sessions.Warm(q.SessionID)
	}
	return need
}

func (j *job) running() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cancelRun != nil
}

// tries is the number of runs so far.
func (j *job) tries() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tried
}

// claim makes the caller the one who ends the job. It returns false if another is.
func (j *job) claim() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.claimed {
		return false
	}
	j.claimed = true
	for _, timer := range []*time.Timer{j.deadline, j.patience, j.absence} {
		if timer != nil {
			timer.Stop()
		}
	}
	return true
}

// read counts a reader in.
func (j *job) read() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.readers++
	j.visits++
	if j.absence != nil {
		j.absence.Stop()
	}
}

// left counts a reader out. Where the task is to end with its client, over is called unless another reader comes in time.
func (j *job) left(patience time.Duration, over func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.readers--; j.readers > 0 || j.claimed || j.task.Request.OnDisconnect != task.CancelIt {
		return
	}
	visits := j.visits
	j.absence = time.AfterFunc(patience, func() {
		j.mu.Lock()
		back := j.visits > visits
		j.mu.Unlock()
		if !back {
			over()
		}
	})
}

// stopEngine ends the run, if there is one.
func (j *job) stopEngine(cause error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cancelRun != nil {
		j.cancelRun(cause)
	}
}

// end publishes the outcome.
func (j *job) end(r task.Record) {
	j.mu.Lock()
	j.state, j.record = r.State, r
	j.mu.Unlock()
	j.log.Publish()
}

// outputAt notes when the first output came. It returns false for that of a later attempt.
func (j *job) outputAt(now time.Time) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.firstOutput.IsZero() {
		return false
	}
	j.firstOutput = now
	return true
}

// decoded is how long the job's tokens took until now.
func (j *job) decoded(now time.Time) time.Duration {
	if at := j.firstOutputAt(); !at.IsZero() {
		return now.Sub(at)
	}
	return 0
}

// cached notes how much of the prompt the engine took from KV.
func (j *job) cached(tokens int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.warm = tokens > 0
}

func (j *job) isWarm() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.warm
}

func (j *job) firstOutputAt() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.firstOutput
}

// version is that of the engine the task runs on, or was admitted for.
func (j *job) version() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return cmp.Or(j.replica.EngineVersion, j.task.EngineVersion)
}

// snapshot is the job's record now.
func (j *job) snapshot() task.Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state.Final() {
		return j.record
	}
	return task.Record{
		Task: j.task, State: j.state, ReplicaID: j.replica.ID, Fingerprint: j.replica.Fingerprint, StartedAt: j.startedAt,
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
		return 0, startedAt.Sub(j.task.AcceptedAt)
	}
	position, _ = j.lane.queue.Position(j.ticket)
	return position, j.lane.s.o.Now().Sub(j.task.AcceptedAt) + j.lane.predict(position)
}

// figures are those of a `metrics` frame, while there are any. Every stream asks each second, so it makes no snapshot.
func (j *job) figures() (task.Metrics, bool) {
	j.mu.Lock()
	state, startedAt, tried := j.state, j.startedAt, j.tried
	j.mu.Unlock()
	if state.Final() {
		return task.Metrics{}, false
	}
	m := task.Metrics{
		Phase: task.PhaseQueued, QueueDepth: j.lane.queue.Depth(), KVWarmth: j.isWarm(), Failover: max(tried-1, 0),
		Budgets: j.lane.s.o.Sessions.Rests(j.task.Request.SessionID, j.task.Request.Actor),
	}
	var start time.Duration
	m.QueuePosition, start = j.place(startedAt)
	m.PredictedStartMS = start.Milliseconds()
	m.OnTimeProbability = j.lane.onTime(j.task.Request.Deadline, start)
	switch {
	case state == task.Queued:
		if progress, loading := j.lane.loading(); loading {
			m.Phase, m.LoadProgress = task.PhaseLoading, progress
		}
	case j.log.Tokens() == 0:
		m.Phase = task.PhasePrefill
	default:
		m.Phase = task.PhaseDecode
	}
	return m, true
}

// recorded is the job of a finished task, for its readers.
func recorded(r task.Record, l *lane) *job {
	return &job{lane: l, task: r.Task, state: r.State, record: r, log: stream.Rebuild(r.Task.Started(), r)}
}

// told are the fields of a log line about the job.
func (j *job) told() []zap.Field {
	n := narrated(j.snapshot(), j.version())
	n.TokensOut = j.log.Tokens()
	return n.Fields()
}

// narrated is what the log says of a task.
func narrated(r task.Record, version string) observe.Job {
	q := r.Task.Request
	j := observe.Job{
		ID: r.Task.ID, SessionID: q.SessionID, CorrelationID: q.CorrelationID, Actor: q.Actor, Engine: r.Task.Engine,
		EngineVersion: version, PoolID: r.Task.PoolID, ReplicaID: r.ReplicaID, Priority: q.Priority, Workload: q.Workload,
		Model: r.Task.ModelID, QueuePosition: r.Task.QueuePosition, PredictedStart: r.Task.PredictedStart,
		TokensIn: r.Task.PromptTokens, TokensOut: len(r.Transcript.Ends),
	}
	if r.End != nil {
		j.TokensIn, j.TokensOut = r.End.TokensIn, r.End.TokensOut
		j.DecodeTime = time.Duration(r.End.DecodeTimeMS) * time.Millisecond
	}
	return j
}
