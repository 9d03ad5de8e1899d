// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/task"
)

// Reader reads a ledger, also one that orchestratords have open. Its methods may be called from several goroutines.
type Reader struct {
	o       Options
	version int
	db      *pgxpool.Pool
	missed  func() // called when the database did not answer a read; may be nil
}

// OpenReader opens a ledger that is there, without writing to it. A failure is an *Error, as a rule.
func OpenReader(ctx context.Context, o Options) (*Reader, error) {
	o = o.filled()
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, o.openError(err)
	}
	r := &Reader{o: o, db: pool}
	if r.version, err = o.version(ctx, pool); err == nil && r.version != len(o.steps) {
		err = &Error{Fault: NotThere, Where: o.where, What: fmt.Sprintf("has schema %d in %q, and this version reads %d", r.version, o.Schema, len(o.steps)), Remedy: "start orchestratord once, which makes it or brings it up to date"}
	}
	if err != nil {
		pool.Close()
		return nil, o.openError(err)
	}
	return r, nil
}

// Close closes the connections.
func (r *Reader) Close() error {
	r.db.Close()
	return nil
}

// The parts of queries for tasks.
const (
	withTexts  = ` FROM task t LEFT JOIN request q ON q.seq = t.seq LEFT JOIN transcript x ON x.seq = t.seq`
	everything = `SELECT ` + entry.Columns + `, x.ends, x.text, x.marks, x.logprobs, x.sum` + withTexts
	ended      = `SELECT ` + entry.Columns + `, x.ends, NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea` + withTexts + ` WHERE t.finished_ms IS NOT NULL`
	liveTasks  = entry.Columns + `, NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea FROM task t LEFT JOIN request q ON q.seq = t.seq WHERE t.finished_ms IS NULL`
	inOrder    = `t.state DESC, t.start_order, t.seq`
)

// query asks, with the caller's context and for a bounded time: a server that hangs answers nobody.
func (r *Reader) query(ctx context.Context, text string, args ...any) (pgx.Rows, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ctx, stop := context.WithTimeout(ctx, readWithin)
	rows, err := r.db.Query(ctx, text, args...)
	if err != nil {
		r.look(err)
		stop()
		return nil, err
	}
	return &boundedRows{rows, r, stop}, nil
}

// look notes that the database did not answer, so that nobody takes it for one that can be written because it could be a moment ago.
func (r *Reader) look(err error) {
	if err != nil && r.missed != nil && !errors.Is(err, pgx.ErrNoRows) && !errors.Is(err, context.Canceled) && !about(err) {
		r.missed()
	}
}

// boundedRows end the bound with themselves.
type boundedRows struct {
	pgx.Rows

	of   *Reader
	stop context.CancelFunc
}

func (r *boundedRows) Err() error {
	err := r.Rows.Err()
	r.of.look(err)
	return err
}

func (r *boundedRows) Next() bool {
	more := r.Rows.Next()
	if !more {
		r.stop()
	}
	return more
}

func (r *boundedRows) Close() {
	r.Rows.Close()
	r.stop()
}

// row asks for one row in the same way.
func (r *Reader) row(ctx context.Context, into []any, text string, args ...any) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, stop := context.WithTimeout(ctx, readWithin)
	defer stop()
	err := r.db.QueryRow(ctx, text, args...).Scan(into...)
	r.look(err)
	return err
}

// Get implements ledger.Ledger.
func (r *Reader) Get(ctx context.Context, id string) (task.Record, bool, error) {
	record, ok, err := r.one(ctx, everything+` WHERE t.id = $1`, []byte(id))
	if err != nil {
		return task.Record{}, false, fmt.Errorf("read task %.128q: %w", id, err)
	}
	return record, ok, nil
}

// Proven implements ledger.Ledger.
func (r *Reader) Proven(ctx context.Context, sum [32]byte) (task.Record, bool, error) {
	record, ok, err := r.one(ctx, everything+` WHERE t.proof_sum = $1 ORDER BY t.seq LIMIT 1`, sum[:])
	if err != nil {
		return task.Record{}, false, fmt.Errorf("read the task of proof bundle %x: %w", sum, err)
	}
	return record, ok, nil
}

func (r *Reader) one(ctx context.Context, text string, args ...any) (task.Record, bool, error) {
	var w entry.Row
	err := r.row(ctx, w.Into(), text, args...)
	if errors.Is(err, pgx.ErrNoRows) {
		return task.Record{}, false, nil
	}
	if err != nil {
		return task.Record{}, false, err
	}
	record, err := w.Whole()
	return record, err == nil, err
}

// Deleted implements ledger.Ledger.
func (r *Reader) Deleted(ctx context.Context, ids []string) ([]string, error) {
	wanted := make([][]byte, len(ids))
	for i, id := range ids {
		wanted[i] = []byte(id)
	}
	rows, err := r.query(ctx, `SELECT t.id FROM unnest($1::bytea[]) WITH ORDINALITY AS wanted(id, n) JOIN task t ON t.id = wanted.id WHERE t.deleted_ms IS NOT NULL ORDER BY wanted.n`, wanted)
	var deleted []string
	if err == nil {
		var id []byte
		_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
			deleted = append(deleted, string(id))
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("look for deleted tasks: %w", err)
	}
	return deleted, nil
}

// List implements ledger.Ledger.
func (r *Reader) List(ctx context.Context, state task.State, limit int) ([]task.Record, error) {
	const newest = ` ORDER BY t.seq DESC LIMIT $1`
	switch {
	case limit <= 0:
		return nil, nil
	case state == "":
		return records(r.query(ctx, ended+newest, limit))
	case state == task.Completed:
		return records(r.query(ctx, ended+` AND t.state = 'completed'`+newest, limit))
	}
	return records(r.query(ctx, ended+` AND t.unwanted = $2`+newest, limit, string(state)))
}

// Live implements ledger.Ledger.
func (r *Reader) Live(ctx context.Context) ([]task.Record, error) {
	return records(r.query(ctx, `SELECT `+liveTasks+` ORDER BY `+inOrder))
}

// records returns each task, also a damaged one, which has the damage as its error.
func records(rows pgx.Rows, err error) (found []task.Record, _ error) {
	err = eachTask(rows, err, func(w entry.Row) error {
		found = append(found, w.Readable())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// eachTask calls do for each row, and closes the rows.
func eachTask(rows pgx.Rows, err error, do func(entry.Row) error) error {
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var w entry.Row
		if err := rows.Scan(w.Into()...); err != nil {
			return fmt.Errorf("read the ledger: %w", err)
		}
		if err := do(w); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	return nil
}

// Export writes the tasks as lines of JSON, in the order of their acceptance.
func (r *Reader) Export(ctx context.Context, w io.Writer, withText bool) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	return r.all(ctx, func(w entry.Row) error {
		record, err := w.Whole()
		if err != nil {
			return err
		}
		if err := out.Encode(entry.Export(record, withText)); err != nil {
			return fmt.Errorf("export task %s: %w", record.Task.ID, err)
		}
		return nil
	})
}

// all calls do for each task, in the order of acceptance. Reading all may take longer than a statement of a daemon may.
func (r *Reader) all(ctx context.Context, do func(entry.Row) error) error {
	return pgx.BeginFunc(ctx, r.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, everything+` ORDER BY t.seq`)
		return eachTask(rows, err, do)
	})
}

// Check reads all of the ledger: each task, and each receipt and the digest of each proof bundle against the record. What is damaged is in the report; the
// error is for a check that could not be made.
func (r *Reader) Check(ctx context.Context) (ledger.Report, error) {
	report := ledger.Report{Schema: r.version, States: map[task.State]int{}}
	err := r.all(ctx, func(w entry.Row) error {
		report.States[w.State()]++
		record, err := w.Whole()
		if err == nil {
			err = entry.Bundled(record)
		}
		if e, ok := errors.AsType[*task.Error](err); ok {
			err = e.Err
		}
		switch {
		case err != nil:
			report.Problem(err.Error())
		case record.End != nil:
			report.Verified++
		}
		return nil
	})
	return report, err
}
