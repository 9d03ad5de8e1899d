// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/record/ledger"
)

// What is deleted has to be gone from the files too (LO-833). SQLite overwrites each row and each page that it frees (secure_delete). Three
// places are left: SQLite moves rows from page to page and does not wipe where they were within a page, the log of writes has older versions of
// pages, and a crash may come between. So a pass over the file follows each deletion: it wipes the unused parts of pages, and then
// empties the log of writes.

// How a pass ends where another program, such as a backup, reads the log of writes and keeps it from being emptied.
const (
	emptyEvery  = 100 * time.Millisecond
	emptyWithin = 10 * time.Second
)

// erase is the pass that the writing goroutine makes, in steps between the commits.
type erase struct {
	due     bool // a pass is to be made, though nobody may wait for it
	running bool
	waiting []chan error // who waits for this pass
	group   int64        // of pages, that comes next
	since   time.Time    // when the log of writes was first tried to be emptied; zero: it was not
}

// Delete implements ledger.Ledger.
func (l *Ledger) Delete(ctx context.Context, id string, at time.Time) error {
	if err := l.submit(ctx, &op{kind: opDelete, id: id, run: func(w *writer) error { return w.delete(id, at) }}); err != nil {
		return err
	}
	if err := l.gone(ctx); err != nil {
		return fmt.Errorf("%s task %s: %w", opDelete, id, err)
	}
	return nil
}

// gone waits until nothing of what was deleted is in the files any more.
func (l *Ledger) gone(ctx context.Context) error {
	// What is being kept of old tasks at this moment may have been read before, so that it comes back into its caller's store.
	l.keeping.Lock()
	l.keeping.Unlock() //nolint:staticcheck // it waits
	done := make(chan error, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ledger.ErrClosed
	}
	l.erasures = append(l.erasures, done)
	l.mu.Unlock()
	l.nudge()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// delete replaces what is recorded of an ended task by what stays of it. It does that for a damaged entry too.
func (w *writer) delete(id string, at time.Time) error {
	var found entry.Row
	if err := w.findAll.QueryRow(id).Scan(found.Into()...); err != nil {
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
	for _, change := range []struct {
		text string
		args []any
	}{
		{`DELETE FROM transcript WHERE seq = ?`, []any{found.Seq()}},
		{`DELETE FROM request WHERE seq = ?`, []any{found.Seq()}},
		{`INSERT INTO request (seq, task, sum) VALUES (?, ?, ?)`, []any{found.Seq(), string(body), entry.TaskSum(record.Task, body)}},
		{`UPDATE task SET outcome = ?, deleted_ms = ?, text_until_ms = NULL, fingerprint = NULL, checkpoint_event = NULL, checkpoint_sum = NULL, sealed_at = NULL,
			last_event_id = NULL, proof_sum = NULL, proof_bytes = NULL, proof_keeps = NULL WHERE seq = ?`, []any{string(outcome), entry.ToMS(at), found.Seq()}},
		{`INSERT OR IGNORE INTO erasing (one) VALUES (1)`, nil},
	} {
		if _, err := w.conn.ExecContext(context.Background(), change.text, change.args...); err != nil {
			return err
		}
	}
	return nil
}

// leftOver reports whether a run before ended in the middle of a pass.
func (w *writer) leftOver(ctx context.Context) (due bool, err error) {
	err = w.conn.QueryRowContext(ctx, "SELECT count(*) > 0 FROM erasing").Scan(&due)
	return due, err
}

// eraseStep goes on with the pass, if there is one. It reports whether there is more to do at once, or after a while.
func (l *Ledger) eraseStep() (more bool, again time.Duration) {
	e := &l.w.erase
	if !e.running {
		l.mu.Lock()
		e.waiting, l.erasures = l.erasures, nil
		l.mu.Unlock()
		if len(e.waiting) == 0 && !e.due {
			return false, 0
		}
		*e = erase{running: true, waiting: e.waiting}
	}
	if e.since.IsZero() {
		more, err := l.w.wipe(e.group)
		if err != nil {
			return l.erased(fmt.Errorf("%w: %w", ledger.ErrUnavailable, err)), 0
		}
		if e.group++; !more {
			e.since = time.Now() // the real time, as other programs take it
		}
		return true, 0
	}
	empty, err := l.w.empty()
	switch {
	case err != nil:
		return l.erased(fmt.Errorf("%w: %w", ledger.ErrUnavailable, err)), 0
	case empty:
		return l.erased(l.w.transaction(func() error {
			_, err := l.w.conn.ExecContext(context.Background(), "DELETE FROM erasing")
			return err
		})), 0
	case time.Since(e.since) > emptyWithin:
		return l.erased(fmt.Errorf("%w: another program reads it, and so its log of writes still has what was deleted", ledger.ErrUnavailable)), 0
	}
	return false, emptyEvery
}

// erased ends the pass, and those who come too late for it where the ledger is closed. It reports whether others wait for another pass.
func (l *Ledger) erased(err error) (more bool) {
	e := &l.w.erase
	if err != nil && len(e.waiting) == 0 && e.running {
		l.log.Warn("what was deleted may still be in the ledger's file, until the next deletion or the next start", zap.Error(err))
	}
	for _, done := range e.waiting {
		done <- err
	}
	*e = erase{}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		for _, done := range l.erasures {
			done <- ledger.ErrClosed
		}
		l.erasures = nil
	}
	return len(l.erasures) > 0
}

// empty moves the log of writes into the database and cuts it to nothing. It returns false where another program reads it.
func (w *writer) empty() (done bool, err error) {
	ctx := context.Background()
	if _, err := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", emptyEvery.Milliseconds())); err != nil {
		return false, err
	}
	var busy, frames, moved int
	err = w.conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
	if _, failed := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", busyMS)); failed != nil && err == nil {
		err = failed
	}
	return busy == 0, err
}

// The kinds of pages that hold rows, in SQLite's map of pages.
const (
	mapRoot  = 1
	mapBTree = 5
)

// wipe overwrites the unused parts of a group of pages. A group is the pages of one page of the map, which stands before them. It
// reports whether there are more groups.
func (w *writer) wipe(group int64) (more bool, err error) {
	err = w.transaction(func() error {
		pages, _, size, err := w.pages()
		if err != nil {
			return err
		}
		per := size / 5 // bytes of an entry: the kind, and the page that leads to it
		first := 2 + group*(per+1)
		if first > pages {
			return nil
		}
		more = first+per+1 <= pages
		kinds, err := w.page(first)
		if err != nil {
			return err
		}
		for i := int64(0); i < per && first+1+i <= pages; i++ {
			if kind := kinds[5*i]; kind != mapRoot && kind != mapBTree {
				continue
			}
			data, err := w.page(first + 1 + i)
			if err != nil {
				return err
			}
			if !wipeUnused(data) {
				continue
			}
			if _, err := w.conn.ExecContext(context.Background(), "UPDATE sqlite_dbpage SET data = ? WHERE pgno = ?", data, first+1+i); err != nil {
				return err
			}
		}
		return nil
	})
	return more, err
}

func (w *writer) page(n int64) (data []byte, err error) {
	err = w.conn.QueryRowContext(context.Background(), "SELECT data FROM sqlite_dbpage WHERE pgno = ?", n).Scan(&data)
	return data, err
}

// wipeUnused puts zeros between the list of a page's rows and the rows, and into its free blocks. It reports whether that
// changed anything. What is no page with rows stays as it is. (The format is at https://sqlite.org/fileformat2.html#b_tree_pages.)
func wipeUnused(page []byte) (changed bool) {
	if len(page) < 512 {
		return false
	}
	head := 8
	switch page[0] {
	case 2, 5:
		head = 12
	case 10, 13:
	default:
		return false
	}
	at := func(i int) int { return int(binary.BigEndian.Uint16(page[i:])) }
	listEnd, rows := head+2*at(3), at(5)
	if rows == 0 {
		rows = 1 << 16
	}
	if listEnd > rows || rows > len(page) {
		return false
	}
	changed = zero(page[listEnd:rows])
	for block := at(1); block >= rows && block+4 <= len(page); {
		next, size := at(block), at(block+2)
		if size < 4 || block+size > len(page) {
			break
		}
		changed = zero(page[block+4:block+size]) || changed
		if next <= block {
			break
		}
		block = next
	}
	return changed
}

func zero(b []byte) (changed bool) {
	for i := range b {
		changed = changed || b[i] != 0
		b[i] = 0
	}
	return changed
}
