// SPDX-License-Identifier: GPL-3.0-or-later

// Package residency decides which on-demand models are in memory (LO-503). Decide makes the plan of loads and evictions from a
// snapshot. A Manager takes the snapshot, now and then and whenever something changed, and carries the plan out.
//
// Locks: the Manager's mutex is held alone.
package residency

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

// Models loads and unloads the models of on-demand pools.
type Models interface {
	// Memory is the cards' free memory, and each on-demand pool: where its model is, what it holds and what it wants. The
	// Manager adds its tasks and times.
	Memory() ([]vram.Room, []Tenant)
	// Load asks for a pool's model, and returns at once.
	Load(poolID string)
	// Unload lets a pool's model go, and returns at once. It fails where a task runs on it.
	Unload(poolID string) error
	// LoadTime is how long the pool's last load took, or how long its first is likely to take; 0: nothing tells.
	LoadTime(poolID string) time.Duration
	// Fetching reports whether the pool's model is on its way to the disk, and what share of it is there.
	Fetching(poolID string) (share float64, fetching bool)
	// Failed says why a pool's model cannot be loaded, where another try is far off or hopeless; else nil.
	Failed(poolID string) *task.Error
}

// Queues are the tasks of the pools.
type Queues interface {
	// Demand is what a pool's tasks ask for now; false: the pool has no queue.
	Demand(poolID string) (Demand, bool)
	// Hold keeps a pool from starting further tasks, or lets it start them again.
	Hold(poolID string, hold bool)
	// MakeWay has the lines of batches that run in a pool wait for another turn.
	MakeWay(poolID string)
	// GiveUp ends the tasks that wait for a pool.
	GiveUp(poolID string, why *task.Error)
}

// Demand is what the tasks of one pool ask for.
type Demand struct {
	Interactive time.Time // when the oldest waiting interactive task came; zero: none waits
	Batch       time.Time // the same for batch tasks
	Waiting     int
	Running     int
	ActiveAt    time.Time // when a task last started or ended
}

// Options are what a Manager is made from.
type Options struct {
	Models  Models
	Rules   Rules
	Metrics *Metrics
	Log     *zap.Logger
	Now     func() time.Time
}

// askedFor is how long a pool that was told to load or to leave counts as being on its way, until that shows.
const askedFor = 2 * time.Second

// lookEvery is the time between two looks at the pools when nothing happens.
const lookEvery = time.Second

// Manager plans and swaps from Start to Stop. Its other methods may be called at any time, from several goroutines.
type Manager struct {
	o      Options
	queues Queues // set by Serve
	life   lifecycle.Life
	news   chan struct{} // capacity 1: tasks or replicas changed

	mu        sync.Mutex
	swaps     []task.Swap         // the latest, the oldest first; with mu
	residents map[string]resident // only the loop writes it
}

// resident is what the Manager remembers of an on-demand pool between two looks.
type resident struct {
	state  State
	since  time.Time // when the state began
	lostAt time.Time // when the last look was, if tasks waited for the model then
	asked  request
	held   bool
}

// request is what a pool was told last.
type request struct {
	at   time.Time
	load bool  // else to leave
	from State // where its model was then
}

// state is where a pool's model is. From a request until it shows, the model counts as being on its way.
func (r request) state(shown State, now time.Time) State {
	switch {
	case r.at.IsZero() || shown != r.from || now.Sub(r.at) >= askedFor:
		return shown
	case r.load:
		return Loading
	}
	return Leaving
}

var _ lifecycle.Service = (*Manager)(nil)

// New makes a Manager. Serve names the queues that it loads models for, before anything else is called.
func New(o Options) *Manager {
	return &Manager{o: o, news: make(chan struct{}, 1), residents: map[string]resident{}}
}

// Serve sets the queues, whose tasks ask for the models. It is called once, before Start.
func (m *Manager) Serve(q Queues) { m.queues = q }

// Start sets the loop going.
func (m *Manager) Start(context.Context) error {
	if m.life.Begin() {
		m.life.Go(func(ctx context.Context) {
			contain.Loop(ctx, m.o.Log, "the plan of loads panicked, and begins anew", m.loop)
		})
	}
	return nil
}

// Stop ends the loop and joins it. Models stay where they are.
func (m *Manager) Stop(ctx context.Context) error { return m.life.End(ctx, nil) }

// Wake asks for a look now: tasks or replicas changed.
func (m *Manager) Wake() {
	select {
	case m.news <- struct{}{}:
	default:
	}
}

func (m *Manager) loop(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		m.look(m.o.Now())
		select {
		case <-m.news:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look plans, and carries the plan out.
func (m *Manager) look(now time.Time) {
	cards, pools := m.snapshot(now)
	for _, id := range m.remember(pools, now) {
		m.queues.Hold(id, false)
	}
	plan := Decide(now, cards, tenants(pools), m.o.Rules)
	m.hold(pools, plan)
	m.unload(plan.Unload, pools)
	m.load(plan.Load, pools)
	for i := range pools {
		if p := &pools[i]; p.demand.Waiting > 0 {
			// Otherwise these tasks would wait for their deadlines, or for ever.
			m.alone(p.ID, func() {
				if why := m.o.Models.Failed(p.ID); why != nil {
					m.queues.GiveUp(p.ID, why)
				}
			})
		}
	}
}

// alone does something for one pool. Where that panics, the other pools get what the plan has for them all the same.
func (m *Manager) alone(poolID string, f func()) {
	_ = contain.Do(m.o.Log, "the work for an on-demand pool panicked, and is tried again", f, zap.String("pool_id", poolID)) // the next look does
}

// seen is an on-demand pool at one moment.
type seen struct {
	Tenant
	demand Demand
}

func tenants(pools []seen) []Tenant {
	all := make([]Tenant, len(pools))
	for i := range pools {
		all[i] = pools[i].Tenant
	}
	return all
}

// snapshot is the memory and the on-demand pools now. It changes nothing, so that an explanation and the plan itself see the same.
func (m *Manager) snapshot(now time.Time) ([]vram.Room, []seen) {
	cards, all := m.o.Models.Memory()
	pools := make([]seen, 0, len(all))
	for _, t := range all {
		if d, ok := m.queues.Demand(t.ID); ok {
			pools = append(pools, seen{t, d})
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range pools {
		t, d := &pools[i].Tenant, &pools[i].demand
		r := m.residents[t.ID]
		t.State = r.asked.state(t.State, now)
		if t.Since = r.since; t.State != r.state || r.since.IsZero() {
			t.Since = now
		}
		t.Interactive, t.Batch, t.Busy = d.Interactive, d.Batch, d.Running
		if t.IdleSince = d.ActiveAt; t.Since.After(t.IdleSince) {
			t.IdleSince = t.Since
		}
	}
	return cards, pools
}

// remember keeps what the next look needs, and adds up what tasks lose because their model is not there. It forgets the pools
// that are gone, and returns those of them that were held.
func (m *Manager) remember(pools []seen, now time.Time) (released []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := make(map[string]resident, len(pools))
	for i := range pools {
		p := &pools[i]
		r := m.residents[p.ID]
		r.state, r.since = p.State, p.Since
		if !r.lostAt.IsZero() {
			m.o.Metrics.lost(p.ID, now.Sub(r.lostAt))
		}
		r.lostAt = time.Time{}
		if p.State != Loaded && p.demand.Waiting > 0 {
			r.lostAt = now
		}
		next[p.ID] = r
	}
	for id, r := range m.residents {
		if _, still := next[id]; !still && r.held {
			released = append(released, id)
		}
	}
	m.residents = next
	return released
}

// hold tells the queues which pools may start no further task: those that have to go, and those whose tasks have to end first.
func (m *Manager) hold(pools []seen, plan Plan) {
	for i := range pools {
		id := pools[i].ID
		hold := slices.Contains(plan.Hold, id) || slices.Contains(plan.Unload, id)
		changed := false
		m.change(id, func(r *resident) { changed, r.held = r.held != hold, hold })
		if changed {
			m.queues.Hold(id, hold)
		}
	}
	for _, id := range plan.MakeWay { // at each look, since a line may have started while its pool was not held yet
		m.queues.MakeWay(id)
	}
}

func (m *Manager) unload(ids []string, pools []seen) {
	for _, id := range ids {
		m.alone(id, func() {
			if err := m.o.Models.Unload(id); err != nil { // a task started before the pool was held
				m.o.Log.Debug("a pool was not unloaded", zap.String("pool_id", id), zap.Error(err))
				return
			}
			m.change(id, func(r *resident) { r.asked = request{at: m.o.Now(), from: Loaded} })
			m.o.Metrics.unloaded(id)
			m.note(task.Swap{At: m.o.Now(), PoolID: id, Why: whyOut(id, pools)})
			m.o.Log.Info("an on-demand pool is to leave the memory", zap.String("pool_id", id))
		})
	}
}

func (m *Manager) load(ids []string, pools []seen) {
	for _, id := range ids {
		m.alone(id, func() {
			m.o.Models.Load(id)
			m.change(id, func(r *resident) { r.asked = request{at: m.o.Now(), load: true, from: Absent} })
			m.o.Metrics.loaded(id)
			m.note(task.Swap{At: m.o.Now(), PoolID: id, In: true, Why: whyIn(id, pools)})
			m.o.Log.Info("an on-demand pool is to be loaded", zap.String("pool_id", id))
		})
	}
}

func (m *Manager) change(poolID string, f func(*resident)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.residents[poolID]
	f(&r)
	m.residents[poolID] = r
}

// known is where a pool's model was at the last look.
func (m *Manager) known(poolID string) (resident, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.residents[poolID]
	return r, ok
}

// Wait predicts how long an on-demand pool's model needs until it is in memory, for a task that comes now.
func (m *Manager) Wait(poolID string, now time.Time) time.Duration {
	r, known := m.known(poolID)
	if known && r.state == Loaded {
		return 0
	}
	took := m.o.Models.LoadTime(poolID)
	if known && r.state == Loading {
		return max(took-now.Sub(r.since), 0)
	}
	plan, state, ok := m.ifAsked(poolID, now)
	switch {
	case !ok || state == Loaded:
		return 0
	case state == Loading || slices.Contains(plan.Load, poolID) || len(plan.Unload) > 0:
		return took
	}
	return took + m.o.Rules.MaxWait // at most: the other pools may be done before
}

// Evictions are the pools that would make room for an on-demand pool if a task for it came now (LO-502).
func (m *Manager) Evictions(poolID string) []string {
	plan, _, _ := m.ifAsked(poolID, m.o.Now())
	return plan.Unload
}

// ifAsked is the plan as it would be if an interactive task came for the pool now, and where its model is.
func (m *Manager) ifAsked(poolID string, now time.Time) (plan Plan, state State, ok bool) {
	cards, pools := m.snapshot(now)
	at := slices.IndexFunc(pools, func(p seen) bool { return p.ID == poolID })
	if at < 0 {
		return Plan{}, Absent, false
	}
	p := &pools[at]
	if p.Interactive.IsZero() {
		p.Interactive = now
	}
	return Decide(now, cards, tenants(pools), m.o.Rules), p.State, true
}

// Loading reports whether a pool's model is on its way into memory, and how far it is, from 0 to 1.
func (m *Manager) Loading(poolID string, now time.Time) (progress float64, loading bool) {
	r, known := m.known(poolID)
	if !known || r.state != Loading {
		return 0, false
	}
	const most = 0.99 // it is not there yet
	if share, fetching := m.o.Models.Fetching(poolID); fetching {
		return min(share, most), true
	}
	took := m.o.Models.LoadTime(poolID)
	if took <= 0 {
		return 0, true
	}
	return min(float64(now.Sub(r.since))/float64(took), most), true
}
