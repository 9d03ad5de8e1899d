// SPDX-License-Identifier: GPL-3.0-or-later

package ledgertest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// batches are the files and batches of a Store, the oldest first.
type batches struct {
	files []task.File
	all   []*batch
}

type batch struct {
	r     task.BatchRecord
	lines []task.Line
}

// seen is the batch's record, as readers see it.
func (b *batch) seen() task.BatchRecord {
	r := b.r
	if r.EndedAt.IsZero() {
		r.Counts = task.LineCounts{}
		for _, l := range b.lines {
			*r.Counts.Of(l.State)++
		}
	}
	return r
}

func (b *batch) line(n int) *task.Line {
	for i := range b.lines {
		if b.lines[i].N == n {
			return &b.lines[i]
		}
	}
	return nil
}

func (b *batches) find(id string) *batch {
	for _, one := range b.all {
		if one.r.ID == id {
			return one
		}
	}
	return nil
}

// lineOf is the line of a task; nil: it has none.
func (b *batches) lineOf(t task.Task) *task.Line {
	if of := b.find(t.Request.BatchID); of != nil {
		return of.line(t.Request.BatchLine)
	}
	return nil
}

// KeepFile implements ledger.Batches.
func (m *Memory) KeepFile(ctx context.Context, f task.File) error {
	return m.write(ctx, "", func(s *Store, _ *entry) error {
		s.batches.files = append(s.batches.files, f)
		return nil
	})
}

// DropFile implements ledger.Batches.
func (m *Memory) DropFile(ctx context.Context, id string) error {
	return m.write(ctx, "", func(s *Store, _ *entry) error {
		at := slices.IndexFunc(s.batches.files, func(f task.File) bool { return f.ID == id })
		switch {
		case slices.ContainsFunc(s.batches.all, func(b *batch) bool { return b.r.FileID == id && b.r.EndedAt.IsZero() }):
			return ledger.ErrLive
		case at < 0:
			return ledger.ErrUnknown
		}
		s.batches.files = slices.Delete(s.batches.files, at, at+1)
		return nil
	})
}

// File implements ledger.Batches.
func (m *Memory) File(ctx context.Context, id string) (task.File, bool, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	all := m.s.batches.files
	at := slices.IndexFunc(all, func(f task.File) bool { return f.ID == id })
	if err := m.readable(ctx); err != nil || at < 0 {
		return task.File{}, false, err
	}
	return all[at], true, nil
}

// Files implements ledger.Batches.
func (m *Memory) Files(ctx context.Context, f task.FileFilter) (found []task.Listed, _ error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.readable(ctx); err != nil {
		return nil, err
	}
	type dated struct {
		task.Listed

		ms int64
	}
	var all []dated
	for _, one := range m.s.batches.files {
		all = append(all, dated{task.Listed{File: one}, one.CreatedAt.UnixMilli()})
	}
	for _, b := range m.s.batches.all {
		if r := b.seen(); !r.EndedAt.IsZero() {
			all = append(all, dated{task.Listed{Batch: &r}, r.EndedAt.UnixMilli()})
		}
	}
	slices.SortStableFunc(all, func(a, b dated) int { return cmp.Compare(a.ms, b.ms) })
	if !f.Oldest {
		slices.Reverse(all)
	}
	from := 0
	if f.After != "" {
		if from = 1 + slices.IndexFunc(all, func(d dated) bool { return d.ID() == f.After }); from == 0 {
			return nil, ledger.ErrUnknown
		}
	}
	for _, d := range all[from:] {
		wanted := f.Sent
		if d.Batch != nil {
			wanted = d.Batch.Dialect == f.Results
		}
		if wanted && (f.Limit <= 0 || len(found) < f.Limit) {
			found = append(found, d.Listed)
		}
	}
	return found, nil
}

// Uses implements ledger.Batches.
func (m *Memory) Uses(ctx context.Context, artifact string) (bool, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	used := slices.ContainsFunc(m.s.batches.files, func(f task.File) bool { return f.Artifact == artifact }) ||
		slices.ContainsFunc(m.s.batches.all, func(b *batch) bool { return b.r.Artifact == artifact && (b.r.FileID == "" || b.r.EndedAt.IsZero()) })
	return used, m.readable(ctx)
}

// KeepBatch implements ledger.Batches.
func (m *Memory) KeepBatch(ctx context.Context, r task.BatchRecord, lines []task.Line) error {
	return m.write(ctx, "", func(s *Store, _ *entry) error {
		b := s.batches.find(r.ID)
		if b == nil {
			if r.FileID != "" && !slices.ContainsFunc(s.batches.files, func(f task.File) bool { return f.ID == r.FileID }) {
				return ledger.ErrUnknown
			}
			b = &batch{}
			s.batches.all = append(s.batches.all, b)
		}
		b.r = r
		for _, l := range lines {
			if b.line(l.N) == nil {
				b.lines = append(b.lines, l)
			}
		}
		slices.SortFunc(b.lines, func(x, y task.Line) int { return x.N - y.N })
		return nil
	})
}

// EndLine implements ledger.Batches.
func (m *Memory) EndLine(ctx context.Context, l task.Line) error {
	return m.write(ctx, "", func(s *Store, _ *entry) error {
		var now *task.Line
		if b := s.batches.find(l.Batch); b != nil {
			now = b.line(l.N)
		}
		switch {
		case now == nil:
			return ledger.ErrUnknown
		case now.State != task.LineCompleted && now.State != task.LineFailed:
			now.State, now.Status, now.Refusal, now.Fault = l.State, l.Status, l.Refusal, l.Fault
		}
		return nil
	})
}

// EndLines implements ledger.Batches.
func (m *Memory) EndLines(ctx context.Context, r task.BatchRecord, as task.LineState) error {
	if err := m.KeepBatch(ctx, r, nil); err != nil {
		return err
	}
	return m.write(ctx, "", func(s *Store, _ *entry) error {
		b := s.batches.find(r.ID)
		for i := range b.lines {
			if b.lines[i].State == task.LineWaits {
				b.lines[i].State = as
			}
		}
		return nil
	})
}

// Batch implements ledger.Batches.
func (m *Memory) Batch(ctx context.Context, id string) (task.BatchRecord, bool, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	b := m.s.batches.find(id)
	if err := m.readable(ctx); err != nil || b == nil {
		return task.BatchRecord{}, false, err
	}
	return b.seen(), true, nil
}

// Batches implements ledger.Batches.
func (m *Memory) Batches(ctx context.Context, f task.BatchFilter) ([]task.BatchRecord, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if err := m.readable(ctx); err != nil {
		return nil, err
	}
	newest := slices.Clone(m.s.batches.all)
	slices.Reverse(newest)
	at := func(id string) int { return slices.IndexFunc(newest, func(b *batch) bool { return b.r.ID == id }) }
	from, to := 0, len(newest)
	if f.After != "" {
		from = at(f.After) + 1
	}
	if f.Before != "" {
		to = at(f.Before)
	}
	if to < 0 || f.After != "" && from == 0 {
		return nil, ledger.ErrUnknown
	}
	var found []task.BatchRecord
	for _, b := range newest[min(from, to):to] {
		if (f.Dialect == "" || b.r.Dialect == f.Dialect) && (!f.Live || b.r.EndedAt.IsZero()) &&
			(f.EndedBefore.IsZero() || !b.r.EndedAt.IsZero() && b.r.EndedAt.UnixMilli() < f.EndedBefore.UnixMilli()) {
			found = append(found, b.seen())
		}
	}
	switch over := len(found) - f.Limit; {
	case f.Limit <= 0 || over <= 0:
	case f.Before != "" && f.After == "":
		found = found[over:]
	default:
		found = found[:f.Limit]
	}
	return found, nil
}

// Lines implements ledger.Batches.
func (m *Memory) Lines(ctx context.Context, id string, f task.LineFilter) (found []task.Line, _ error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	b := m.s.batches.find(id)
	if err := m.readable(ctx); err != nil || b == nil {
		return nil, err
	}
	for _, l := range b.lines {
		if l.N > f.After && (!f.Open || !l.State.Final()) && (f.Limit <= 0 || len(found) < f.Limit) {
			found = append(found, l)
		}
	}
	return found, nil
}

// EraseLines implements ledger.Batches.
func (m *Memory) EraseLines(ctx context.Context, id string, states []task.LineState, at time.Time) error {
	return m.write(ctx, "", func(s *Store, _ *entry) error {
		if b := s.batches.find(id); b != nil {
			s.erase(b, states, at)
		}
		return nil
	})
}

func (s *Store) erase(b *batch, states []task.LineState, at time.Time) {
	for _, l := range b.lines {
		if !slices.Contains(states, l.State) {
			continue
		}
		for ; l.Tries >= 0; l.Tries-- {
			if e := s.byID[l.TaskID()]; e != nil && e.r.State.Final() && e.r.Deleted == nil {
				e.r = e.r.Erased(at)
			}
		}
	}
}

// DropBatch implements ledger.Batches.
func (m *Memory) DropBatch(ctx context.Context, id string, at time.Time) error {
	return m.write(ctx, "", func(s *Store, _ *entry) error {
		b := s.batches.find(id)
		switch {
		case b == nil:
			return ledger.ErrUnknown
		case b.r.EndedAt.IsZero():
			return ledger.ErrLive
		}
		s.erase(b, task.LineStates(), at)
		s.batches.all = slices.DeleteFunc(s.batches.all, func(one *batch) bool { return one == b })
		return nil
	})
}
