// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/task"
)

// The pace of a sweep. Each of its steps is a small commit, so that callers who wait behind one wait hardly longer than behind
// another caller's commit.
const (
	sweepEvery = time.Minute // at most
	sweepAfter = 1 << 20     // bytes that were written since the last one
	sweepTasks = 64          // that one step removes at most
	sweepSpare = 256         // free pages that the next tasks will need; an eighth of the file where that is more
)

// sweepStep removes some of the finished tasks that are too old or too many, oldest first, or gives back some of the disk.
// It reports whether there is more to do. Live tasks are never touched.
func (l *Ledger) sweepStep() (more bool) {
	doomed, err := l.w.doomed(l.o.RetainBytes, l.oldest())
	switch {
	case err != nil:
	case len(doomed) == 0:
		if more, err = l.w.forgetBatch(l.oldest()); !more && err == nil {
			more, err = l.w.shrink()
		}
	case l.o.BeforeForgetting == nil:
		err = l.w.transaction(func() error { return l.w.remove(doomed) })
		more = err == nil
	case l.w.parting.CompareAndSwap(false, true):
		l.parting.Go(func() {
			_ = contain.Do(l.log, "keeping something of old tasks panicked: they stay in the ledger, and it is tried again later", func() { l.part(doomed) })
		})
	}
	if err != nil {
		l.log.Warn("removing old tasks from the ledger failed, and is tried again later", zap.Error(err))
	}
	return more
}

// part calls BeforeForgetting with tasks that are to be removed, and then has the writer remove them. It runs beside the writer,
// which must not wait for what is stored there.
func (l *Ledger) part(doomed []int64) {
	defer l.w.parting.Store(false)
	if err := l.keep(doomed); err != nil && l.halt.Err() == nil {
		l.log.Warn("old tasks stay in the ledger, since what is to be kept of them could not be kept; it is tried again later", zap.Error(err))
	}
}

func (l *Ledger) keep(doomed []int64) error {
	if err := l.hand(doomed); err != nil {
		return err
	}
	return l.submit(l.halt, &op{
		kind: opForget, id: "the oldest", run: func(w *writer) error { return w.remove(doomed) }, then: func() { l.w.written = sweepAfter },
	})
}

// hand reads tasks and calls BeforeForgetting with them. A deletion waits meanwhile.
func (l *Ledger) hand(doomed []int64) error {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	var found []task.Record
	for _, seq := range doomed {
		r, ok, err := one(l.db.QueryRowContext(l.halt, everything+` WHERE t.seq = ?`, seq))
		switch {
		case l.halt.Err() != nil:
			return l.halt.Err()
		case err != nil: // so BeforeForgetting cannot have it
			l.log.Warn("a task that cannot be read is removed from the ledger", zap.Error(err))
		case ok:
			found = append(found, r)
		}
	}
	return l.o.BeforeForgetting(l.halt, found)
}

// oldest is the time before which a finished task is too old.
func (l *Ledger) oldest() time.Time {
	if l.o.RetainAge <= 0 {
		return time.Time{}
	}
	return l.o.Now().Add(-l.o.RetainAge)
}

// nextSweep is when the oldest finished task or batch gets too old, and in a minute at the soonest; zero if there is none. An
// idle ledger is not woken before.
func (l *Ledger) nextSweep() time.Time {
	if l.o.RetainAge <= 0 {
		return time.Time{}
	}
	soonest := l.o.Now().Add(sweepEvery)
	var first sql.NullInt64
	err := l.w.conn.QueryRowContext(context.Background(), `SELECT min(ms) FROM (SELECT min(finished_ms) AS ms FROM task WHERE finished_ms IS NOT NULL
		UNION ALL SELECT min(ended_ms) FROM batch WHERE ended_ms IS NOT NULL)`).Scan(&first)
	if err != nil {
		return soonest
	}
	if !first.Valid {
		return time.Time{}
	}
	// What is of exactly this age is not too old yet, so a millisecond is added.
	if due := entry.FromMS(first).Add(l.o.RetainAge + time.Millisecond); due.After(soonest) {
		return due
	}
	return soonest
}

// remove deletes finished tasks.
func (w *writer) remove(doomed []int64) error {
	for _, seq := range doomed {
		for _, of := range []string{
			`DELETE FROM transcript WHERE seq = ?`, `DELETE FROM request WHERE seq = ?`, `DELETE FROM task WHERE seq = ?`,
		} {
			if _, err := w.conn.ExecContext(context.Background(), of, seq); err != nil {
				return err
			}
		}
	}
	return nil
}

// forgetBatch removes lines of the batch that ended first, if that was before oldest, and the batch with its last lines (LO-883). Its tasks ended before it, so they
// are gone. It reports whether there was such a batch.
func (w *writer) forgetBatch(oldest time.Time) (found bool, err error) {
	var seq int64
	err = w.conn.QueryRowContext(context.Background(), `SELECT seq FROM batch WHERE ended_ms < ? ORDER BY ended_ms, seq LIMIT 1`, oldest.UnixMilli()).Scan(&seq)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = w.transaction(func() error {
		if err := w.exec(`DELETE FROM batch_line WHERE (batch, n) IN (SELECT batch, n FROM batch_line WHERE batch = ? LIMIT ?)`, seq, sweepTasks); err != nil {
			return err
		}
		return w.exec(`DELETE FROM batch WHERE seq = ?1 AND NOT EXISTS (SELECT 1 FROM batch_line WHERE batch = ?1)`, seq)
	})
	return err == nil, err
}

// doomed are the next finished tasks to remove: those that ended before oldest, and further ones while the ledger holds more
// than most bytes.
func (w *writer) doomed(most int64, oldest time.Time) (seqs []int64, err error) {
	over := int64(0)
	if most > 0 {
		pages, free, size, err := w.pages()
		if err != nil {
			return nil, err
		}
		over = (pages-free)*size - most
	}
	rows, err := w.conn.QueryContext(context.Background(), `SELECT t.seq, t.finished_ms,
		coalesce(octet_length(q.task), 0) + coalesce(octet_length(t.outcome), 0) + coalesce(octet_length(x.text) + octet_length(x.ends), 0) + coalesce(octet_length(x.marks), 0) + coalesce(octet_length(x.logprobs), 0)`+withTexts+`
		WHERE t.finished_ms IS NOT NULL ORDER BY t.finished_ms, t.seq LIMIT ?`, sweepTasks)
	if err != nil {
		return nil, err
	}
	defer rows.Close() // rows.Err has its error already, or it comes too late to matter
	for rows.Next() {
		var seq, bytes int64
		var finished sql.NullInt64
		if err := rows.Scan(&seq, &finished, &bytes); err != nil {
			return nil, err
		}
		if over <= 0 && !entry.FromMS(finished).Before(oldest) {
			break
		}
		seqs = append(seqs, seq)
		over -= bytes
	}
	return seqs, rows.Err()
}

// shrink gives free pages back to the file system, when there are more than the next tasks will soon need.
func (w *writer) shrink() (more bool, err error) {
	pages, free, _, err := w.pages()
	if err != nil || free <= max(sweepSpare, pages/8) {
		return false, err
	}
	// The statement yields a row for each page, and stops when nobody reads on.
	rows, err := w.conn.QueryContext(context.Background(), "PRAGMA incremental_vacuum(256)") // pages, at most
	if err != nil {
		return false, err
	}
	defer rows.Close() // rows.Err has its error already, or it comes too late to matter
	for rows.Next() {
	}
	return true, rows.Err()
}

func (w *writer) pages() (pages, free, size int64, err error) {
	err = w.conn.QueryRowContext(context.Background(), "SELECT (SELECT page_count FROM pragma_page_count), "+
		"(SELECT freelist_count FROM pragma_freelist_count), (SELECT page_size FROM pragma_page_size)").Scan(&pages, &free, &size)
	return pages, free, size, err
}
