// SPDX-License-Identifier: GPL-3.0-or-later

// Package session keeps sessions: their turns, their time, and where the KV of their last turn is (ORCH-3021, ORCH-3009). Their
// budgets are accounts of package budget.
package session

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

// Ledger is the durable record. Turns are recorded with the tasks that take them.
type Ledger interface {
	KeepSession(ctx context.Context, s task.Session) error
	DropSessions(ctx context.Context, sessions []task.Session) error
	Sessions(ctx context.Context) ([]task.Session, error)
}

// Accounts are the sessions' budgets. They are called with Manager.mu held.
type Accounts interface {
	// Open gives a session its account; Close ends it.
	Open(sessionID string, budget, spent task.Amount, ends time.Time)
	Close(sessionID string)
	// Rests are what is left for a session and an actor.
	Rests(sessionID, actor string) task.Budgets
}

// Engines are the engines of the replicas. Only they know where a session's KV is.
type Engines interface {
	// Slot returns what a slot holds. It returns false where the engine does not tell, or is gone.
	Slot(ctx context.Context, replicaID string, slot int) (Slot, bool)
	// Erase empties a slot, unless it has had another job since.
	Erase(ctx context.Context, replicaID string, slot, job int) error
}

// Slot is one slot of an engine. No two jobs of an engine have the same number.
type Slot struct {
	Job   int   // the last one
	Bytes int64 // 0: unknown
}

// Options are what a Manager is made from.
type Options struct {
	TTL      time.Duration
	MaxTurns int
	Max      int         // how many sessions are kept at most
	Budget   task.Amount // of a session that was created without one
	Accounts Accounts
	Ledger   Ledger
	Engines  Engines
	Metrics  *Metrics
	Log      *zap.Logger
	Now      func() time.Time
	NewID    func() string
	// SaveDir is the folder to which workers save KV, SaveBytes what that may take on the disk; 0: nothing is saved. Free tells what is free there.
	SaveDir   string
	SaveBytes int64
	Free      func(dir string) (int64, error)
}

// sweepEvery is how often sessions that are long over are looked for.
const sweepEvery = 10 * time.Second

// Manager holds the sessions. Its methods may be called from several goroutines.
type Manager struct {
	o    Options
	life lifecycle.Life

	mu       sync.Mutex
	sessions map[string]*entry
	making   map[string]bool  // ids of sessions that are being recorded
	dropped  []task.Session   // forgotten; the next sweep takes them out of the ledger
	cells    map[cell]holding // what the replicas' slots hold
	shelf    []*saved         // KV of workers that have ended, the oldest first
	files    int              // that were begun
	trash    []string         // files that nobody needs any more
}

// entry is a session.
type entry struct {
	task.Session

	begunBy string    // the task that began it; empty where it was created
	turn    string    // the task whose turn it is; empty: no task's
	idle    time.Time // since when it is no task's; that of a run before is not known, and counts as the session's beginning
	place   cell      // where its last turn left its KV, unless cells says that another has the slot since
}

// New makes a manager with the sessions that are recorded. Their live tasks come back with Recover.
func New(ctx context.Context, o Options) (*Manager, error) {
	m := &Manager{
		o: o, sessions: map[string]*entry{}, making: map[string]bool{}, cells: map[cell]holding{},
	}
	if err := m.openShelf(); err != nil {
		return nil, err
	}
	kept, err := o.Ledger.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	now := o.Now()
	for _, s := range kept {
		m.add(m.bounded(s, now))
	}
	o.Metrics.watch(m)
	return m, nil
}

// Adopt takes up sessions that another daemon had, which is gone.
func (m *Manager) Adopt(sessions []task.Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range sessions {
		m.add(m.bounded(s, m.o.Now()))
	}
}

// bounded is a session that was recorded, within what a session can be: a clock that has been set back since must not let it live longer than
// its TTL, and a damaged row no longer than any other (LO-835).
func (m *Manager) bounded(s task.Session, now time.Time) *entry {
	if s.CreatedAt.After(now) {
		s.CreatedAt = now.Truncate(time.Millisecond)
	}
	s.TTL = min(max(s.TTL, 0), maxTTL)
	s.Turns, s.MaxTurns = max(s.Turns, 0), max(s.MaxTurns, 0)
	s.Spent = task.Amount{Tokens: max(s.Spent.Tokens, 0), Time: max(s.Spent.Time, 0), Cost: max(s.Spent.Cost, 0), Energy: max(s.Spent.Energy, 0)}
	return &entry{Session: s, idle: s.CreatedAt}
}

// maxTTL is the longest that the contract and the configuration allow.
const maxTTL = 24 * time.Hour

// Start has sessions swept now and then. It implements lifecycle.Service.
func (m *Manager) Start(context.Context) error {
	if m.life.Begin() {
		m.life.Go(func(ctx context.Context) {
			contain.Loop(ctx, m.o.Log, "the sweep of sessions panicked, and is tried again", m.sweeps)
		})
	}
	return nil
}

func (m *Manager) sweeps(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.Sweep(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// Stop ends the sweeps. It implements lifecycle.Service.
func (m *Manager) Stop(ctx context.Context) error { return m.life.End(ctx, context.Canceled) }

// add keeps a session, and opens its account. The caller holds mu.
func (m *Manager) add(e *entry) {
	m.sessions[e.ID] = e
	m.o.Accounts.Open(e.ID, e.Budget, e.Spent, e.ends())
}

// remove forgets a session, and closes its account. The caller holds mu.
func (m *Manager) remove(e *entry) {
	delete(m.sessions, e.ID)
	m.unshelve(e.ID)
	m.o.Accounts.Close(e.ID)
}

// ends is when the session stops taking tasks.
func (e *entry) ends() time.Time { return e.CreatedAt.Add(e.TTL) }

// over reports whether the session takes no more tasks: its time is over, or it has had its turns.
func (e *entry) over(now time.Time) bool { return !now.Before(e.ends()) || e.Turns >= e.MaxTurns }

// Create begins a session with limits of its own.
func (m *Manager) Create(ctx context.Context, r task.SessionRequest) (task.SessionStatus, error) {
	now := m.o.Now()
	s := m.fresh(cmp.Or(r.ID, m.o.NewID()), now)
	s.Explicit = true
	s.TTL, s.MaxTurns = cmp.Or(r.TTL, s.TTL), cmp.Or(r.MaxTurns, s.MaxTurns)
	s.Budget = task.Amount{
		Tokens: cmp.Or(r.Budget.Tokens, s.Budget.Tokens), Time: cmp.Or(r.Budget.Time, s.Budget.Time), Cost: cmp.Or(r.Budget.Cost, s.Budget.Cost),
		Energy: cmp.Or(r.Budget.Energy, s.Budget.Energy),
	}
	give, err := m.reserve(s.ID, now)
	if err != nil {
		return task.SessionStatus{}, err
	}
	defer give()
	if err := m.o.Ledger.KeepSession(ctx, s); err != nil {
		return task.SessionStatus{}, errLedger(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(&entry{Session: s, idle: now})
	m.o.Log.Info("a session began", zap.String("session_id", s.ID), zap.Duration("ttl_ms", s.TTL), zap.Int("max_turns", s.MaxTurns))
	return task.SessionStatus{Session: s, TTLLeft: s.TTL, Rests: m.o.Accounts.Rests(s.ID, r.Actor)}, nil
}

// reserve makes room for a session, whose id nobody else can have until give is called. Nobody sees the session before it is recorded.
func (m *Manager) reserve(id string, now time.Time) (give func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions[id] != nil || m.making[id] {
		return nil, task.Errorf(task.Conflict, "session %s is there already: take another id or leave it out, or DELETE /v1/sessions/%[1]s first", id)
	}
	if err := m.room(now); err != nil {
		return nil, err
	}
	m.making[id] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.making, id)
	}, nil
}

func errLedger(err error) *task.Error {
	return task.Errorf(task.LedgerUnavailable, "the session could not be recorded: try again in a moment; the orchestrator's log has the cause").
		Retry(time.Second).Because(err)
}

// fresh returns a session with the configured limits. Its times have the ledger's precision.
func (m *Manager) fresh(id string, now time.Time) task.Session {
	return task.Session{ID: id, CreatedAt: now.Truncate(time.Millisecond), TTL: m.o.TTL, MaxTurns: m.o.MaxTurns, Budget: m.o.Budget}
}

// room makes room for one more session. Where there is none, it forgets the oldest of the sessions that are over, and else of those that a task
// began, and that no task uses, the one that has been idle for the longest. What was charged to it stays charged to whoever pays for it. The caller holds mu.
func (m *Manager) room(now time.Time) error {
	if len(m.sessions)+len(m.making) < m.o.Max {
		return nil
	}
	var oldest, idlest *entry
	first := time.Time{}
	for _, e := range m.sessions {
		if first.IsZero() || e.ends().Before(first) {
			first = e.ends()
		}
		if e.turn == "" && e.over(now) && (oldest == nil || e.CreatedAt.Before(oldest.CreatedAt)) {
			oldest = e
		}
		if e.turn == "" && !e.Explicit && (idlest == nil || cmp.Or(e.idle.Compare(idlest.idle), e.CreatedAt.Compare(idlest.CreatedAt), cmp.Compare(e.ID, idlest.ID)) < 0) {
			idlest = e
		}
	}
	if oldest = cmp.Or(oldest, idlest); oldest != nil {
		m.remove(oldest)
		m.dropped = append(m.dropped, oldest.Session)
		return nil
	}
	e := task.Errorf(task.AdmissionReject,
		"there are %d sessions, as many as the server keeps, and none is idle that a task began: DELETE one that is done with, or send the task without `session_id`", m.o.Max)
	e.PolicyLabel = "sessions"
	return e.Retry(max(first.Sub(now), time.Second))
}

// Get shows a session.
func (m *Manager) Get(ctx context.Context, id, actor string) (task.SessionStatus, error) {
	s, place, held, warm, err := m.show(id, actor)
	if err != nil {
		return task.SessionStatus{}, err
	}
	if warm {
		slot, ok := m.o.Engines.Slot(ctx, place.replica, place.slot)
		s.Warm = ok && slot.Job == held.job
		if s.Warm {
			s.KVBytes = slot.Bytes
		}
	}
	return s, nil
}

// List shows at most so many sessions that still take tasks, those that were used last first. It asks no engine.
func (m *Manager) List(most int) []task.SessionStatus {
	now := m.o.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*entry
	for _, e := range m.sessions {
		if e.ends().After(now) {
			all = append(all, e)
		}
	}
	used := func(e *entry) time.Time {
		if e.turn != "" {
			return now
		}
		return e.idle
	}
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Or(used(b).Compare(used(a)), cmp.Compare(a.ID, b.ID)) })
	out := make([]task.SessionStatus, 0, min(most, len(all)))
	for _, e := range all[:min(most, len(all))] {
		out = append(out, task.SessionStatus{Session: e.Session, TTLLeft: e.ends().Sub(now), Warm: m.warm(e), Rests: m.o.Accounts.Rests(e.ID, "")})
	}
	return out
}

// show is a session as it is now, and where its KV should be, if it should be somewhere.
func (m *Manager) show(id, actor string) (s task.SessionStatus, place cell, held holding, warm bool, err error) {
	now := m.o.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.sessions[id]
	if e == nil {
		return s, place, held, false, errUnknown(id)
	}
	s = task.SessionStatus{Session: e.Session, TTLLeft: max(e.ends().Sub(now), 0), Rests: m.o.Accounts.Rests(id, actor)}
	return s, e.place, m.cells[e.place], m.warm(e), nil
}

func errUnknown(id string) *task.Error {
	return task.Errorf(task.NotFound, "there is no session %s: it was never begun, was deleted, or is long over", id)
}

// Delete evicts a session, and erases its KV where a slot still holds it.
func (m *Manager) Delete(ctx context.Context, id string) error {
	e, place, held, warm, err := m.evict(ctx, id)
	if err != nil {
		return err
	}
	m.clear()
	if warm {
		if err := m.o.Engines.Erase(ctx, place.replica, place.slot, held.job); err != nil { // no harm: the next prompt in that slot overwrites it
			m.o.Log.Warn("the KV of a deleted session could not be erased", zap.String("session_id", id), zap.String("replica_id", place.replica), zap.Error(err))
		}
	}
	m.o.Log.Info("a session was deleted", zap.String("session_id", id), zap.Int("turns", e.Turns))
	return nil
}

// evict takes a session out of the ledger, and then forgets it. It returns where its KV should be, if it should be somewhere.
func (m *Manager) evict(ctx context.Context, id string) (e *entry, place cell, held holding, warm bool, err error) {
	if e, err = m.takeTurn(id); err != nil {
		return e, place, held, false, err
	}
	gone := false
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if !gone {
			e.turn = ""
			return
		}
		if place, held, warm = e.place, m.cells[e.place], m.warm(e); warm {
			delete(m.cells, place)
		}
		m.remove(e)
	}()
	if err = m.o.Ledger.DropSessions(ctx, []task.Session{e.Session}); err != nil {
		return e, place, held, false, errLedger(err)
	}
	gone = true
	return e, place, held, warm, nil
}

// takeTurn keeps tasks from taking a session's turn while it is deleted.
func (m *Manager) takeTurn(id string) (*entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.sessions[id]
	switch {
	case e == nil:
		return nil, errUnknown(id)
	case e.turn != "":
		return nil, errBusy(e)
	}
	e.turn = "DELETE /v1/sessions/" + id
	return e, nil
}

func errBusy(e *entry) *task.Error {
	return task.Errorf(task.Conflict, "a turn of session %s is on, task %s: wait for its end or cancel it, then try again", e.ID, e.turn).
		Retry(0).Narrate("another turn of its session is on")
}

// Sweep forgets the sessions whose end is further back than their TTL is long.
func (m *Manager) Sweep(ctx context.Context) {
	gone := m.over(m.o.Now())
	m.clear()
	if len(gone) == 0 {
		return
	}
	taken := false
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if !taken { // the next sweep tries again
			m.dropped = append(m.dropped, gone...)
		}
	}()
	if err := m.o.Ledger.DropSessions(ctx, gone); err != nil { // a full disk, perhaps
		m.o.Log.Warn("sessions that are over cannot be taken out of the ledger yet", zap.Int("sessions", len(gone)), zap.Error(err))
		return
	}
	taken = true
	m.o.Log.Info("sessions that were over are forgotten", zap.Int("sessions", len(gone)))
}

// over forgets the sessions that are long over. It returns those that the ledger still has.
func (m *Manager) over(now time.Time) (gone []task.Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gone, m.dropped = m.dropped, nil
	for _, id := range slices.Sorted(maps.Keys(m.sessions)) {
		if e := m.sessions[id]; e.turn == "" && !now.Before(e.ends().Add(e.TTL)) {
			gone = append(gone, e.Session)
			m.remove(e)
		}
	}
	maps.DeleteFunc(m.cells, func(_ cell, h holding) bool { return h.gone() })
	return gone
}

// Home returns the pool where a session had its last turn, or nothing.
func (m *Manager) Home(id string) string {
	if id == "" {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.sessions[id]; e != nil {
		return e.PoolID
	}
	return ""
}

func spoken(d time.Duration) string { return fmt.Sprint(d.Round(time.Second)) }
