// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/task"
)

// Models loads and unloads the models of on-demand pools.
type Models interface {
	// Memory is the cards' free memory, and of each on-demand pool where its model is, what it holds and what it wants.
	// Its tasks and times are left to the scheduler.
	Memory() ([]residency.Card, []residency.Tenant)
	// Load asks for a pool's model, and returns at once.
	Load(poolID string)
	// Unload lets a pool's model go, and returns at once. It fails where a task runs on it.
	Unload(poolID string) error
	// LoadTime is how long the pool's last load took, or its first is likely to by what others took; 0: nothing tells.
	LoadTime(poolID string) time.Duration
	// Fetching reports whether the pool's model is on its way to the disk, and what share of it is there.
	Fetching(poolID string) (share float64, fetching bool)
	// Failed says why a pool's model cannot be loaded, where trying again by itself is no hope or only a distant one; else nil.
	Failed(poolID string) *task.Error
}

// askedFor is how long a pool that was told to load or to leave is taken for on its way, until it shows.
const askedFor = 2 * time.Second

// swapEvery is the time between two looks at the on-demand pools where nothing happens.
const swapEvery = time.Second

// swapper decides which on-demand pools are in memory (LO-503): it gathers what residency.Decide must know, and does what
// that says. Its goroutine alone writes the residents, and alone loads and unloads.
type swapper struct {
	s    *Scheduler
	news chan struct{} // capacity 1

	mu        sync.Mutex
	residents map[string]*resident
}

// resident is what the swapper remembers of an on-demand pool.
type resident struct {
	lane   *lane
	state  residency.State
	since  time.Time // when it came to be so
	lostAt time.Time // since when tasks wait for its model; zero while none do
	asked  ask
}

// ask is what a pool was told last.
type ask struct {
	at   time.Time
	in   bool
	from residency.State // where its model was then
}

// state is where a pool's model is, or is on its way to since it was told.
func (a ask) state(shown residency.State, now time.Time) residency.State {
	switch {
	case a.at.IsZero() || shown != a.from || now.Sub(a.at) >= askedFor:
		return shown
	case a.in:
		return residency.Loading
	}
	return residency.Leaving
}

func newSwapper(s *Scheduler) *swapper {
	return &swapper{s: s, news: make(chan struct{}, 1), residents: map[string]*resident{}}
}

func (w *swapper) add(l *lane) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.pool.OnDemand {
		w.residents[l.pool.ID] = &resident{lane: l}
	}
}

func (w *swapper) remove(poolID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.residents, poolID)
}

func (w *swapper) wake() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// loop plans until ctx ends.
func (w *swapper) loop(ctx context.Context) {
	tick := time.NewTicker(swapEvery)
	defer tick.Stop()
	for {
		if len(w.lanes()) > 0 {
			w.do(w.plan(w.s.o.Now()))
			w.giveUp()
		}
		select {
		case <-w.news:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// plan is what placement says of the pools as they are now.
func (w *swapper) plan(now time.Time) residency.Plan {
	cards, tenants := w.tenants(now)
	return residency.Decide(now, cards, tenants, w.s.o.Swap)
}

// tenants completes the pools' memory by their tasks and times.
func (w *swapper) tenants(now time.Time) ([]residency.Card, []residency.Tenant) {
	cards, tenants := w.s.o.Models.Memory()
	w.mu.Lock()
	defer w.mu.Unlock()
	tenants = slices.DeleteFunc(tenants, func(t residency.Tenant) bool { return w.residents[t.ID] == nil })
	for i := range tenants {
		t := &tenants[i]
		r := w.residents[t.ID]
		l := r.lane
		t.State = r.asked.state(t.State, now)
		if r.state != t.State || r.since.IsZero() {
			r.state, r.since = t.State, now
		}
		t.Since, t.IdleTTL = r.since, l.pool.IdleTTL
		t.Interactive, t.Batch = l.oldest(task.Interactive), l.oldest(task.Batch)
		for _, j := range l.again.list() { // they ran before: nobody is ahead of them
			t.Interactive = j.task.AcceptedAt
		}
		_, t.Busy = l.ready(nil)
		if t.IdleSince = time.Unix(0, l.moved.Load()); r.since.After(t.IdleSince) {
			t.IdleSince = r.since
		}
		w.count(r, l, t, now)
	}
	return cards, tenants
}

// count adds up what the tasks of a pool lose because its model is not there.
func (w *swapper) count(r *resident, l *lane, t *residency.Tenant, now time.Time) {
	waits := t.State != residency.Loaded && l.queue.Depth() > 0
	if !r.lostAt.IsZero() {
		w.s.o.Metrics.swapLost(l.pool.ID, now.Sub(r.lostAt))
	}
	r.lostAt = time.Time{}
	if waits {
		r.lostAt = now
	}
}

func (w *swapper) do(plan residency.Plan) {
	for id, l := range w.lanes() {
		held := slices.Contains(plan.Hold, id) || slices.Contains(plan.Unload, id)
		if l.held.Swap(held) && !held {
			l.wake()
		}
	}
	for _, id := range plan.Unload {
		if err := w.s.o.Models.Unload(id); err != nil { // a task got in before the pool was held
			w.s.o.Log.Debug("a pool was not unloaded", zap.String("pool_id", id), zap.Error(err))
			continue
		}
		w.told(id, ask{at: w.s.o.Now(), from: residency.Loaded})
		w.s.o.Metrics.swapped(id, false)
		w.s.o.Log.Info("an on-demand pool is to leave the memory", zap.String("pool_id", id))
	}
	for _, id := range plan.Load {
		w.s.o.Models.Load(id)
		w.told(id, ask{at: w.s.o.Now(), in: true, from: residency.Absent})
		w.s.o.Metrics.swapped(id, true)
		w.s.o.Log.Info("an on-demand pool is to be loaded", zap.String("pool_id", id))
	}
}

// giveUp ends the tasks that wait for a model which cannot be loaded (LO-503): else each would wait for its deadline, or for ever.
func (w *swapper) giveUp() {
	for id, l := range w.lanes() {
		if l.queue.Depth()+l.again.len() == 0 {
			continue
		}
		if e := w.s.o.Models.Failed(id); e != nil {
			l.giveUp(e)
		}
	}
}

func (w *swapper) told(poolID string, a ask) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.residents[poolID]; r != nil {
		r.asked = a
	}
}

// lanes are those of the on-demand pools.
func (w *swapper) lanes() map[string]*lane {
	w.mu.Lock()
	defer w.mu.Unlock()
	lanes := make(map[string]*lane, len(w.residents))
	for id, r := range w.residents {
		lanes[id] = r.lane
	}
	return lanes
}

// wait predicts how long a pool's model needs until it is there; 0 for a pool that is not on demand.
func (w *swapper) wait(l *lane, now time.Time) time.Duration {
	state, since, ok := w.of(l.pool.ID)
	took := time.Duration(0)
	if ok && state != residency.Loaded {
		took = w.s.o.Models.LoadTime(l.pool.ID)
	}
	switch {
	case !ok || state == residency.Loaded:
		return 0
	case state == residency.Loading:
		return max(took-now.Sub(since), 0)
	}
	plan, state := w.ifAsked(l, now)
	if state == residency.Loading || slices.Contains(plan.Load, l.pool.ID) || len(plan.Unload) > 0 { // or it was told to load just now
		return took
	}
	return took + w.s.o.Swap.MaxWait // at the latest: the others may be done before
}

// ifAsked is the plan as it would be with an interactive task for the pool, and where its model is by then.
func (w *swapper) ifAsked(l *lane, now time.Time) (plan residency.Plan, state residency.State) {
	cards, tenants := w.s.o.Models.Memory()
	lanes := w.lanes()
	for i := range tenants {
		t := &tenants[i]
		other := lanes[t.ID]
		if other == nil {
			continue
		}
		t.Interactive, t.Batch = other.oldest(task.Interactive), other.oldest(task.Batch)
		_, t.Busy = other.ready(nil)
		if other != l {
			continue
		}
		if state = t.State; t.Interactive.IsZero() {
			t.Interactive = now
		}
	}
	return residency.Decide(now, cards, tenants, w.s.o.Swap), state
}

// phase is what a queued task's stream is told, and how far its pool's load is.
func (w *swapper) phase(l *lane, now time.Time) (task.Phase, float64) {
	state, since, ok := w.of(l.pool.ID)
	if !ok || state != residency.Loading {
		return task.PhaseQueued, 0
	}
	if share, fetching := w.s.o.Models.Fetching(l.pool.ID); fetching {
		return task.PhaseLoading, min(share, 0.99)
	}
	took := w.s.o.Models.LoadTime(l.pool.ID)
	if took <= 0 {
		return task.PhaseLoading, 0
	}
	return task.PhaseLoading, min(float64(now.Sub(since))/float64(took), 0.99)
}

func (w *swapper) of(poolID string) (residency.State, time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.residents[poolID]
	if r == nil {
		return 0, time.Time{}, false
	}
	return r.state, r.since, true
}
