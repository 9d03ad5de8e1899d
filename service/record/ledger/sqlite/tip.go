// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"

	"go.uber.org/zap"
)

// A log of writes that is cut off or removed while nobody has the ledger open takes with it what was answered, and SQLite cannot
// tell: the database is whole, only older. So each commit counts itself in the database, and its number is also written to a small file beside it
// (LO-835). That file is not forced to the disk, which would double the cost of a commit. So after a loss of power it may be older than the
// database, and then it tells nothing. It is never newer, unless commits are gone.

// tipSuffix ends the name of that file.
const tipSuffix = "-tip"

// tipBytes is its size. It is written at once and in one place, so that a crash leaves the old or the new.
const tipBytes = 128

// tip is the last commit that somebody was told of.
type tip struct {
	Commits int64  `json:"commits"`
	Seq     uint64 `json:"seq"` // the greatest of a task
	AtMS    int64  `json:"at_ms"`
}

// loss is what is missing.
type loss struct {
	commits, tasks int64 // tasks: at most
	from, to       time.Time
}

func (l loss) String() string {
	return fmt.Sprintf("the last commits are missing (%d), of tasks that were accepted, ended or deleted between %s and %s; the accepts of at most %d tasks are among them",
		l.commits, l.from.UTC().Format(time.RFC3339), l.to.UTC().Format(time.RFC3339), l.tasks)
}

// tipFile is that file. The writing goroutine has it.
type tipFile struct {
	file   *os.File
	now    tip
	failed bool
}

func openTip(path string) (*tipFile, error) {
	f, err := os.OpenFile(path+tipSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, noAccess(path, err)
	}
	return &tipFile{file: f}, nil
}

// read returns what the file says. A file that says nothing is that of a new ledger, or was lost with the machine's power.
func (f *tipFile) read() (found tip, ok bool) {
	text := make([]byte, tipBytes)
	n, _ := f.file.ReadAt(text, 0)
	return found, n == tipBytes && json.Unmarshal(text, &found) == nil
}

// write notes a commit.
func (f *tipFile) write() error {
	text, err := json.Marshal(f.now)
	if err != nil {
		return err
	}
	_, err = f.file.WriteAt(fmt.Appendf(nil, "%-*s\n", tipBytes-1, text), 0)
	return err
}

func (f *tipFile) close() error {
	if f == nil {
		return nil
	}
	return f.file.Close()
}

// compare finds out whether commits are gone, and records and tells that. Sequence numbers of tasks that are gone are not given again.
func (l *Ledger) compare(ctx context.Context) error {
	var at int64
	has := &l.w.tip.now
	if err := l.w.conn.QueryRowContext(ctx, "SELECT commits, at_ms FROM tip").Scan(&has.Commits, &at); err != nil {
		return err
	}
	has.Seq, has.AtMS = l.nextSeq, at
	told, ok := l.w.tip.read()
	if !ok || told.Commits <= has.Commits {
		return nil
	}
	lost := loss{commits: told.Commits - has.Commits, from: time.UnixMilli(at), to: time.UnixMilli(told.AtMS)}
	if told.Seq > has.Seq {
		lost.tasks = int64(told.Seq - has.Seq)
	}
	l.log.Error("the ledger lacks what was recorded last: its log of writes was cut off or removed, or an older copy of it was put in its place",
		zap.Int64("commits", lost.commits), zap.Int64("tasks_at_most", lost.tasks), zap.Time("from", lost.from), zap.Time("to", lost.to))
	err := l.w.transaction(func() error {
		for _, change := range []struct {
			text string
			args []any
		}{
			{
				`INSERT INTO loss (found_ms, commits, tasks, from_ms, to_ms) VALUES (?, ?, ?, ?, ?)`,
				[]any{entry.ToMS(l.o.Now()), lost.commits, lost.tasks, at, told.AtMS},
			},
			{`UPDATE tip SET commits = ?`, []any{told.Commits}},
			{`UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'task'`, []any{int64(told.Seq)}},
		} {
			if _, err := l.w.conn.ExecContext(ctx, change.text, change.args...); err != nil {
				return err
			}
		}
		return nil
	})
	has.Commits, has.Seq = told.Commits, max(told.Seq, has.Seq)
	l.nextSeq = has.Seq
	return err
}

// count counts a commit within itself, where somebody waits for it.
func (w *writer) count(batch []*op, now time.Time) (counted bool, err error) {
	for _, o := range batch {
		counted = counted || o.done != nil && o.err == nil
	}
	if !counted {
		return false, nil
	}
	_, err = w.countCommit.Exec(w.tip.now.Commits+1, entry.ToMS(now))
	return true, err
}

// tell notes a commit that was counted, once it is made.
func (w *writer) tell(batch []*op, now time.Time, log *zap.Logger) {
	t := &w.tip.now
	t.Commits++
	t.AtMS = now.UnixMilli()
	for _, o := range batch {
		if o.err == nil {
			t.Seq = max(t.Seq, o.seq)
		}
	}
	err := w.tip.write()
	if err != nil && !w.tip.failed {
		log.Warn("the number of the last commit cannot be noted beside the ledger, so that a loss of it would not be noticed", zap.Error(err))
	}
	w.tip.failed = err != nil
}

// losses are what was found to be missing, at this ledger's starts and now.
func (r *Reader) losses(ctx context.Context) (found []string, err error) {
	rows, err := r.db.QueryContext(ctx, "SELECT commits, tasks, from_ms, to_ms FROM loss ORDER BY rowid")
	if err != nil {
		return nil, fmt.Errorf("read what was lost: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var l loss
		var from, to int64
		if err := rows.Scan(&l.commits, &l.tasks, &from, &to); err != nil {
			return nil, fmt.Errorf("read what was lost: %w", err)
		}
		l.from, l.to = time.UnixMilli(from), time.UnixMilli(to)
		found = append(found, l.String())
	}
	return found, rows.Err()
}
