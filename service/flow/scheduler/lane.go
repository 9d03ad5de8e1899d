// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/task"
)

// lane is one pool's queue and the loop that empties it.
type lane struct {
	s       *Scheduler
	pool    Pool
	pushing sync.Mutex // held by a submit, so that numbers and places are given in one order
	queue   *queue.Queue[*job]
	retries retries
	doubts  doubts
	news    chan struct{} // capacity 1: the queue or the replicas changed
	rates   rates
	known   []placement.Replica // scratch of the loop, which alone uses it

	removed  chan struct{} // closed once the pool is no longer configured
	stuck    atomic.Bool   // written by the loop
	looping  atomic.Bool   // the loop has begun; before that, no task is dispatched
	yielding atomic.Int32  // slots that lines make free for interactive tasks
	held     atomic.Bool   // no further task is dispatched: the pool's memory is needed for another model
	turns    atomic.Uint64 // how often the loop came round
	activeAt atomic.Int64  // when a task last started or ended, in ns since the epoch
}

// retries are the tasks that ran before and wait for another replica, in the order in which they lost theirs. They come before the
// queue, and its capacity does not count them.
type retries struct {
	mu   sync.Mutex
	jobs []*job
}

func (r *retries) add(j *job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs = append(r.jobs, j)
}

func (r *retries) list() []*job {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.jobs)
}

func (r *retries) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.jobs)
}

// ahead is how many of them come before a newcomer.
func (r *retries) ahead(p task.Priority) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range r.jobs {
		if p != task.Interactive || !j.line() {
			n++
		}
	}
	return n
}

func (r *retries) remove(j *job) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.Index(r.jobs, j)
	if at < 0 {
		return false
	}
	r.jobs = slices.Delete(r.jobs, at, at+1)
	return true
}

// waiting is the number of tasks that wait for a replica.
func (l *lane) waiting() int { return l.queue.Depth() + l.retries.len() }

// active notes that a task started or ended.
func (l *lane) active() { l.activeAt.Store(l.s.o.Now().UnixNano()) }

// drop takes a job out of the queue or the retries. It reports whether the job was in one of them.
func (l *lane) drop(j *job) bool {
	if l.queue.Cancel(j.ticket) {
		l.rates.queue(j, -1)
		return true
	}
	return l.retries.remove(j)
}

// shed ends the task that gives way to a newcomer. It is called once the newcomer is accepted: if the disk is full and the newcomer is
// refused, the other task stays.
func (l *lane) shed(newcomer task.Priority) {
	j, ok := l.queue.Shed(newcomer)
	if !ok {
		return
	}
	l.rates.queue(j, -1)
	// Nobody waits here: the ledger may be slow to take the task's accept, which comes first, and then its outcome.
	l.s.aside(func() {
		<-j.decided
		l.s.fail(j, l.errDropped(), nil)
	}, j.told)
}

func newLane(s *Scheduler, p Pool) *lane {
	p.Prefill = cmp.Or(p.Prefill, p.Idle)
	return &lane{s: s, pool: p, queue: queue.New[*job](p.Capacity, p.Policy), news: make(chan struct{}, 1), removed: make(chan struct{})}
}

func (l *lane) wake() {
	if l.pool.OnDemand {
		l.s.o.Residency.Wake()
	}
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// loop dispatches until ctx ends.
func (l *lane) loop(ctx context.Context) {
	l.wake() // for what came before, or for what a panic left
	every, looked := l.s.o.StuckAfter/4, time.Now()
	watch := time.NewTicker(every)
	defer watch.Stop()
	l.active()
	for {
		l.turns.Add(1)
		select {
		case <-l.news:
		case <-watch.C:
			if awake.Late(time.Since(looked), every) {
				l.active() // nothing stood still but this process
			}
			looked = time.Now()
			l.look()
			continue
		case <-ctx.Done():
			return
		case <-l.removed:
			return
		}
		for ctx.Err() == nil && l.dispatch() {
		}
	}
}

// look raises an alarm if tasks wait and none has started or ended for too long. It withdraws the alarm when one does (LO-601).
func (l *lane) look() {
	now := l.s.o.Now()
	oldest := l.oldest(task.Interactive)
	if batch := l.oldest(task.Batch); oldest.IsZero() || !batch.IsZero() && batch.Before(oldest) {
		oldest = batch
	}
	since := time.Unix(0, l.activeAt.Load())
	if oldest.After(since) {
		since = oldest
	}
	stuck := !oldest.IsZero() && !l.parked() && now.Sub(since) >= l.standstill()
	if l.stuck.Swap(stuck) == stuck {
		return
	}
	if stuck {
		l.s.o.Log.Error("the queue stands still", zap.String("pool_id", l.pool.ID), zap.Duration("for_ms", now.Sub(since)),
			zap.Int("queued", l.queue.Depth()))
	} else {
		l.s.o.Log.Info("the queue moves again", zap.String("pool_id", l.pool.ID))
	}
}

// standstill is how long the queue may stand still. An on-demand pool also gets the time in which other models may have the memory.
func (l *lane) standstill() time.Duration {
	if l.pool.OnDemand {
		return l.s.o.StuckAfter + l.s.o.SwapWithin
	}
	return l.s.o.StuckAfter
}

// parked reports whether somebody took all of the pool's replicas out of service.
func (l *lane) parked() bool {
	replicas := l.replicas(nil)
	return len(replicas) > 0 && !slices.ContainsFunc(replicas, func(r placement.Replica) bool { return !r.Parked })
}

// oldest is when the first task of a priority's line came; zero: there is none.
func (l *lane) oldest(p task.Priority) time.Time {
	at, _ := l.queue.Oldest(p)
	return at
}

// dispatch places a task: one of those that ran before, else the queue's next. A batch's line that ran before comes behind interactive tasks (LO-444). It reports whether another may follow at once.
// Where it returns false, whoever changes the reason wakes the lane: a push, an accept, a slot that is free again, a replica
// that got Ready.
func (l *lane) dispatch() bool {
	if l.held.Load() || l.waiting() == 0 {
		return false
	}
	l.known = l.replicas(l.known[:0])
	var lines []*job
	for _, j := range l.retries.list() {
		switch {
		case j.line(): // it comes behind the interactive tasks
			lines = append(lines, j)
		case l.place(j):
			return true
		default:
			l.makeWay(j)
		}
	}
	j, waits := l.queue.Peek()
	if waits && j.task.Request.Priority == task.Interactive {
		if j.now() != accepted {
			return false
		}
		placed := l.place(j)
		if !placed {
			l.makeWay(j)
		}
		return placed
	}
	return slices.ContainsFunc(lines, l.place) || waits && j.now() == accepted && l.place(j)
}

// place sets a task running, if a replica can take it now.
func (l *lane) place(j *job) bool {
	defer l.unplaced(j)
	s := l.slot(j, l.known)
	if s == nil {
		return false
	}
	begun := false
	defer func() {
		if !begun {
			s.lease.Release()
		}
	}()
	if !l.drop(j) { // somebody ended the task meanwhile
		return true
	}
	run := l.start(j, s)
	if run == nil { // the same, at this moment
		return true
	}
	begun = true
	l.s.work(j, run)
	return true
}

// slot is what a replica holds for a job.
type slot struct {
	lease      Lease
	use        Use  // nil: it is on no card; written where the job begins in it
	considered int  // so many replicas could have taken the job
	binds      bool // the job's bytes depend on this choice of a replica (see recordDispatch)
	choosy     bool // what the job leaves in the slot may matter to others like it
	asked      bool // the engine was given the job; written by its run
	makesWay   bool // the run in it was ended for an interactive task; guarded by the job's lock
}

// slot takes one for a job on one of these replicas, which are all of the pool's; nil: none can take it now.
func (l *lane) slot(j *job, replicas []placement.Replica) *slot {
	need := j.need(replicas)
	at, considered := placement.Place(replicas, need)
	l.s.o.Metrics.placed(j.task, at >= 0, considered)
	if at < 0 {
		return nil
	}
	lease, err := l.s.o.Replicas.Lease(replicas[at].ID)
	if err != nil { // the replica changed since the snapshot, and whoever changed it wakes the lane
		l.s.o.Log.Debug("lease refused", zap.String("replica_id", replicas[at].ID), zap.Error(err))
		return nil
	}
	return &slot{
		lease: lease, considered: considered, choosy: j.choosy(replicas),
		binds: need.Fingerprint == "" && differs(replicas, replicas[at].Fingerprint),
	}
}

// start makes a job one that runs in a slot, and returns what runs it; nil: somebody has ended the job.
func (l *lane) start(j *job, s *slot) (run func()) {
	ctx, cancel := context.WithCancelCause(l.s.halt)
	r, now := s.lease.Replica(), l.s.o.Now()
	s.use = l.s.o.Energy.Begin(r.Cards, now)
	if !j.begin(s, r, s.use, now, cancel) {
		cancel(nil)
		l.idle(s)
		return nil
	}
	l.active()
	return func() {
		defer l.vacated(j, s)
		defer s.lease.Release()
		defer l.idle(s)
		defer cancel(nil)
		if j.recorded() {
			l.run(ctx, cancel, j, s)
		} else {
			l.pass(ctx, cancel, j, s)
		}
	}
}

// idle says that nothing is computed in a slot any more.
func (l *lane) idle(s *slot) {
	if s.use != nil {
		s.use.End(l.s.o.Now())
	}
}

// differs reports whether one of the replicas, in whatever state, may give other bytes than those of this fingerprint. One that was
// never Ready may: nobody knows its fingerprint.
func differs(replicas []placement.Replica, fingerprint string) bool {
	return slices.ContainsFunc(replicas, func(r placement.Replica) bool { return r.Fingerprint != fingerprint })
}

// errFull adds to a full queue's refusal when a place is likely to be free (ORCH-2007).
func (l *lane) errFull(err error) error {
	e := task.AsError(err)
	e.Message = fmt.Sprintf("the queue of pool '%s' is full: %d tasks wait; send the task again later", l.pool.ID, l.queue.Places())
	e.Engine, e.PoolID = l.pool.Engine, l.pool.ID
	return e.Retry(l.perPlace())
}

func (l *lane) errDropped() *task.Error {
	e := task.Errorf(task.QueueFullDropLRU,
		"the queue of pool '%s' was full, and this task, the oldest in line, gave way to a newer one: send it again later", l.pool.ID)
	e.PolicyLabel = string(l.pool.Policy)
	return e.Retry(l.perPlace())
}
