// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
)

// Expire implements ledger.Ledger. Each of its commits is small, so that callers who wait behind one wait hardly longer than behind another
// caller's commit. One pass over the files follows.
func (l *Ledger) Expire(ctx context.Context, at time.Time) (ids []string, next time.Time, err error) {
	for {
		var due sql.NullInt64
		if err := l.db.QueryRowContext(ctx, `SELECT min(text_until_ms) FROM task WHERE text_until_ms IS NOT NULL`).Scan(&due); err != nil {
			return ids, next, fmt.Errorf("look for texts whose time is over: %w", err)
		}
		if next = entry.FromMS(due); next.IsZero() || next.After(at) {
			break
		}
		var some []string
		err := l.submit(ctx, &op{kind: opExpire, id: "the texts that are over", run: func(w *writer) (err error) {
			some, err = w.expire(at)
			return err
		}})
		if err != nil {
			return ids, next, err
		}
		ids = append(ids, some...)
	}
	if len(ids) > 0 {
		err = l.gone(ctx)
	}
	return ids, next, err
}

// expire deletes the next texts whose time is over.
func (w *writer) expire(at time.Time) (ids []string, err error) {
	rows, err := w.conn.QueryContext(context.Background(),
		`SELECT id FROM task WHERE text_until_ms <= ? ORDER BY text_until_ms LIMIT ?`, at.UnixMilli(), sweepTasks)
	err = scan(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := w.delete(id, at); err != nil {
			return nil, err
		}
	}
	return ids, nil
}
