// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/task"
)

// Check reads all of the ledger: SQLite's own check of the file's structure, each task, and each receipt and the digest of
// each proof bundle against the record. What is damaged is in the report; the error is for a check that could not be made.
func (r *Reader) Check(ctx context.Context) (ledger.Report, error) {
	report := ledger.Report{Schema: r.version, States: map[task.State]int{}}
	if err := r.integrity(ctx, &report); err != nil {
		return report, err
	}
	var err error
	if report.Losses, err = r.losses(ctx); err != nil {
		report.Problem(err.Error())
	}
	rows, err := r.db.QueryContext(ctx, everything+" ORDER BY t.seq")
	err = each(rows, err, func(w entry.Row) error {
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
	if err != nil && ctx.Err() == nil {
		report.Problem(err.Error())
		err = nil
	}
	return report, err
}

// integrity runs SQLite's own check, whose lines are "ok" or say what is wrong.
func (r *Reader) integrity(ctx context.Context, report *ledger.Report) error {
	rows, err := r.db.QueryContext(ctx, "PRAGMA integrity_check(50)")
	if err != nil {
		report.Problem(err.Error())
		return ctx.Err()
	}
	defer rows.Close() // rows.Err has its error already, or it comes too late to matter
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return fmt.Errorf("check the ledger: %w", err)
		}
		if line != "ok" {
			report.Problem(line)
		}
	}
	if err := rows.Err(); err != nil {
		report.Problem(err.Error())
	}
	return ctx.Err()
}

// Backup writes a whole copy of the ledger as it is now to a file that is not there yet, also while orchestratord runs. Of a damaged ledger it makes none, and fails with
// an *Error.
func (r *Reader) Backup(ctx context.Context, file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return fmt.Errorf("back up the ledger: %w", err)
	}
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("back up the ledger: %s is there already: name another file", file)
	}
	err = atomicfile.Fill(file, 0o600, func(f *os.File) error { // prompts and answers are in it
		_, err := r.db.ExecContext(ctx, "VACUUM INTO ?", f.Name())
		return err
	})
	if code(err) == sqlite3.SQLITE_CORRUPT || code(err) == sqlite3.SQLITE_NOTADB || extended(err) == sqlite3.SQLITE_IOERR_READ {
		err = damaged(r.path, "has pages that cannot be read", err)
	}
	if err != nil {
		return fmt.Errorf("back up the ledger: %w", err)
	}
	return nil
}
