// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// linesAtOnce is how many lines of a batch come in one commit.
const linesAtOnce = 256

// lineBytes is about what a line of a batch takes in the file.
const lineBytes = 96

// KeepFile implements ledger.Batches.
func (l *Ledger) KeepFile(ctx context.Context, f task.File) error {
	text, err := entry.Encode(f)
	if err != nil {
		return fmt.Errorf("keep file %s: %w", f.ID, err)
	}
	return l.batched(ctx, "keep file", f.ID, len(text), func(w *writer) error {
		return w.exec(`INSERT INTO file (id, created_ms, artifact, file) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, f.ID, f.CreatedAt.UnixMilli(), f.Artifact, string(text))
	})
}

// DropFile implements ledger.Batches.
func (l *Ledger) DropFile(ctx context.Context, id string) error {
	return l.batched(ctx, "drop file", id, 0, func(w *writer) error {
		read, err := w.counts(`SELECT count(*) FROM batch WHERE ended_ms IS NULL AND file_id = ?`, id)
		switch {
		case err != nil:
			return err
		case read > 0:
			return ledger.ErrLive
		}
		if there, err := w.counts(`SELECT count(*) FROM file WHERE id = ?`, id); err != nil || there == 0 {
			return errors.Join(err, ledger.ErrUnknown)
		}
		return w.exec(`DELETE FROM file WHERE id = ?`, id)
	})
}

// File implements ledger.Batches.
func (r *Reader) File(ctx context.Context, id string) (f task.File, ok bool, err error) {
	var text []byte
	err = r.db.QueryRowContext(ctx, `SELECT file FROM file WHERE id = ?`, id).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return f, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil {
		return f, false, fmt.Errorf("read file %.128q: %w", id, err)
	}
	return f, true, nil
}

// KeepBatch implements ledger.Batches. Lines come in commits of their own, so that callers who wait behind one wait hardly longer than behind
// another caller's commit.
func (l *Ledger) KeepBatch(ctx context.Context, b task.BatchRecord, lines []task.Line) error {
	text, err := entry.Encode(b)
	if err != nil {
		return fmt.Errorf("keep batch %s: %w", b.ID, err)
	}
	err = l.batched(ctx, "keep batch", b.ID, len(text), func(w *writer) error { return w.keepBatch(b, text) })
	for some := range slices.Chunk(lines, linesAtOnce) {
		if err == nil {
			err = l.batched(ctx, "add lines to batch", b.ID, len(some)*lineBytes, func(w *writer) error { return w.addLines(b.ID, some) })
		}
	}
	return err
}

// EndLine implements ledger.Batches.
func (l *Ledger) EndLine(ctx context.Context, line task.Line) error {
	return l.batched(ctx, "end a line of batch", line.Batch, len(line.Refusal)+lineBytes, func(w *writer) error {
		now, err := w.line(line.Batch, line.N)
		if err != nil || now.State == task.LineCompleted || now.State == task.LineFailed {
			return err
		}
		now.State, now.Status, now.Refusal, now.Fault = line.State, line.Status, line.Refusal, line.Fault
		return w.setLine(now)
	})
}

// EndLines implements ledger.Batches.
func (l *Ledger) EndLines(ctx context.Context, b task.BatchRecord, as task.LineState) error {
	text, err := entry.Encode(b)
	if err != nil {
		return fmt.Errorf("end the lines of batch %s: %w", b.ID, err)
	}
	return l.batched(ctx, "end the lines of batch", b.ID, len(text), func(w *writer) error {
		if err := w.keepBatch(b, text); err != nil {
			return err
		}
		return w.exec(`UPDATE batch_line SET state = ? WHERE batch = (SELECT seq FROM batch WHERE id = ?) AND state = 'waiting'`, string(as), b.ID)
	})
}

// Batch implements ledger.Batches.
func (r *Reader) Batch(ctx context.Context, id string) (b task.BatchRecord, ok bool, err error) {
	found, err := r.batches(ctx, `WHERE id = ?`, id)
	if err != nil || len(found) == 0 {
		return b, false, err
	}
	return found[0], true, nil
}

// Batches implements ledger.Batches.
func (r *Reader) Batches(ctx context.Context, f task.BatchFilter) (found []task.BatchRecord, err error) {
	where, args := `WHERE true`, []any{}
	add := func(and string, arg ...any) {
		where += ` AND ` + and
		args = append(args, arg...)
	}
	if f.Dialect != "" {
		add(`dialect = ?`, f.Dialect)
	}
	if f.Live {
		add(`ended_ms IS NULL`)
	}
	if !f.EndedBefore.IsZero() {
		add(`seq IN (SELECT seq FROM batch WHERE ended_ms < ?)`, f.EndedBefore.UnixMilli())
	}
	for id, side := range map[string]string{f.After: `seq < ?`, f.Before: `seq > ?`} {
		if id == "" {
			continue
		}
		var seq int64
		if err := r.db.QueryRowContext(ctx, `SELECT seq FROM batch WHERE id = ?`, id).Scan(&seq); err != nil {
			return nil, fmt.Errorf("look for batch %.128q: %w", id, unknown(err))
		}
		add(side, seq)
	}
	upwards := f.Before != "" && f.After == ""
	where += ` ORDER BY seq`
	if !upwards {
		where += ` DESC`
	}
	if f.Limit > 0 {
		where += ` LIMIT ?`
		args = append(args, f.Limit)
	}
	found, err = r.batches(ctx, where, args...)
	if upwards {
		slices.Reverse(found)
	}
	return found, err
}

func (r *Reader) batches(ctx context.Context, where string, args ...any) (found []task.BatchRecord, err error) {
	seqs := []int64{}
	rows, err := r.db.QueryContext(ctx, `SELECT seq, record FROM batch `+where, args...) //nolint:gosec // where is made of constants
	err = scan(rows, err, func(rows *sql.Rows) error {
		var seq int64
		var text []byte
		var b task.BatchRecord
		if err := rows.Scan(&seq, &text); err != nil {
			return err
		}
		if err := json.Unmarshal(text, &b); err != nil {
			return err
		}
		seqs, found = append(seqs, seq), append(found, b)
		return nil
	})
	for i := range found {
		if err == nil && found[i].EndedAt.IsZero() {
			found[i].Counts, err = r.lineCounts(ctx, seqs[i])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read batches: %w", err)
	}
	return found, nil
}

func (r *Reader) lineCounts(ctx context.Context, batch int64) (c task.LineCounts, err error) {
	rows, err := r.db.QueryContext(ctx, `SELECT state, count(*) FROM batch_line WHERE batch = ? GROUP BY state`, batch)
	return c, scan(rows, err, func(rows *sql.Rows) error {
		var state task.LineState
		var n int
		if err := rows.Scan(&state, &n); err != nil {
			return err
		}
		*c.Of(state) = n
		return nil
	})
}

// Lines implements ledger.Batches.
func (r *Reader) Lines(ctx context.Context, batch string, f task.LineFilter) (found []task.Line, err error) {
	where := ``
	if f.Open {
		where = ` AND l.state IN ('waiting', 'fed')`
	}
	if f.Limit <= 0 {
		f.Limit = -1
	}
	rows, err := r.db.QueryContext(ctx, `SELECT `+lineColumns+` FROM batch b JOIN batch_line l ON l.batch = b.seq WHERE b.id = ? AND l.n > ?`+where+` ORDER BY l.n LIMIT ?`,
		batch, f.After, f.Limit)
	err = scan(rows, err, func(rows *sql.Rows) error {
		line, err := scanLine(rows)
		if err == nil {
			found = append(found, line.Line)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the lines of batch %.128q: %w", batch, err)
	}
	return found, nil
}

// EraseLines implements ledger.Batches.
func (l *Ledger) EraseLines(ctx context.Context, batch string, states []task.LineState, at time.Time) error {
	if err := l.eraseLines(ctx, batch, states, at); err != nil {
		return err
	}
	return l.gone(ctx)
}

func (l *Ledger) eraseLines(ctx context.Context, batch string, states []task.LineState, at time.Time) error {
	for f := (task.LineFilter{Limit: sweepTasks}); ; {
		lines, err := l.Lines(ctx, batch, f)
		if err != nil || len(lines) == 0 {
			return err
		}
		f.After = lines[len(lines)-1].N
		err = l.batched(ctx, "erase lines of batch", batch, 0, func(w *writer) error {
			for _, line := range lines {
				if !slices.Contains(states, line.State) {
					continue
				}
				for ; line.Tries >= 0; line.Tries-- {
					if err := w.delete(line.TaskID(), at); err != nil && !refused(err) {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// DropBatch implements ledger.Batches.
func (l *Ledger) DropBatch(ctx context.Context, id string, at time.Time) error {
	b, ok, err := l.Batch(ctx, id)
	switch {
	case err != nil:
		return err
	case !ok:
		return ledger.ErrUnknown
	case b.EndedAt.IsZero():
		return ledger.ErrLive
	}
	if err := l.eraseLines(ctx, id, task.LineStates(), at); err != nil {
		return err
	}
	for left := int64(1); left > 0; {
		err := l.batched(ctx, "drop batch", id, 0, func(w *writer) error {
			err := w.exec(`DELETE FROM batch_line WHERE (batch, n) IN (SELECT l.batch, l.n FROM batch b JOIN batch_line l ON l.batch = b.seq WHERE b.id = ? LIMIT ?)`, id, sweepTasks)
			if err == nil {
				left, err = w.counts(`SELECT count(*) FROM (SELECT 1 FROM batch b JOIN batch_line l ON l.batch = b.seq WHERE b.id = ? LIMIT 1)`, id)
			}
			if err != nil || left > 0 {
				return err
			}
			return w.exec(`DELETE FROM batch WHERE id = ?`, id)
		})
		if err != nil {
			return err
		}
	}
	return l.gone(ctx)
}

// batched has the writer do something about a file or a batch.
func (l *Ledger) batched(ctx context.Context, what, id string, size int, run func(*writer) error) error {
	if err := l.submit(ctx, &op{kind: opBatch, id: id, size: size, run: run}); err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

func (w *writer) exec(text string, args ...any) error {
	_, err := w.conn.ExecContext(context.Background(), text, args...)
	return err
}

func (w *writer) counts(text string, args ...any) (n int64, err error) {
	err = w.conn.QueryRowContext(context.Background(), text, args...).Scan(&n)
	return n, err
}

func (w *writer) keepBatch(b task.BatchRecord, text []byte) error {
	known, err := w.counts(`SELECT count(*) FROM batch WHERE id = ?`, b.ID)
	if err != nil {
		return err
	}
	if known > 0 {
		return w.exec(`UPDATE batch SET ended_ms = ?, record = ? WHERE id = ?`, entry.ToMS(b.EndedAt), string(text), b.ID)
	}
	if b.FileID != "" {
		if there, err := w.counts(`SELECT count(*) FROM file WHERE id = ?`, b.FileID); err != nil || there == 0 {
			return errors.Join(err, ledger.ErrUnknown)
		}
	}
	return w.exec(`INSERT INTO batch (id, dialect, file_id, artifact, ended_ms, record) VALUES (?, ?, ?, ?, ?, ?)`, b.ID, b.Dialect, b.FileID, b.Artifact, entry.ToMS(b.EndedAt), string(text))
}

func (w *writer) addLines(batch string, lines []task.Line) error {
	seq, err := w.counts(`SELECT coalesce((SELECT seq FROM batch WHERE id = ?), 0)`, batch)
	if err != nil || seq == 0 {
		return errors.Join(err, ledger.ErrUnknown)
	}
	for _, l := range lines {
		outcome, err := encodeLine(l)
		if err != nil {
			return err
		}
		if _, err := w.insertLine.Exec(seq, l.N, l.CustomID, l.At, l.Bytes, string(l.State), l.Tries, outcome); err != nil {
			return err
		}
	}
	return nil
}

// storedLine is a line, with the number of its batch.
type storedLine struct {
	task.Line

	batch int64
}

// lineColumns are what scanLine takes.
const lineColumns = `b.seq, b.id, l.n, l.custom_id, l.at, l.bytes, l.state, l.tries, l.outcome`

func scanLine(from interface{ Scan(into ...any) error }) (*storedLine, error) {
	var l storedLine
	var outcome []byte
	if err := from.Scan(&l.batch, &l.Batch, &l.N, &l.CustomID, &l.At, &l.Bytes, &l.State, &l.Tries, &outcome); err != nil {
		return nil, err
	}
	return &l, entry.DecodeLine(outcome, &l.Line)
}

// encodeLine is the outcome of a line, where it has one.
func encodeLine(l task.Line) (sql.NullString, error) {
	text, err := entry.EncodeLine(l)
	return entry.OrNull(string(text)), err
}

func (w *writer) line(batch string, n int) (*storedLine, error) {
	l, err := scanLine(w.findLine.QueryRow(batch, n))
	return l, unknown(err)
}

func (w *writer) setLine(l *storedLine) error {
	outcome, err := encodeLine(l.Line)
	if err == nil {
		_, err = w.changeLine.Exec(string(l.State), l.Tries, outcome, l.batch, l.N)
	}
	return err
}

// lineOf is the line that a task is about to be accepted for; nil: there is none.
func (w *writer) lineOf(t task.Task) (*storedLine, error) {
	if t.Request.BatchID == "" {
		return nil, nil
	}
	l, err := w.line(t.Request.BatchID, t.Request.BatchLine)
	switch {
	case errors.Is(err, ledger.ErrUnknown):
		return nil, nil
	case err == nil && (l.State != task.LineWaits || l.TaskID() != t.ID):
		if state, _, err := w.find(t.ID); err == nil && state != "" { // it was accepted before
			return nil, nil
		}
		return nil, fmt.Errorf("%w: the line of its batch is %s", ledger.ErrEnded, l.State)
	}
	return l, err
}

// endOfLine moves the line of a task that has ended.
func (w *writer) endOfLine(r task.Record) error {
	if r.Task.Request.BatchID == "" {
		return nil
	}
	l, err := w.line(r.Task.Request.BatchID, r.Task.Request.BatchLine)
	if errors.Is(err, ledger.ErrUnknown) {
		return nil
	}
	if err != nil || l.State.Final() || l.TaskID() != r.Task.ID {
		return err
	}
	l.Line = l.After(r)
	return w.setLine(l)
}

// scan calls do for each row, and closes the rows.
func scan(rows *sql.Rows, err error, do func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer rows.Close() // rows.Err has its error already, or it comes too late to matter
	for rows.Next() {
		if err := do(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
