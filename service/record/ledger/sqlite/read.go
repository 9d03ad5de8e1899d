// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"

	"github.com/llama-orch/llama-orch/service/task"
)

// Reader reads a ledger, also one that an orchestratord has open. Its methods may be called from several goroutines.
type Reader struct {
	path    string
	version int
	db      *sql.DB

	get, list, listCompleted, listOther, live, proven, deleted *sql.Stmt
	sessions, spent                                            *sql.Stmt
}

// readers is how many may read at the same time.
const readers = 4

// OpenReader opens a ledger that is there, without writing to it. A failure is an *Error, as a rule.
func OpenReader(path string) (*Reader, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	ctx := context.Background()
	r, version, err := look(ctx, path, len(steps))
	if err != nil {
		return nil, openError(path, err)
	}
	if version != len(steps) {
		err = &Error{
			Fault: TooOld, Path: path, What: fmt.Sprintf("has schema %d, and this version reads %d", version, len(steps)),
			Remedy: "start orchestratord once, which brings it up to date",
		}
	} else {
		err = r.prepare(ctx)
	}
	if err != nil {
		return nil, errors.Join(openError(path, err), r.Close())
	}
	return r, nil
}

// look opens a file for reading and makes sure that it is a ledger.
func look(ctx context.Context, path string, newest int) (r *Reader, version int, err error) {
	db, err := sql.Open("sqlite", dsn(path, "mode=ro"))
	if err != nil {
		return nil, 0, err
	}
	db.SetMaxOpenConns(readers)
	db.SetMaxIdleConns(readers)
	if version, err = probe(ctx, db, path, newest); err != nil {
		return nil, version, errors.Join(err, db.Close())
	}
	return &Reader{path: path, version: version, db: db}, version, nil
}

func (r *Reader) prepare(ctx context.Context) error {
	const (
		ended  = `SELECT ` + entry.Columns + `, x.ends, NULL, NULL, NULL, NULL` + withTexts + ` WHERE t.finished_ms IS NOT NULL`
		newest = ` ORDER BY t.seq DESC LIMIT ?`
	)
	for into, text := range map[**sql.Stmt]string{
		&r.get:           everything + ` WHERE t.id = ?`,
		&r.list:          ended + newest,
		&r.listCompleted: ended + ` AND t.state = 'completed'` + newest,
		&r.listOther:     ended + ` AND t.state = ? AND t.state <> 'completed'` + newest, // as the index has it
		&r.live:          liveTasks,
		&r.proven:        everything + ` WHERE substr(t.proof_sum, 1, 8) = substr(?1, 1, 8) AND t.proof_sum = ?1 ORDER BY t.seq LIMIT 1`,
		&r.deleted:       `SELECT t.id FROM json_each(?) wanted JOIN task t ON t.id = wanted.value WHERE t.deleted_ms IS NOT NULL ORDER BY wanted.key`,
		&r.sessions:      sessionRows,
		&r.spent:         `SELECT account, tokens, time_ms, cost, mj FROM spending WHERE window_ms = ?`,
	} {
		stmt, err := r.db.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		*into = stmt
	}
	return nil
}

// The tables of a query for tasks, without and with transcripts.
const (
	tasks     = ` FROM task t LEFT JOIN request q ON q.seq = t.seq`
	withTexts = tasks + ` LEFT JOIN transcript x ON x.seq = t.seq`
)

const liveTasks = `SELECT ` + entry.Columns + `, NULL, NULL, NULL, NULL, NULL` + tasks + ` WHERE t.finished_ms IS NULL ORDER BY t.state DESC, t.start_order, t.seq`

const everything = `SELECT ` + entry.Columns + `, x.ends, x.text, x.marks, x.logprobs, x.sum` + withTexts

// Close closes the file.
func (r *Reader) Close() error {
	var err error
	for _, s := range []*sql.Stmt{r.get, r.list, r.listCompleted, r.listOther, r.live, r.proven, r.deleted, r.sessions, r.spent} {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	return errors.Join(err, r.db.Close())
}

// Get implements ledger.Ledger.
func (r *Reader) Get(ctx context.Context, id string) (task.Record, bool, error) {
	record, ok, err := one(r.get.QueryRowContext(ctx, id))
	if err != nil {
		return task.Record{}, false, fmt.Errorf("read task %.128q: %w", id, err)
	}
	return record, ok, nil
}

// Proven implements ledger.Ledger.
func (r *Reader) Proven(ctx context.Context, sum [32]byte) (task.Record, bool, error) {
	record, ok, err := one(r.proven.QueryRowContext(ctx, sum[:]))
	if err != nil {
		return task.Record{}, false, fmt.Errorf("read the task of proof bundle %x: %w", sum, err)
	}
	return record, ok, nil
}

// Deleted implements ledger.Ledger.
func (r *Reader) Deleted(ctx context.Context, ids []string) (deleted []string, err error) {
	wanted, err := json.Marshal(ids)
	if err != nil {
		return nil, fmt.Errorf("look for deleted tasks: %w", err)
	}
	rows, err := r.deleted.QueryContext(ctx, string(wanted))
	err = scan(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		deleted = append(deleted, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for deleted tasks: %w", err)
	}
	return deleted, nil
}

func one(found *sql.Row) (task.Record, bool, error) {
	var w entry.Row
	err := found.Scan(w.Into()...)
	if errors.Is(err, sql.ErrNoRows) {
		return task.Record{}, false, nil
	}
	if err != nil {
		return task.Record{}, false, err
	}
	record, err := w.Whole()
	return record, err == nil, err
}

// List implements ledger.Ledger.
func (r *Reader) List(ctx context.Context, state task.State, limit int) ([]task.Record, error) {
	if limit <= 0 {
		return nil, nil
	}
	switch state {
	case "":
		return records(r.list.QueryContext(ctx, limit))
	case task.Completed:
		return records(r.listCompleted.QueryContext(ctx, limit))
	default:
		return records(r.listOther.QueryContext(ctx, string(state), limit))
	}
}

// Live implements ledger.Ledger.
func (r *Reader) Live(ctx context.Context) ([]task.Record, error) {
	return records(r.live.QueryContext(ctx))
}

// records returns each task, also a damaged one, which has the damage as its error.
func records(rows *sql.Rows, err error) (found []task.Record, _ error) {
	err = each(rows, err, func(w entry.Row) error {
		found = append(found, w.Readable())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Export writes the tasks as lines of JSON, in the order of their acceptance.
func (r *Reader) Export(ctx context.Context, w io.Writer, withText bool) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	rows, err := r.db.QueryContext(ctx, everything+" ORDER BY t.seq")
	return each(rows, err, func(w entry.Row) error {
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

// each calls do for each row, and closes the rows.
func each(rows *sql.Rows, err error, do func(entry.Row) error) error {
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	defer rows.Close() // rows.Err has its error already, or it comes too late to matter
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
