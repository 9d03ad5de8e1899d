// SPDX-License-Identifier: GPL-3.0-or-later

// Package scheduler runs accepted tasks: one loop per pool takes the next task of the queue, places it on a replica, runs it
// and ends it. It is the only writer of a task's state.
//
// A task that finds a free slot, while nobody waits, has no turn to wait for: its submit takes the slot, and it runs at once. The ledger records its accept and
// its dispatch in one commit, and no event of it leaves the run before that.
//
// Locks: the lock of a lane's retries may be taken with job.mu or lane.pushing held. Scheduler.mu and the locks of a lane's rates and doubts are held alone. With lane.pushing held, the ledger
// gives a task its number and the queue its place, both in memory. Nothing else of another package is called with a lock held, and no disk is read.
package scheduler

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/flow/prefix"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

// attempts is how often a task is run before its replicas are to blame.
const attempts = 3

// Scheduler holds the live tasks. Its methods may be called from several goroutines.
type Scheduler struct {
	o       Options
	ends    atomic.Uint64 // tasks that this process has let go of
	outlook outlook
	lanes   atomic.Pointer[map[string]*lane] // replaced, with mu held, and never changed
	// prefixes are what the replicas' slots were asked last.
	prefixes prefix.Map

	mu       sync.Mutex
	live     map[string]*job
	arriving map[string]chan struct{} // task ids that a submit has reserved; closed once its job is live, or is not to be
	replays  map[string]*replay       // of finished tasks that are being read
	started  bool                     // a new lane loops at once
	stopping bool

	loops   lifecycle.Life // the lanes'
	runs    sync.WaitGroup // what runs and ends tasks; once stopping is set, only these and the loops add to it
	halt    context.Context
	endRuns context.CancelCauseFunc // ends halt, the context of all runs
	stopped chan struct{}           // closed once nothing runs any more
}

var _ lifecycle.Service = (*Scheduler)(nil)

// New makes a scheduler. Start sets its loops going. Tasks may be submitted, and end, before that.
func New(o Options) *Scheduler {
	s := &Scheduler{
		o: o.withDefaults(), live: map[string]*job{}, arriving: map[string]chan struct{}{}, replays: map[string]*replay{},
		stopped: make(chan struct{}),
	}
	s.halt, s.endRuns = context.WithCancelCause(context.Background())
	s.lanes.Store(&map[string]*lane{})
	for _, p := range o.Pools {
		s.AddPool(p)
	}
	s.recall()
	o.Metrics.watch(s)
	return s
}

// AddPool gives a pool its queue. It does nothing for one that has it.
func (s *Scheduler) AddPool(p Pool) {
	l := newLane(s, p)
	s.mu.Lock()
	known := s.lane(p.ID) != nil || s.stopping
	if !known {
		lanes := maps.Clone(*s.lanes.Load())
		lanes[p.ID] = l
		s.lanes.Store(&lanes)
	}
	started := s.started
	s.mu.Unlock()
	if started && !known {
		s.begin(l)
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

// begin sets a lane's loop going.
func (s *Scheduler) begin(l *lane) {
	l.looping.Store(true)
	s.loops.Go(func(ctx context.Context) {
		contain.Loop(ctx, s.o.Log, "the loop of a pool's queue panicked, and begins anew", l.loop, zap.String("pool_id", l.pool.ID))
	})
}

// Wake tells a pool's lane that its replicas changed.
func (s *Scheduler) Wake(poolID string) {
	if l := s.lane(poolID); l != nil {
		l.wake()
	}
	s.o.Residency.Wake() // whatever changed may have freed memory
}

// turnLook is how often Turns looks whether a loop came round.
const turnLook = 10 * time.Millisecond

// Turns returns once the loop of every pool has come round, and an error that names the first that has not when ctx ends. So a loop that waits for
// somebody, which none of them ever should, is found (LO-635).
func (s *Scheduler) Turns(ctx context.Context) error {
	for id, l := range *s.lanes.Load() {
		for before := l.turns.Load(); l.looping.Load() && l.turns.Load() == before && s.lane(id) == l && !s.Stopping(); {
			l.wake()
			if !lifecycle.Pause(ctx, turnLook) {
				return fmt.Errorf("the queue of pool %s does not turn: %w", id, context.Cause(ctx))
			}
		}
	}
	return nil
}

// Wait predicts how long a task queued now would wait for its start.
func (s *Scheduler) Wait(poolID string, p task.Priority) time.Duration {
	l := s.lane(poolID)
	if l == nil {
		return 0
	}
	return l.predict(l.queue.NextPosition(p), p)
}

// Backlog is the number of a pool's tasks that wait or run.
func (s *Scheduler) Backlog(poolID string) int {
	l := s.lane(poolID)
	if l == nil {
		return 0
	}
	return l.waiting() + l.busy()
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

// keep makes a job one of the live ones, and sets it running where it has a slot already; run is nil where it has none. It refuses one of a
// pool that is gone, and all of them once the scheduler stops.
func (s *Scheduler) keep(j *job, run func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
		return errStopping()
	case s.lane(j.task.PoolID) != j.lane:
		return errRemoved(j.task.PoolID)
	}
	s.live[j.task.ID] = j
	if run != nil {
		s.work(j, run)
	}
	return nil
}

func (s *Scheduler) forget(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[j.task.ID] == j {
		delete(s.live, j.task.ID)
		s.ends.Add(1)
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

// aside runs f beside the caller, and Stop joins it. It returns false when the scheduler is stopping. Told says in the log whose work it is,
// where f panics.
func (s *Scheduler) aside(f func(), told func() []zap.Field) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.runs.Go(func() {
		defer s.caught(told)
		f()
	})
	return true
}
