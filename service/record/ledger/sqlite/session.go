// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"

	"github.com/llama-orch/llama-orch/service/task"
)

// sessionBytes is about what a session takes in the file.
const sessionBytes = 128

const sessionRows = `SELECT id, created_ms, ttl_ms, max_turns, turns, coalesce(pool_id, ''), coalesce(replica_id, ''),
	budget_tokens, budget_time_ms, budget_cost, budget_mj, spent_tokens, spent_time_ms, spent_cost, spent_mj, explicit FROM session ORDER BY created_ms, id`

// KeepSession implements ledger.Ledger.
func (l *Ledger) KeepSession(ctx context.Context, s task.Session) error {
	return l.submit(ctx, &op{kind: opSession, id: s.ID, size: sessionBytes, run: func(w *writer) error { return w.session(s) }})
}

// DropSessions implements ledger.Ledger.
func (l *Ledger) DropSessions(ctx context.Context, sessions []task.Session) error {
	if len(sessions) == 0 {
		return nil
	}
	return l.submit(ctx, &op{kind: opSession, id: sessions[0].ID, run: func(w *writer) error {
		for _, s := range sessions {
			if _, err := w.dropSession.Exec(s.ID, s.CreatedAt.UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	}})
}

// Sessions implements ledger.Ledger.
func (r *Reader) Sessions(ctx context.Context) (found []task.Session, err error) {
	rows, err := r.sessions.QueryContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the sessions: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s task.Session
		var created, ttl, budget, spent int64
		if err := rows.Scan(&s.ID, &created, &ttl, &s.MaxTurns, &s.Turns, &s.PoolID, &s.ReplicaID,
			&s.Budget.Tokens, &budget, &s.Budget.Cost, &s.Budget.Energy, &s.Spent.Tokens, &spent, &s.Spent.Cost, &s.Spent.Energy, &s.Explicit); err != nil {
			return nil, fmt.Errorf("read the sessions: %w", err)
		}
		s.CreatedAt = entry.FromMS(sql.NullInt64{Int64: created, Valid: true})
		s.TTL, s.Budget.Time, s.Spent.Time = milliseconds(ttl), milliseconds(budget), milliseconds(spent)
		found = append(found, s)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the sessions: %w", err)
	}
	return found, nil
}

// Spent implements ledger.Ledger.
func (r *Reader) Spent(ctx context.Context, window time.Time) (spent map[string]task.Amount, err error) {
	rows, err := r.spent.QueryContext(ctx, window.UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("read what was spent: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	spent = map[string]task.Amount{}
	for rows.Next() {
		var account string
		var a task.Amount
		var ms int64
		if err := rows.Scan(&account, &a.Tokens, &ms, &a.Cost, &a.Energy); err != nil {
			return nil, fmt.Errorf("read what was spent: %w", err)
		}
		a.Time = milliseconds(ms)
		spent[account] = a
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read what was spent: %w", err)
	}
	return spent, nil
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// session makes a session's entry, or records its turns. With the first turn it forgets an older session of that id.
func (w *writer) session(s task.Session) error {
	if s.Turns <= 1 {
		if _, err := w.replaceSession.Exec(s.ID, s.CreatedAt.UnixMilli()); err != nil {
			return err
		}
	}
	_, err := w.keepSession.Exec(s.ID, s.CreatedAt.UnixMilli(), s.TTL.Milliseconds(), s.MaxTurns, s.Turns, entry.OrNull(s.PoolID), entry.OrNull(s.ReplicaID),
		s.Budget.Tokens, s.Budget.Time.Milliseconds(), s.Budget.Cost, s.Budget.Energy, s.Explicit)
	return err
}

// charge adds what a task took to its budgets (ORCH-3099).
func (w *writer) charge(c task.Charge, r task.Record) error {
	a := c.Amount
	if c.SessionID != "" {
		pool := ""
		if r.ReplicaID != "" {
			pool = r.Task.PoolID
		}
		if _, err := w.chargeSession.Exec(a.Tokens, a.Time.Milliseconds(), a.Cost, a.Energy, entry.OrNull(pool), entry.OrNull(r.ReplicaID), c.SessionID); err != nil {
			return err
		}
	}
	if c.Account == "" {
		return nil
	}
	if !w.window.Equal(c.Window) { // a new window: what was spent in older ones is forgotten
		w.window = c.Window
		if _, err := w.forget.Exec(c.Window.UnixMilli()); err != nil {
			w.window = time.Time{}
			return err
		}
	}
	_, err := w.spend.Exec(c.Account, c.Window.UnixMilli(), a.Tokens, a.Time.Milliseconds(), a.Cost, a.Energy)
	return err
}
