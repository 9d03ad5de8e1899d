// SPDX-License-Identifier: GPL-3.0-or-later

package ledgertest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// Store is a store in memory that several may have open at the same time. It is what a ledger should be, in the plainest way:
// other implementations are compared with it.
type Store struct {
	mu       sync.Mutex
	byID     map[string]*entry
	bySeq    map[uint64]*entry
	sessions map[string]task.Session
	spent    map[string]task.Amount
	window   time.Time
	seq      uint64 // the last that was handed out
	fence    uint64 // of the last claim
	starts   int
	batches  batches
}

type entry struct {
	r      task.Record
	start  int
	holder *Memory // nil: nobody
}

// NewStore makes an empty store.
func NewStore() *Store {
	return &Store{
		byID: map[string]*entry{}, bySeq: map[uint64]*entry{}, sessions: map[string]task.Session{}, spent: map[string]task.Amount{},
	}
}

// Memory is a store that is open.
type Memory struct {
	s      *Store
	fence  uint64
	lapsed bool
	closed bool
}

var _ ledger.Ledger = (*Memory)(nil)

// Open opens the store.
func (s *Store) Open() *Memory { return &Memory{s: s} }

// Lapse lets the lease end, as that of a daemon that hangs does.
func (m *Memory) Lapse() {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.lapsed = true
}

// Sweep forgets the tasks and the batches that ended before oldest.
func (s *Store) Sweep(oldest time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, e := range s.byID {
		if e.r.State.Final() && e.r.FinishedAt.Before(oldest) {
			delete(s.byID, id)
			delete(s.bySeq, e.r.Task.Seq)
		}
	}
	s.batches.all = slices.DeleteFunc(s.batches.all, func(b *batch) bool { return !b.r.EndedAt.IsZero() && b.r.EndedAt.Before(oldest) })
}

// Claim implements ledger.Ledger.
func (m *Memory) Claim(_ context.Context, by task.Host) (ledger.Claim, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if m.closed {
		return ledger.Claim{}, ledger.ErrClosed
	}
	if m.fence == 0 || m.lapsed {
		m.s.fence++
		m.fence, m.lapsed = m.s.fence, false
	}
	c := ledger.Claim{Owner: by.ID, Fence: m.fence}
	for _, e := range m.s.live() {
		if h := e.holder; h == nil || h.closed || h.lapsed {
			e.holder = m
			c.Tasks = append(c.Tasks, e.r)
		}
	}
	return c, nil
}

// NextSeq implements ledger.Ledger.
func (m *Memory) NextSeq() (uint64, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if m.closed {
		return 0, ledger.ErrClosed
	}
	m.s.seq++
	return m.s.seq, nil
}

// write does something to the store. If the store has the task already, the caller must be its holder.
func (m *Memory) write(ctx context.Context, id string, do func(s *Store, e *entry) error) error {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	e := m.s.byID[id]
	switch {
	case m.closed:
		return ledger.ErrClosed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case e != nil && e.holder != nil && e.holder != m && !e.holder.closed:
		return ledger.ErrFenced
	}
	return do(m.s, e)
}

// Accept implements ledger.Ledger.
func (m *Memory) Accept(ctx context.Context, t task.Task) error {
	if err := ledger.CheckTask(t); err != nil {
		return err
	}
	return m.write(ctx, t.ID, func(s *Store, e *entry) error { return s.accept(m, e, t) })
}

// AcceptRunning implements ledger.Ledger.
func (m *Memory) AcceptRunning(ctx context.Context, t task.Task, d task.Dispatch) error {
	if err := ledger.CheckTask(t); err != nil {
		return err
	}
	return m.write(ctx, t.ID, func(s *Store, e *entry) error {
		if err := s.accept(m, e, t); err != nil || e != nil {
			return err
		}
		s.dispatch(s.byID[t.ID], d)
		return nil
	})
}

func (s *Store) accept(m *Memory, e *entry, t task.Task) error {
	if e != s.bySeq[t.Seq] {
		return ledger.ErrTaken
	}
	if e != nil {
		return nil
	}
	if l := s.batches.lineOf(t); l != nil {
		if l.State != task.LineWaits || l.TaskID() != t.ID {
			return ledger.ErrEnded
		}
		l.State = task.LineFed
	}
	if t.Session != nil {
		s.keep(*t.Session)
		t.Session = nil
	}
	e = &entry{r: task.Record{Task: t, State: task.Queued}, holder: m}
	s.byID[t.ID], s.bySeq[t.Seq], s.seq = e, e, max(s.seq, t.Seq)
	return nil
}

// Render implements ledger.Ledger.
func (m *Memory) Render(ctx context.Context, t task.Task) error {
	return m.write(ctx, t.ID, func(_ *Store, e *entry) error {
		switch {
		case e == nil:
			return ledger.ErrUnknown
		case e.r.State.Final():
			return ledger.ErrEnded
		}
		t.Session = nil
		e.r.Task = t
		return nil
	})
}

// Dispatch implements ledger.Ledger.
func (m *Memory) Dispatch(ctx context.Context, d task.Dispatch) error {
	return m.write(ctx, d.ID, func(s *Store, e *entry) error {
		switch {
		case e == nil:
			return ledger.ErrUnknown
		case e.r.State.Final():
			return ledger.ErrEnded
		}
		s.dispatch(e, d)
		return nil
	})
}

func (s *Store) dispatch(e *entry, d task.Dispatch) {
	if e.start == 0 {
		s.starts++
		e.start, e.r.StartedAt = s.starts, d.At
	}
	e.r.State, e.r.ReplicaID, e.r.Fingerprint = task.Running, d.ReplicaID, d.Fingerprint
}

// Started implements ledger.Ledger.
func (m *Memory) Started(d task.Dispatch) { _ = m.Dispatch(context.Background(), d) }

// Checkpoint implements ledger.Ledger.
func (m *Memory) Checkpoint(id string, c task.Checkpoint) {
	_ = m.write(context.Background(), id, func(_ *Store, e *entry) error {
		if e != nil && !e.r.State.Final() && (c.Event > e.r.Checkpoint.Event || e.r.Checkpoint == task.Checkpoint{}) {
			e.r.Checkpoint = c
		}
		return nil
	})
}

// Finish implements ledger.Ledger.
func (m *Memory) Finish(ctx context.Context, r task.Record) error {
	if err := ledger.CheckOutcome(r); err != nil {
		return err
	}
	return m.write(ctx, r.Task.ID, func(s *Store, e *entry) error {
		if err := s.accept(m, e, r.Task); err != nil {
			return err
		}
		e = s.byID[r.Task.ID]
		if e.r.State.Final() {
			if e.r.State != r.State || e.r.LastEventID != r.LastEventID {
				return ledger.ErrEnded
			}
			return nil
		}
		if r.Charge != nil {
			s.charge(r)
		}
		if l := s.batches.lineOf(r.Task); l != nil && !l.State.Final() && l.TaskID() == r.Task.ID {
			*l = l.After(r)
		}
		r.Checkpoint, r.Charge, r.Task.Session = e.r.Checkpoint, nil, nil
		e.r = r
		return nil
	})
}

// Delete implements ledger.Ledger.
func (m *Memory) Delete(ctx context.Context, id string, at time.Time) error {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.readable(ctx); err != nil {
		return err
	}
	switch e := m.s.byID[id]; {
	case e == nil:
		return ledger.ErrUnknown
	case !e.r.State.Final():
		return ledger.ErrLive
	case e.r.Deleted == nil:
		e.r = e.r.Erased(at)
	}
	return nil
}

// Expire implements ledger.Ledger.
func (m *Memory) Expire(ctx context.Context, at time.Time) (ids []string, next time.Time, err error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.readable(ctx); err != nil {
		return nil, next, err
	}
	for id, e := range m.s.byID {
		keep := e.r.Task.Request.KeepText
		if keep == 0 || !e.r.State.Final() || e.r.Deleted != nil {
			continue
		}
		if due := e.r.FinishedAt.Add(keep); !due.After(at) {
			e.r = e.r.Erased(at)
			ids = append(ids, id)
		} else if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return ids, next, nil
}

func (s *Store) charge(r task.Record) {
	c := r.Charge
	if at, ok := s.sessions[c.SessionID]; ok {
		at.Spent = at.Spent.Plus(c.Amount)
		if r.ReplicaID != "" {
			at.PoolID, at.ReplicaID = r.Task.PoolID, r.ReplicaID
		}
		s.sessions[c.SessionID] = at
	}
	if c.Account == "" {
		return
	}
	if !s.window.Equal(c.Window) {
		s.window = c.Window
		clear(s.spent)
	}
	s.spent[c.Account] = s.spent[c.Account].Plus(c.Amount)
}

// Get implements ledger.Ledger.
func (m *Memory) Get(ctx context.Context, id string) (task.Record, bool, error) {
	return m.find(ctx, func(r task.Record) bool { return r.Task.ID == id })
}

// Deleted implements ledger.Ledger.
func (m *Memory) Deleted(ctx context.Context, ids []string) (deleted []string, err error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.readable(ctx); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if e := m.s.byID[id]; e != nil && e.r.Deleted != nil {
			deleted = append(deleted, id)
		}
	}
	return deleted, nil
}

// Proven implements ledger.Ledger.
func (m *Memory) Proven(ctx context.Context, sum [32]byte) (task.Record, bool, error) {
	return m.find(ctx, func(r task.Record) bool { return r.State.Final() && r.Proof.SHA256 == sum })
}

func (m *Memory) find(ctx context.Context, is func(task.Record) bool) (task.Record, bool, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.readable(ctx); err != nil {
		return task.Record{}, false, err
	}
	for _, e := range m.s.byID {
		if is(e.r) {
			return e.r, true, nil
		}
	}
	return task.Record{}, false, nil
}

func (m *Memory) readable(ctx context.Context) error {
	if m.closed {
		return ledger.ErrClosed
	}
	return context.Cause(ctx)
}

// List implements ledger.Ledger.
func (m *Memory) List(ctx context.Context, state task.State, limit int) (found []task.Record, _ error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.readable(ctx); err != nil {
		return nil, err
	}
	for _, e := range m.s.byID {
		if e.r.State.Final() && (state == "" || e.r.State == state) {
			r := e.r
			r.Transcript.Text, r.Transcript.Marks, r.Transcript.Logprobs = "", nil, nil
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b task.Record) int {
		return cmp.Compare(b.Task.Seq, a.Task.Seq)
	})
	return append([]task.Record(nil), found[:min(limit, len(found))]...), nil
}

// Live implements ledger.Ledger.
func (m *Memory) Live(ctx context.Context) (found []task.Record, _ error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.readable(ctx); err != nil {
		return nil, err
	}
	for _, e := range m.s.live() {
		found = append(found, e.r)
	}
	return found, nil
}

func (s *Store) live() (all []*entry) {
	for _, e := range s.byID {
		if !e.r.State.Final() {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *entry) int {
		return cmp.Or(-cmp.Compare(a.r.State, b.r.State), a.start-b.start, cmp.Compare(a.r.Task.Seq, b.r.Task.Seq))
	})
	return all
}

// KeepSession implements ledger.Ledger.
func (m *Memory) KeepSession(ctx context.Context, at task.Session) error {
	return m.write(ctx, "", func(s *Store, _ *entry) error { s.keep(at); return nil })
}

func (s *Store) keep(at task.Session) {
	if known, ok := s.sessions[at.ID]; ok && (known.CreatedAt.Equal(at.CreatedAt) || at.Turns > 1) {
		known.Turns = at.Turns
		at = known
	} else {
		at.Spent = task.Amount{}
	}
	s.sessions[at.ID] = at
}

// DropSessions implements ledger.Ledger.
func (m *Memory) DropSessions(ctx context.Context, sessions []task.Session) error {
	return m.write(ctx, "", func(s *Store, _ *entry) error {
		for _, at := range sessions {
			if s.sessions[at.ID].CreatedAt.Equal(at.CreatedAt) {
				delete(s.sessions, at.ID)
			}
		}
		return nil
	})
}

// Sessions implements ledger.Ledger.
func (m *Memory) Sessions(ctx context.Context) ([]task.Session, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.readable(ctx); err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(m.s.sessions), func(a, b task.Session) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	}), nil
}

// Spent implements ledger.Ledger.
func (m *Memory) Spent(ctx context.Context, window time.Time) (map[string]task.Amount, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.readable(ctx); err != nil {
		return nil, err
	}
	if !m.s.window.Equal(window) {
		return map[string]task.Amount{}, nil
	}
	return maps.Clone(m.s.spent), nil
}

// Close implements ledger.Ledger.
func (m *Memory) Close() error {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.closed = true
	return nil
}
