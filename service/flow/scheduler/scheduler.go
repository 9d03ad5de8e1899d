// SPDX-License-Identifier: GPL-3.0-or-later

// Package scheduler runs accepted tasks: one loop per pool pops the queue, places the task on a replica, runs it and
// finishes it. It is the only writer of a task's state.
//
// Locks, in the order they may be held: Scheduler.mu, then job.mu. A lane's estimator has a lock of its own, held alone.
package scheduler

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// attempts is how often a task is run before its replicas are to blame.
const attempts = 3

// Scheduler holds the live tasks. Its methods may be called from several goroutines.
type Scheduler struct {
	o     Options
	lanes atomic.Pointer[map[string]*lane] // replaced, with mu held, and never changed

	mu       sync.Mutex
	live     map[string]*job
	replays  map[string]*replay // of finished tasks that are being read
	stopping bool
	looping  context.Context // of the lanes' loops; nil before Start

	loops   sync.WaitGroup // the lanes
	runs    sync.WaitGroup // tasks being run
	endLoop context.CancelFunc
	endRuns context.CancelCauseFunc
	halt    context.Context // ends with the runs
}

// New makes a scheduler. Start sets its loops going.
func New(o Options) *Scheduler {
	s := &Scheduler{o: o.withDefaults(), live: map[string]*job{}, replays: map[string]*replay{}}
	s.halt, s.endRuns = context.WithCancelCause(context.Background()) // a recovered task's deadline may pass before Start
	s.lanes.Store(&map[string]*lane{})
	for _, p := range o.Pools {
		s.AddPool(p)
	}
	o.Metrics.watch(s)
	return s
}

// AddPool gives a pool its queue. It does nothing for one that has it.
func (s *Scheduler) AddPool(p Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lane(p.ID) != nil || s.stopping {
		return
	}
	lanes := maps.Clone(*s.lanes.Load())
	l := newLane(s, p)
	lanes[p.ID] = l
	s.lanes.Store(&lanes)
	if s.looping != nil {
		s.run(l)
	}
}

// RemovePool takes a pool's queue away, once none of its tasks waits or runs; else it returns false.
func (s *Scheduler) RemovePool(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lane(id)
	if l == nil {
		return true
	}
	for _, j := range s.live {
		if j.lane == l {
			return false
		}
	}
	lanes := maps.Clone(*s.lanes.Load())
	delete(lanes, id)
	s.lanes.Store(&lanes)
	close(l.removed)
	return true
}

func (s *Scheduler) lane(id string) *lane { return (*s.lanes.Load())[id] }

// run sets a lane going. The caller holds mu.
func (s *Scheduler) run(l *lane) {
	loop := s.looping
	s.loops.Go(func() { l.loop(loop, s.halt) })
	l.wake()
}

// Start sets the lanes going. Stop joins what it starts.
func (s *Scheduler) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	loop, endLoop := context.WithCancel(context.Background())
	s.looping, s.endLoop = loop, endLoop
	for _, l := range *s.lanes.Load() {
		s.run(l)
	}
}

// Stop refuses new tasks and lets running ones finish until ctx ends. What is left stays in the ledger for the next start:
// queued tasks, and strict ones that were running. Streams of those are closed without an end, so that their clients come
// back. A best-effort task that was running ends with SHUTTING_DOWN, since nobody could continue its bytes.
func (s *Scheduler) Stop(ctx context.Context) {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.endLoop()
	s.loops.Wait()

	for _, j := range s.jobs() {
		if !j.running() {
			s.leave(j)
		}
	}
	finished := make(chan struct{})
	var waiter sync.WaitGroup
	waiter.Go(func() { s.runs.Wait(); close(finished) })
	select {
	case <-finished:
	case <-ctx.Done():
		for _, j := range s.jobs() {
			if j.task.Determinism == task.Strict {
				s.leave(j)
			} else {
				waiter.Go(func() { s.finish(j, task.Failed, nil, errStopping()) })
			}
		}
	}
	s.endRuns(errStopping())
	waiter.Wait()
}

// leave lets go of a task that the next start takes up.
func (s *Scheduler) leave(j *job) {
	if !j.claim() {
		return
	}
	if <-j.recorded; j.withdrawn() != nil {
		return // it never was accepted, and is ended by who could not record it
	}
	if j.snapshot().State == task.Running {
		s.o.Ledger.Checkpoint(j.task.ID, j.log.Checkpoint())
	}
	j.log.Detach()
	j.stopEngine(errStopping())
	close(j.done)
}

func errStopping() *task.Error {
	return task.Errorf(task.ShuttingDown, "the orchestrator is stopping: send the task again once it is back").Retry(5 * time.Second)
}

// Stopping reports whether Stop was called.
func (s *Scheduler) Stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// Wake tells a pool's lane that its replicas changed.
func (s *Scheduler) Wake(poolID string) {
	if l := s.lane(poolID); l != nil {
		l.wake()
	}
	s.o.Residency.Wake() // whatever changed may have freed memory
}

// Wait predicts how long a task queued now would wait for its start.
func (s *Scheduler) Wait(poolID string, p task.Priority) time.Duration {
	l := s.lane(poolID)
	if l == nil {
		return 0
	}
	return l.predict(l.queue.NextPosition(p))
}

// Backlog is the number of a pool's tasks that wait or run.
func (s *Scheduler) Backlog(poolID string) int {
	l := s.lane(poolID)
	if l == nil {
		return 0
	}
	_, busy := l.ready(nil)
	return l.queue.Depth() + l.again.len() + busy
}

// Depth is the number of a pool's queued tasks of each priority.
func (s *Scheduler) Depth(poolID string) (interactive, batch int) {
	l := s.lane(poolID)
	if l == nil {
		return 0, 0
	}
	q := l.queue
	return q.Len(task.Interactive), q.Len(task.Batch)
}

// Stuck reports whether a pool's queue has stood still for too long (LO-601).
func (s *Scheduler) Stuck(poolID string) bool {
	l := s.lane(poolID)
	return l != nil && l.stuck.Load()
}

// Get returns a task's status.
func (s *Scheduler) Get(ctx context.Context, id string) (task.Status, error) {
	if j := s.job(id); j != nil {
		return j.status(), nil
	}
	r, err := s.finished(ctx, id)
	return r.Status(), err
}

// finished is a task that is no longer live.
func (s *Scheduler) finished(ctx context.Context, id string) (task.Record, error) {
	r, ok, err := s.recorded(ctx, id)
	switch {
	case err != nil:
	case !ok:
		err = task.Errorf(task.NotFound, "there is no task %.128q: GET /v1/tasks lists the recent ones", id)
	case r.State.Final():
	case s.Stopping(): // the next start takes it up
		err = errStopping()
	default: // such as one that an earlier process was running, while the disk is full
		err = errLedger("how the task ended cannot be recorded yet", nil)
	}
	return r, err
}

func (s *Scheduler) recorded(ctx context.Context, id string) (task.Record, bool, error) {
	r, ok, err := s.o.Ledger.Get(ctx, id)
	if err != nil {
		return r, false, errLedger("the record of tasks cannot be read", err)
	}
	return r, ok, nil
}

func errLedger(what string, err error) *task.Error {
	return task.Errorf(task.LedgerUnavailable, "%s: try again in a moment; the orchestrator's log has the cause", what).Retry(time.Second).Because(err)
}

// List returns at most limit tasks, the last accepted first. An empty state means all.
func (s *Scheduler) List(ctx context.Context, state task.State, limit int) ([]task.Status, error) {
	live := slices.DeleteFunc(s.jobs(), func(j *job) bool { return state != "" && j.snapshot().State != state })
	slices.SortFunc(live, func(a, b *job) int { return cmp.Compare(b.task.Seq, a.task.Seq) })
	var found []task.Status
	for _, j := range live[:min(limit, len(live))] { // a queued task's position and start have their price
		found = append(found, j.status())
	}
	recorded, err := s.o.Ledger.List(ctx, state, limit)
	if err != nil {
		return nil, errLedger("the record of tasks cannot be read", err)
	}
	for _, r := range recorded {
		found = append(found, r.Status())
	}
	slices.SortStableFunc(found, func(a, b task.Status) int {
		return cmp.Or(b.AcceptedAt.Compare(a.AcceptedAt), cmp.Compare(a.ID, b.ID))
	})
	// A task that ended between the two looks is in both.
	found = slices.CompactFunc(found, func(a, b task.Status) bool { return a.ID == b.ID })
	return found[:min(limit, len(found))], nil
}

// Cancel ends a task, sealing its log: when it returns, no token is written any more (ORCH-3026). For a task that has
// ended it returns the recorded outcome.
func (s *Scheduler) Cancel(ctx context.Context, id string) (task.CancelResult, error) {
	j := s.job(id)
	if j == nil {
		r, err := s.finished(ctx, id)
		return r.CancelResult(), err
	}
	canceled := task.Errorf(task.Canceled, "the task was canceled by its client")
	if !s.aside(func() { s.finish(j, task.StateCanceled, nil, canceled) }) {
		return task.CancelResult{}, errStopping()
	}
	select {
	case <-j.done:
	case <-ctx.Done():
		return task.CancelResult{}, errLedger("the task ends, but that is not recorded yet", context.Cause(ctx))
	}
	r := j.snapshot()
	switch e := j.withdrawn(); {
	case e != nil:
		return task.CancelResult{}, e
	case !r.State.Final():
		return task.CancelResult{}, errStopping()
	}
	return r.CancelResult(), nil
}

// aside runs f beside the caller, and Stop joins it. It returns false when the scheduler is stopping.
func (s *Scheduler) aside(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.runs.Go(f)
	return true
}

// finish ends a task, with end or with e, unless somebody else does or did.
func (s *Scheduler) finish(j *job, state task.State, end *task.End, e *task.Error) {
	if j.claim() {
		s.end(j, state, end, e)
	}
}

// end ends a task that the caller has claimed: it fences the log, records the outcome, and only then lets anyone see it.
func (s *Scheduler) end(j *job, state task.State, end *task.End, e *task.Error) {
	if j.lane.drop(j) {
		j.lane.wake() // it may have been the head that the lane would not dispatch
	}
	sealedAt, _ := j.log.Seal()
	j.stopEngine(e)
	if <-j.recorded; j.withdrawn() != nil {
		return // it never was accepted
	}
	r := j.snapshot()
	was := r.State
	r.State, r.FinishedAt, r.SealedAt, r.End, r.Err = state, s.o.Now(), sealedAt, end, e
	transcript, digest := j.log.Transcript()
	r.Transcript = transcript
	if end != nil {
		end.Receipt.TranscriptSHA256 = digest
		r.LastEventID = j.log.End(*end)
	} else {
		own := *e // one cause may end many tasks
		own.Engine, own.PoolID = j.task.Engine, j.task.PoolID
		r.Err = &own
		r.LastEventID = j.log.Fail(&own)
	}
	r.Charge = s.o.Sessions.Charge(r, j.decoded(r.FinishedAt))
	if !s.settleRecord(r) { // the next start runs it again
		j.log.Detach()
		close(j.done)
		return
	}
	s.o.Sessions.Settle(r) // before it is seen: who reads the end may send the session's next turn
	// Counted and told before it is seen: who reads the end and then the metrics finds it there.
	s.o.Metrics.finished(r, j.version(), j.firstOutputAt())
	if j.tries() > 1 {
		s.o.Metrics.moved(r)
	}
	s.narrate(r, j.version(), was)
	j.end(r)
	if state == task.StateCanceled {
		flush, stop := context.WithTimeout(context.Background(), s.o.FlushWithin)
		defer stop()
		s.o.Metrics.cutOffs.Add(float64(j.log.Flush(flush)))
	}
	s.mu.Lock()
	delete(s.live, j.task.ID)
	s.mu.Unlock()
	close(j.done)
}

// settleRecord records an outcome. While the ledger cannot, as with a full disk, the outcome waits: nobody may see what a
// crash could undo. It returns false when the orchestrator stops first.
func (s *Scheduler) settleRecord(r task.Record) bool { return s.tryRecord(r) || s.retryRecord(r) }

func (s *Scheduler) tryRecord(r task.Record) bool {
	err := s.o.Ledger.Finish(context.Background(), r)
	if err != nil {
		s.o.Log.Error("an outcome cannot be recorded and waits until it can",
			append(narrated(r, r.Task.EngineVersion).Fields(), zap.Error(err))...)
	}
	return err == nil
}

func (s *Scheduler) retryRecord(r task.Record) bool {
	retry := time.NewTicker(s.o.RecordEvery)
	defer retry.Stop()
	for {
		select {
		case <-retry.C:
		case <-s.halt.Done():
			return false
		}
		if s.o.Ledger.Finish(context.Background(), r) == nil {
			return true
		}
	}
}

// narrate tells of a task's end. Was is the state it was in.
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

func (s *Scheduler) job(id string) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[id]
}

func (s *Scheduler) jobs() []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*job, 0, len(s.live))
	for _, j := range s.live {
		all = append(all, j)
	}
	return all
}
