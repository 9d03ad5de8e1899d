// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
)

// A deletion is over when it is committed: from then on no query finds what was deleted. Its bytes are in the database's files until VACUUM has passed, and in its
// log of writes until that is recycled, which is the database's own affair (LO-711).

// Delete implements ledger.Ledger.
func (l *Ledger) Delete(ctx context.Context, id string, at time.Time) error {
	err := l.submit(ctx, &op{kind: opDelete, id: id, free: true, run: func(ctx context.Context, x *transaction) error { return x.delete(ctx, id, at) }})
	if err == nil {
		l.kept()
	}
	return err
}

// kept waits until nothing is being kept of old tasks: it may have been read before a deletion, so that it comes back into its caller's store.
func (l *Ledger) kept() {
	l.keeping.Lock()
	l.keeping.Unlock() //nolint:staticcheck // it waits
}

// delete replaces what is recorded of an ended task by what stays of it. It does that for a damaged entry too.
func (x *transaction) delete(ctx context.Context, id string, at time.Time) error {
	if _, err := x.c.Exec(ctx, `SELECT 1 FROM task WHERE id = $1 FOR UPDATE`, []byte(id)); err != nil {
		return err
	}
	var found entry.Row
	if err := x.c.QueryRow(ctx, everything+` WHERE t.id = $1`, []byte(id)).Scan(found.Into()...); err != nil {
		return unknown(err)
	}
	record, damage := found.Record()
	switch {
	case !record.State.Final():
		return ledger.ErrLive
	case found.Deleted() && damage == nil:
		return nil
	}
	record = entry.Named(record.Erased(at))
	body, err := entry.EncodeTask(record.Task)
	if err != nil {
		return err
	}
	outcome, err := entry.EncodeOutcome(record)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(`DELETE FROM transcript WHERE seq = $1`, found.Seq())
	b.Queue(`DELETE FROM request WHERE seq = $1`, found.Seq())
	b.Queue(`INSERT INTO request (seq, task, sum) VALUES ($1, $2, $3)`, found.Seq(), body, entry.TaskSum(record.Task, body))
	b.Queue(`UPDATE task SET outcome = $1, deleted_ms = $2, text_until_ms = NULL, fingerprint = NULL, checkpoint_event = NULL, checkpoint_sum = NULL, sealed_at = NULL,
		last_event_id = NULL, proof_sum = NULL, proof_bytes = NULL, proof_keeps = NULL, bytes = $3 WHERE seq = $4`,
		outcome, at.UnixMilli(), len(body)+len(outcome), found.Seq())
	return x.c.SendBatch(ctx, b).Close()
}

// Expire implements ledger.Ledger. Each of its commits is small, so that callers who wait behind one wait hardly longer than behind another caller's commit.
func (l *Ledger) Expire(ctx context.Context, at time.Time) (ids []string, next time.Time, err error) {
	for {
		var due *int64
		if err := l.row(ctx, []any{&due}, `SELECT min(text_until_ms) FROM task WHERE text_until_ms IS NOT NULL`); err != nil {
			return ids, next, fmt.Errorf("look for texts whose time is over: %w", err)
		}
		if next = (time.Time{}); due == nil {
			break
		}
		if next = time.UnixMilli(*due).UTC(); next.After(at) {
			break
		}
		var some []string
		err := l.submit(ctx, &op{kind: opExpire, id: "the texts that are over", free: true, run: func(ctx context.Context, x *transaction) (err error) {
			some, err = x.expire(ctx, at)
			return err
		}})
		if err != nil {
			return ids, next, err
		}
		ids = append(ids, some...)
	}
	l.kept()
	return ids, next, nil
}

// expire deletes the next texts whose time is over.
func (x *transaction) expire(ctx context.Context, at time.Time) ([]string, error) {
	rows, err := x.c.Query(ctx, `SELECT id FROM task WHERE text_until_ms <= $1 ORDER BY text_until_ms LIMIT $2`, at.UnixMilli(), sweepTasks)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(found))
	for _, id := range found {
		if err := x.delete(ctx, string(id), at); err != nil && !errors.Is(err, ledger.ErrUnknown) { // another daemon may have forgotten it
			return nil, err
		}
		ids = append(ids, string(id))
	}
	return ids, nil
}
