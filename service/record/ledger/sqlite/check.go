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
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/task"
)

// Report is what a check found.
type Report struct {
	Schema   int
	States   map[task.State]int
	Verified int      // transcripts that are what their receipts say
	Problems []string // none: the ledger is whole
	Losses   []string // what was recorded and was missing at a start since
}

// maxProblems bounds the list of a report: nobody reads more.
const maxProblems = 50

// Check reads all of the ledger: SQLite's own check of the file's structure, each task, and each receipt and the digest of
// each proof bundle against the record. What is damaged is in the report; the error is for a check that could not be made.
func (r *Reader) Check(ctx context.Context) (Report, error) {
	report := Report{Schema: r.version, States: map[task.State]int{}}
	if err := r.integrity(ctx, &report); err != nil {
		return report, err
	}
	var err error
	if report.Losses, err = r.losses(ctx); err != nil {
		report.Problems = append(report.Problems, err.Error())
	}
	rows, err := r.db.QueryContext(ctx, everything+" ORDER BY t.seq")
	err = each(rows, err, func(w row) error {
		report.States[w.r.State]++
		record, err := w.whole()
		if err == nil {
			err = bundled(record)
		}
		if e, ok := errors.AsType[*task.Error](err); ok {
			err = e.Err
		}
		switch {
		case err != nil && len(report.Problems) < maxProblems:
			report.Problems = append(report.Problems, err.Error())
		case err == nil && record.End != nil:
			report.Verified++
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		report.Problems = append(report.Problems, err.Error())
		err = nil
	}
	return report, err
}

// integrity runs SQLite's own check, whose lines are "ok" or say what is wrong.
func (r *Reader) integrity(ctx context.Context, report *Report) error {
	rows, err := r.db.QueryContext(ctx, fmt.Sprintf("PRAGMA integrity_check(%d)", maxProblems))
	if err != nil {
		report.Problems = append(report.Problems, err.Error())
		return ctx.Err()
	}
	defer rows.Close() // rows.Err has its error already, or it comes too late to matter
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return fmt.Errorf("check the ledger: %w", err)
		}
		if line != "ok" {
			report.Problems = append(report.Problems, line)
		}
	}
	if err := rows.Err(); err != nil {
		report.Problems = append(report.Problems, err.Error())
	}
	return ctx.Err()
}

// verify returns what is wrong with a record that could be read, or nil.
func verify(r task.Record) error {
	ends := r.Transcript.Ends
	switch {
	case r.Deleted != nil: // nothing of it can be checked
		return nil
	case r.State.Final() && (r.End != nil) == (r.Err != nil):
		return fmt.Errorf("task %s is %s and has no outcome, or two", r.Task.ID, r.State)
	case len(ends) > 0 && ends[len(ends)-1] != len(r.Transcript.Text), len(ends) == 0 && r.Transcript.Text != "":
		return fmt.Errorf("the transcript of task %s is longer or shorter than its tokens", r.Task.ID)
	}
	if r.End != nil {
		if got := r.Transcript.Digest(); got != r.End.Receipt.TranscriptSHA256 {
			return fmt.Errorf("the transcript of task %s has the SHA-256 %s, and its receipt says %s", r.Task.ID, got, r.End.Receipt.TranscriptSHA256)
		}
	}
	return nil
}

// bundled returns what is wrong with a task's proof bundle, or nil.
func bundled(r task.Record) error {
	if _, err := bundle.Text(r); err != nil && !errors.Is(err, bundle.ErrNone) {
		return err
	}
	return nil
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
