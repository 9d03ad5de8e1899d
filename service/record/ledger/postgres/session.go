// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/task"
)

// sessionBytes is about what a session takes.
const sessionBytes = 128

// KeepSession implements ledger.Ledger.
func (l *Ledger) KeepSession(ctx context.Context, s task.Session) error {
	return l.submit(ctx, &op{kind: opSession, id: s.ID, size: sessionBytes, free: true, run: func(_ context.Context, x *transaction) error {
		x.keepSession(s)
		return nil
	}})
}

// DropSessions implements ledger.Ledger.
func (l *Ledger) DropSessions(ctx context.Context, sessions []task.Session) error {
	if len(sessions) == 0 {
		return nil
	}
	return l.submit(ctx, &op{kind: opSession, id: sessions[0].ID, free: true, run: func(_ context.Context, x *transaction) error {
		for _, s := range sessions {
			x.last.Queue(`DELETE FROM session WHERE id = $1 AND created_ms = $2`, []byte(s.ID), s.CreatedAt.UnixMilli())
		}
		return nil
	}})
}

// keepSession makes a session's entry, or records its turns. With the first turn it forgets an older session of that id.
func (x *transaction) keepSession(s task.Session) {
	if s.Turns <= 1 {
		x.last.Queue(`DELETE FROM session WHERE id = $1 AND created_ms <> $2`, []byte(s.ID), s.CreatedAt.UnixMilli())
	}
	explicit := 0
	if s.Explicit {
		explicit = 1
	}
	x.last.Queue(`INSERT INTO session (id, created_ms, ttl_ms, max_turns, turns, pool_id, replica_id, budget_tokens, budget_time_ms, budget_cost, budget_mj, explicit,
		spent_tokens, spent_time_ms, spent_cost, spent_mj, host) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, 0, 0, 0, $13)
		ON CONFLICT (id) DO UPDATE SET turns = excluded.turns, host = excluded.host`,
		[]byte(s.ID), s.CreatedAt.UnixMilli(), s.TTL.Milliseconds(), s.MaxTurns, s.Turns, orNil(s.PoolID), orNil(s.ReplicaID),
		s.Budget.Tokens, s.Budget.Time.Milliseconds(), s.Budget.Cost, s.Budget.Energy, explicit, orNull(x.w.o.Owner))
}

// charge adds what a task took to its budgets (ORCH-3099).
func (x *transaction) charge(c task.Charge, r task.Record) {
	a := c.Amount
	if c.SessionID != "" {
		pool := ""
		if r.ReplicaID != "" {
			pool = r.Task.PoolID
		}
		x.last.Queue(`UPDATE session SET spent_tokens = spent_tokens + $1, spent_time_ms = spent_time_ms + $2, spent_cost = spent_cost + $3, spent_mj = spent_mj + $4,
			pool_id = coalesce($5, pool_id), replica_id = coalesce($6, replica_id) WHERE id = $7`,
			a.Tokens, a.Time.Milliseconds(), a.Cost, a.Energy, orNil(pool), orNil(r.ReplicaID), []byte(c.SessionID))
	}
	if c.Account == "" {
		return
	}
	if !x.w.window.Equal(c.Window) { // a new window: what was spent in older ones is forgotten
		x.w.window = c.Window
		x.last.Queue(`DELETE FROM spending WHERE window_ms < $1`, c.Window.UnixMilli())
	}
	x.last.Queue(`INSERT INTO spending AS s (account, window_ms, tokens, time_ms, cost, mj) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (account, window_ms) DO UPDATE SET
		tokens = s.tokens + excluded.tokens, time_ms = s.time_ms + excluded.time_ms, cost = s.cost + excluded.cost, mj = s.mj + excluded.mj`,
		[]byte(c.Account), c.Window.UnixMilli(), a.Tokens, a.Time.Milliseconds(), a.Cost, a.Energy)
}

const sessionColumns = `id, created_ms, ttl_ms, max_turns, turns, pool_id, replica_id, budget_tokens, budget_time_ms, budget_cost, budget_mj,
	spent_tokens, spent_time_ms, spent_cost, spent_mj, explicit`

// Sessions implements ledger.Ledger. Those of other daemons are not among them.
func (r *Reader) Sessions(ctx context.Context) ([]task.Session, error) {
	return sessions(r.query(ctx, `SELECT `+sessionColumns+` FROM session WHERE $1::text IS NULL OR host IS NULL OR host = $1 ORDER BY created_ms, id`, orNull(r.o.Owner)))
}

func sessions(rows pgx.Rows, err error) ([]task.Session, error) {
	var found []task.Session
	if err == nil {
		found, err = pgx.AppendRows(found, rows, func(row pgx.CollectableRow) (s task.Session, err error) {
			var id, pool, replica []byte
			var created, ttl, budget, spent, explicit int64
			err = row.Scan(&id, &created, &ttl, &s.MaxTurns, &s.Turns, &pool, &replica, &s.Budget.Tokens, &budget, &s.Budget.Cost, &s.Budget.Energy,
				&s.Spent.Tokens, &spent, &s.Spent.Cost, &s.Spent.Energy, &explicit)
			s.ID, s.PoolID, s.ReplicaID, s.Explicit = string(id), string(pool), string(replica), explicit != 0
			s.CreatedAt = entry.FromMS(sql.NullInt64{Int64: created, Valid: true})
			s.TTL, s.Budget.Time, s.Spent.Time = milliseconds(ttl), milliseconds(budget), milliseconds(spent)
			return s, err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read the sessions: %w", err)
	}
	return found, nil
}

// Spent implements ledger.Ledger.
func (r *Reader) Spent(ctx context.Context, window time.Time) (map[string]task.Amount, error) {
	spent := map[string]task.Amount{}
	rows, err := r.query(ctx, `SELECT account, tokens, time_ms, cost, mj FROM spending WHERE window_ms = $1`, window.UnixMilli())
	if err == nil {
		var account []byte
		var a task.Amount
		var took int64
		_, err = pgx.ForEachRow(rows, []any{&account, &a.Tokens, &took, &a.Cost, &a.Energy}, func() error {
			a.Time = milliseconds(took)
			spent[string(account)] = a
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read what was spent: %w", err)
	}
	return spent, nil
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
