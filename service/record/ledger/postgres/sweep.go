// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/jackc/pgx/v5"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/task"
)

// The pace of sweeps. Each of their steps is a small commit, so that callers who wait behind one wait hardly longer than behind another caller's commit.
const (
	sweepEvery = time.Minute // at most
	sweepAfter = 16 << 20    // bytes that were written since the last one
	sweepTasks = 64          // that one step removes at most
)

// sweep removes the finished tasks that are too old or too many, the oldest first, and looks how large the tables are. Live tasks are never touched. It ends with
// the ledger.
func (l *Ledger) sweep() {
	every := time.NewTicker(sweepEvery)
	defer every.Stop()
	for {
		panicked := contain.Do(l.log, "removing old tasks panicked: they stay in the ledger, and it is tried again later", func() {
			for more := true; more && l.halt.Err() == nil; {
				var err error
				if more, err = l.sweepStep(l.halt, l.oldest()); err != nil && l.halt.Err() == nil {
					l.log.Warn("removing old tasks from the ledger failed, and is tried again later", zap.Error(err))
				}
			}
			l.look(l.halt)
		})
		_ = panicked // it is in the log
		select {
		case <-l.halt.Done():
			return
		case <-l.sweeps:
		case <-every.C:
		}
	}
}

// look notes how large the tables are.
func (l *Ledger) look(ctx context.Context) {
	var bytes int64
	err := l.row(ctx, []any{&bytes}, `SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'`, l.o.Schema)
	if err == nil {
		l.size.Store(bytes)
	}
}

// oldest is the time before which a finished task is too old.
func (l *Ledger) oldest() time.Time {
	if l.o.RetainAge <= 0 {
		return time.Time{}
	}
	return l.o.Now().Add(-l.o.RetainAge)
}

// sweepStep removes some tasks. It reports whether there is more to do.
func (l *Ledger) sweepStep(ctx context.Context, oldest time.Time) (more bool, err error) {
	doomed, err := l.doomed(ctx, oldest)
	if err != nil {
		return false, err
	}
	if len(doomed) == 0 {
		return l.forgetBatch(ctx, oldest)
	}
	if l.o.BeforeForgetting != nil {
		if err := l.hand(ctx, doomed); err != nil {
			return false, err
		}
	}
	return true, l.submit(ctx, &op{kind: opForget, id: "the oldest", free: true, run: func(ctx context.Context, x *transaction) error {
		b := &pgx.Batch{}
		b.Queue(`DELETE FROM transcript WHERE seq = ANY($1)`, doomed)
		b.Queue(`DELETE FROM request WHERE seq = ANY($1)`, doomed)
		b.Queue(`DELETE FROM task WHERE seq = ANY($1)`, doomed)
		return x.c.SendBatch(ctx, b).Close()
	}})
}

// forgetBatch removes lines of the batch that ended first, if that was before oldest, and the batch with its last lines (LO-883). Its tasks ended before it, so they
// are gone. It reports whether there was such a batch.
func (l *Ledger) forgetBatch(ctx context.Context, oldest time.Time) (found bool, err error) {
	var seq int64
	err = l.row(ctx, []any{&seq}, `SELECT seq FROM batch WHERE ended_ms < $1 ORDER BY ended_ms, seq LIMIT 1`, oldest.UnixMilli())
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, l.submit(ctx, &op{kind: opForget, id: "the oldest batch", free: true, run: func(ctx context.Context, x *transaction) error {
		b := &pgx.Batch{}
		b.Queue(`DELETE FROM batch_line WHERE (batch, n) IN (SELECT batch, n FROM batch_line WHERE batch = $1 LIMIT $2)`, seq, sweepTasks)
		b.Queue(`DELETE FROM batch WHERE seq = $1 AND NOT EXISTS (SELECT 1 FROM batch_line WHERE batch = $1)`, seq)
		return x.c.SendBatch(ctx, b).Close()
	}})
}

// hand reads tasks and calls BeforeForgetting with them. A deletion waits meanwhile.
func (l *Ledger) hand(ctx context.Context, doomed []int64) error {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	var found []task.Record
	rows, err := l.query(ctx, everything+` WHERE t.seq = ANY($1) ORDER BY t.finished_ms, t.seq`, doomed)
	err = eachTask(rows, err, func(w entry.Row) error {
		r, err := w.Whole()
		if err != nil { // so BeforeForgetting cannot have it
			l.log.Warn("a task that cannot be read is removed from the ledger", zap.Error(err))
			return nil
		}
		found = append(found, r)
		return nil
	})
	if err != nil {
		return err
	}
	return l.o.BeforeForgetting(ctx, found)
}

// doomed are the next finished tasks to remove: those that ended before oldest, and further ones while the texts take more than they may.
func (l *Ledger) doomed(ctx context.Context, oldest time.Time) (seqs []int64, err error) {
	over := int64(0)
	if l.o.RetainBytes > 0 {
		if err := l.row(ctx, []any{&over}, `SELECT coalesce(sum(bytes), 0)::bigint FROM task`); err != nil {
			return nil, err
		}
		over -= l.o.RetainBytes
	}
	rows, err := l.query(ctx, `SELECT seq, finished_ms, bytes FROM task WHERE finished_ms IS NOT NULL ORDER BY finished_ms, seq LIMIT $1`, sweepTasks)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var seq, finished, bytes int64
		if err := rows.Scan(&seq, &finished, &bytes); err != nil {
			return nil, err
		}
		if over <= 0 && !time.UnixMilli(finished).Before(oldest) {
			break
		}
		seqs = append(seqs, seq)
		over -= bytes
	}
	return seqs, rows.Err()
}
