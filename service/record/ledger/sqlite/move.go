// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
)

// Rows implements entry.Store.
func (r *Reader) Rows(ctx context.Context, t entry.Table, do func(row []any) error) error {
	rows, err := r.db.QueryContext(ctx, t.Select())
	return scan(rows, err, func(rows *sql.Rows) error {
		numbers, texts := make([]sql.NullInt64, t.Numbers), make([][]byte, len(t.Columns)-t.Numbers)
		into, row := make([]any, 0, len(t.Columns)), make([]any, len(t.Columns))
		for i := range numbers {
			into = append(into, &numbers[i])
		}
		for i := range texts {
			into = append(into, &texts[i])
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		for i, n := range numbers {
			if n.Valid {
				row[i] = n.Int64
			}
		}
		for i, b := range texts {
			switch {
			case b != nil:
				row[t.Numbers+i] = b
			case t.Columns[t.Numbers+i] == "ends": // which is never NULL: the driver makes no difference between that and no bytes
				row[t.Numbers+i] = []byte{}
			}
		}
		return do(row)
	})
}

// Last is the greatest sequence number that a task ever had.
func (r *Reader) Last(ctx context.Context) (seq uint64, err error) {
	err = r.db.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'task'`).Scan(&seq)
	return seq, err
}

// blobs are the columns that are no texts.
const blobs = ` checkpoint_sum proof_sum sum ends marks `

// Fill makes a ledger under a name that is free, of the rows of another store. Its next task gets a number behind last. If that fails, nothing is left.
func Fill(ctx context.Context, path string, from entry.Store, last uint64) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("fill the ledger %s: it is there already: give it another name", path)
	}
	if err := create(ctx, path, steps); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Remove(path))
		}
	}()
	db, err := sql.Open("sqlite", dsn(path, "mode=rw", "_sync=FULL", "_journal=WAL", "_pragma=secure_delete(1)"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	for _, t := range entry.Tables {
		if err := fillTable(ctx, tx, t, from); err != nil {
			return fmt.Errorf("fill table %s: %w", t.Name, err)
		}
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM sqlite_sequence WHERE name = 'task'`); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO sqlite_sequence (name, seq) VALUES ('task', ?)`, int64(last)); err != nil {
		return err
	}
	return tx.Commit()
}

func fillTable(ctx context.Context, tx *sql.Tx, t entry.Table, from entry.Store) error {
	insert, err := tx.PrepareContext(ctx, `INSERT INTO `+t.Name+` (`+strings.Join(t.Columns, `, `)+`) VALUES (?`+strings.Repeat(`, ?`, len(t.Columns)-1)+`)`) //nolint:gosec // of constants
	if err != nil {
		return err
	}
	err = from.Rows(ctx, t, func(row []any) error {
		for i, v := range row {
			if text, ok := v.([]byte); ok && !strings.Contains(blobs, " "+t.Columns[i]+" ") {
				row[i] = string(text)
			}
		}
		_, err := insert.ExecContext(ctx, row...)
		return err
	})
	return errors.Join(err, insert.Close())
}

// Remove removes a ledger that nobody has open, if there is one.
func Remove(path string) (err error) {
	for _, part := range parts(path) {
		if failed := os.Remove(part); !errors.Is(failed, os.ErrNotExist) {
			err = errors.Join(err, failed)
		}
	}
	return err
}

// Place gives a ledger that was filled, and that nobody has open, its name.
func Place(fresh, path string) error {
	for _, part := range parts(fresh) {
		info, err := os.Stat(part)
		switch {
		case part == fresh || errors.Is(err, os.ErrNotExist):
			continue
		case err == nil && info.Size() > 0 && strings.HasSuffix(part, "-wal"):
			return fmt.Errorf("place the ledger: %s is not empty", part)
		}
		if err := errors.Join(err, os.Remove(part)); err != nil {
			return noAccess(path, err)
		}
	}
	if err := os.Rename(fresh, path); err != nil {
		return noAccess(path, err)
	}
	return syncDir(path)
}
