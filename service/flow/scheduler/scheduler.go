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

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// Replicas is what the scheduler asks of the pools.
type Replicas interface {
	// Snapshot appends the pool's replicas to into.
	Snapshot(poolID string, into []placement.Replica) []placement.Replica
	// Lease takes a slot of a Ready replica, or fails typed.
	Lease(replicaID string) (Lease, error)
	// EngineVersion is that of the pool's replicas, empty until one was Ready.
	EngineVersion(poolID string) string
}

// Lease is one slot of one replica, held for one task.
type Lease interface {
	Engine() engine.Engine
	Replica() Replica
	// Lost is closed when the replica's worker is gone.
	Lost() <-chan struct{}
	// Others counts the other leases of the same worker.
	Others() int
	// KeepWarm asks that the replica's KV cache is not overwritten for a while but by tasks.
	KeepWarm()
	// Replace kills the worker and starts another.
	Replace(reason string)
	// Release gives the slot back; only the first call counts.
	Release()
}

// Replica is what a receipt and the logs say of a replica.
type Replica struct {
	ID            string
	EngineVersion string
	ModelDigest   string
	Fingerprint   string
	Slots         int // of its engine
}

// Ledger is the record of accepted tasks. Each call returns when what it was told is as durable as the ledger makes it.
type Ledger interface {
	Accept(ctx context.Context, t task.Task) error
	Dispatch(ctx context.Context, d task.Dispatch) error
	// Started and Checkpoint return at once: they are notes, which a crash may lose.
	Started(d task.Dispatch)
	Checkpoint(id string, c task.Checkpoint)
	Finish(ctx context.Context, r task.Record) error
	Get(ctx context.Context, id string) (task.Record, bool, error)
	// List returns finished tasks, the last to finish first.
	List(ctx context.Context, state task.State, limit int) ([]task.Record, error)
	// NextSeq hands out the sequence number of a task that is about to be queued. Numbers only grow. It returns at once.
	NextSeq() (uint64, error)
}

// Sessions keeps the turns, the budgets and the KV of sessions. Its calls return at once; some are made with Scheduler.mu held.
type Sessions interface {
	// Admit takes a task's turn and its part of the budgets, or refuses it. Each Admit is followed by a Withdraw, for a task that
	// was not accepted, or a Settle.
	Admit(t *task.Task) error
	Withdraw(t task.Task)
	// Recover takes up a task that an earlier process admitted.
	Recover(t task.Task)
	// Charge is what a task's end costs. Decode is how long it decoded, where the record has no End.
	Charge(r task.Record, decode time.Duration) *task.Charge
	// Settle ends the turn of a task whose record, with its charge, is in the ledger.
	Settle(r task.Record)
	// Rests are what is left of the budgets.
	Rests(sessionID, actor string) task.Budgets
	// Warm is the replica that should hold a session's KV, or empty.
	Warm(sessionID string) string
	// Began and Kept say who has a slot's KV. Began returns whether it should be that of the task's session.
	Began(t task.Task, replicaID string, slots int) (warm bool)
	Kept(t task.Task, replicaID string, lost <-chan struct{}, kv task.KV)
}

// Pool is what the scheduler must know of a pool.
type Pool struct {
	ID       string
	Engine   string
	Capacity int
	Policy   queue.Policy
	Wall     time.Duration // longest run of a task
	Idle     time.Duration // longest wait for the next token
	OnDemand bool          // loaded when a task needs it (LO-503)
	IdleTTL  time.Duration // of an on-demand pool: unloaded when nobody needed it for so long; 0: only to make room
}

// Options are what a Scheduler is made from.
type Options struct {
	Pools    []Pool
	Replicas Replicas
	Models   Models // needed where a pool is on demand
	Swap     placement.SwapRules
	Ledger   Ledger
	Sessions Sessions // nil: tasks have no sessions and no budgets
	Narrator *observe.Narrator
	Metrics  *Metrics
	Log      *zap.Logger
	Now      func() time.Time
	// FlushWithin bounds how long a cancel waits for subscribers to take the tokens they are owed. 0: 250 ms.
	FlushWithin time.Duration
	// IdleWithin is how long a cancelled slot may stay busy before its worker is replaced. 0: 2 s (ORCH-3026).
	IdleWithin time.Duration
	// MoveWithin is how long a task whose replica died, or that an earlier process ran, waits for a replica that gives
	// the same bytes. 0: 1 min.
	MoveWithin time.Duration
	// ReturnWithin is how long a task that ends with its client waits for that to come back. 0: 5 s.
	ReturnWithin time.Duration
	// StuckAfter is how long a queue may stand still before that is an alarm (LO-601). 0: 2 min.
	StuckAfter time.Duration
	// MicroBatch joins the writes of tokens that come within it. 0: none.
	MicroBatch time.Duration
	// RecordEvery is the time between tries to record an outcome while the ledger cannot. 0: 1 s.
	RecordEvery time.Duration
}

// attempts is how often a task is run before its replicas are to blame.
const attempts = 3

// Scheduler holds the live tasks. Its methods may be called from several goroutines.
type Scheduler struct {
	o     Options
	lanes atomic.Pointer[map[string]*lane] // replaced, with mu held, and never changed
	swaps *swapper

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
	o.FlushWithin = cmp.Or(o.FlushWithin, 250*time.Millisecond)
	o.IdleWithin = cmp.Or(o.IdleWithin, 2*time.Second)
	o.MoveWithin = cmp.Or(o.MoveWithin, time.Minute)
	o.ReturnWithin = cmp.Or(o.ReturnWithin, 5*time.Second)
	o.StuckAfter = cmp.Or(o.StuckAfter, 2*time.Minute)
	o.RecordEvery = cmp.Or(o.RecordEvery, time.Second)
	if o.Sessions == nil {
		o.Sessions = noSessions{}
	}
	s := &Scheduler{o: o, live: map[string]*job{}, replays: map[string]*replay{}}
	s.halt, s.endRuns = context.WithCancelCause(context.Background()) // a recovered task's deadline may pass before Start
	s.lanes.Store(&map[string]*lane{})
	s.swaps = newSwapper(s)
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
	s.swaps.add(l)
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
	s.swaps.remove(id)
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
	if s.o.Models != nil {
		s.loops.Go(func() { s.swaps.loop(loop) })
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
	s.swaps.wake()
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

// Evictions are the pools that would make room for an on-demand pool if a task for it came now (LO-502).
func (s *Scheduler) Evictions(poolID string) []string {
	l := s.lane(poolID)
	if l == nil || !l.pool.OnDemand {
		return nil
	}
	plan, _ := s.swaps.ifAsked(l, s.o.Now())
	return plan.Unload
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
