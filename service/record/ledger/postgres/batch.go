// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/task"
)

// linesAtOnce is how many lines of a batch come in one commit.
const linesAtOnce = 256

// lineBytes is about what a line of a batch takes.
const lineBytes = 96

// batched has the writer do something about a file or a batch.
func (l *Ledger) batched(ctx context.Context, what, id string, size int, run func(context.Context, *transaction) error) error {
	if err := l.submit(ctx, &op{kind: opBatch, id: id, size: size, free: true, run: run}); err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

func (x *transaction) exec(ctx context.Context, text string, args ...any) error {
	_, err := x.c.Exec(ctx, text, args...)
	return err
}

func (x *transaction) there(ctx context.Context, text string, args ...any) (yes bool, err error) {
	err = x.c.QueryRow(ctx, `SELECT EXISTS (`+text+`)`, args...).Scan(&yes)
	return yes, err
}

// KeepFile implements ledger.Batches.
func (l *Ledger) KeepFile(ctx context.Context, f task.File) error {
	text, err := entry.Encode(f)
	if err != nil {
		return fmt.Errorf("keep file %s: %w", f.ID, err)
	}
	return l.batched(ctx, "keep file", f.ID, len(text), func(ctx context.Context, x *transaction) error {
		return x.exec(ctx, `INSERT INTO file (id, created_ms, artifact, file, host) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, []byte(f.ID), f.CreatedAt.UnixMilli(), []byte(f.Artifact), text, orNull(l.o.Owner))
	})
}

// DropFile implements ledger.Batches. The file's row is locked first, and by whoever makes a batch of it too.
func (l *Ledger) DropFile(ctx context.Context, id string) error {
	return l.batched(ctx, "drop file", id, 0, func(ctx context.Context, x *transaction) error {
		if err := x.exec(ctx, `SELECT 1 FROM file WHERE id = $1 FOR UPDATE`, []byte(id)); err != nil {
			return err
		}
		read, err := x.there(ctx, `SELECT 1 FROM batch WHERE ended_ms IS NULL AND file_id = $1`, []byte(id))
		switch {
		case err != nil:
			return err
		case read:
			return ledger.ErrLive
		}
		done, err := x.c.Exec(ctx, `DELETE FROM file WHERE id = $1`, []byte(id))
		if err == nil && done.RowsAffected() == 0 {
			return ledger.ErrUnknown
		}
		return err
	})
}

// File implements ledger.Batches.
func (r *Reader) File(ctx context.Context, id string) (f task.File, ok bool, err error) {
	var text []byte
	err = r.row(ctx, []any{&text}, `SELECT file FROM file WHERE id = $1`, []byte(id))
	if errors.Is(err, pgx.ErrNoRows) {
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

// Files implements ledger.Batches. Files and batches are in order by the time, by which of the two they are, and by their number.
func (r *Reader) Files(ctx context.Context, f task.FileFilter) (found []task.Listed, err error) {
	ms, kind, seq := int64(math.MaxInt64), int64(0), int64(0) // nothing is behind that
	side, order := `<`, `DESC`
	if f.Oldest {
		ms, side, order = math.MinInt64, `>`, `ASC`
	}
	if f.After != "" {
		err := r.row(ctx, []any{&ms, &kind, &seq}, `SELECT created_ms, 0::bigint, seq FROM file WHERE id = $1 UNION ALL
			SELECT ended_ms, 1::bigint, seq FROM batch WHERE id = $1 AND ended_ms IS NOT NULL`, []byte(f.After))
		if err != nil {
			return nil, fmt.Errorf("look for file %.128q: %w", f.After, unknown(err))
		}
	}
	rows, err := r.query(ctx,
		`SELECT created_ms AS ms, 0::bigint AS kind, seq, file AS text FROM file WHERE $1 AND ($7::text IS NULL OR host IS NULL OR host = $7) AND (created_ms, 0::bigint, seq) `+side+` ($3::bigint, $4::bigint, $5::bigint) UNION ALL
		SELECT ended_ms, 1::bigint, seq, record FROM batch WHERE ended_ms IS NOT NULL AND dialect = $2 AND (ended_ms, 1::bigint, seq) `+side+` ($3::bigint, $4::bigint, $5::bigint)
		ORDER BY ms `+order+`, kind `+order+`, seq `+order+` LIMIT $6`, f.Sent, []byte(f.Results), ms, kind, seq, limit(f.Limit), r.own(f.Own))
	if err == nil {
		var text []byte
		_, err = pgx.ForEachRow(rows, []any{&ms, &kind, &seq, &text}, func() error {
			var one task.Listed
			var into any = &one.File
			if kind == 1 {
				one.Batch = &task.BatchRecord{}
				into = one.Batch
			}
			if err := json.Unmarshal(text, into); err != nil {
				return err
			}
			found = append(found, one)
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read the files: %w", err)
	}
	return found, nil
}

// limit is a bound of a query; nil: none.
func limit(n int) *int {
	if n <= 0 {
		return nil
	}
	return &n
}

// Uses implements ledger.Batches.
func (r *Reader) Uses(ctx context.Context, artifact string) (used bool, err error) {
	err = r.row(ctx, []any{&used}, `SELECT EXISTS (SELECT 1 FROM file WHERE artifact = $1) OR
		EXISTS (SELECT 1 FROM batch WHERE artifact = $1 AND (file_id = '' OR ended_ms IS NULL))`, []byte(artifact))
	if err != nil {
		return false, fmt.Errorf("look for what uses artifact %.128q: %w", artifact, err)
	}
	return used, nil
}

// KeepBatch implements ledger.Batches. Lines come in commits of their own, so that callers who wait behind one wait hardly longer than behind
// another caller's commit.
func (l *Ledger) KeepBatch(ctx context.Context, b task.BatchRecord, lines []task.Line) error {
	text, err := entry.Encode(b)
	if err != nil {
		return fmt.Errorf("keep batch %s: %w", b.ID, err)
	}
	err = l.batched(ctx, "keep batch", b.ID, len(text), func(ctx context.Context, x *transaction) error { return x.keepBatch(ctx, b, text) })
	for some := range slices.Chunk(lines, linesAtOnce) {
		if err == nil {
			err = l.batched(ctx, "add lines to batch", b.ID, len(some)*lineBytes, func(ctx context.Context, x *transaction) error { return x.addLines(ctx, b.ID, some) })
		}
	}
	return err
}

func (x *transaction) keepBatch(ctx context.Context, b task.BatchRecord, text []byte) error {
	ended := ms(entry.ToMS(b.EndedAt))
	done, err := x.c.Exec(ctx, `UPDATE batch SET ended_ms = $1, record = $2 WHERE id = $3`, ended, text, []byte(b.ID))
	if err != nil || done.RowsAffected() > 0 {
		return err
	}
	if b.FileID != "" {
		there, err := x.c.Exec(ctx, `SELECT 1 FROM file WHERE id = $1 FOR SHARE`, []byte(b.FileID))
		if err == nil && there.RowsAffected() == 0 {
			return ledger.ErrUnknown
		}
		if err != nil {
			return err
		}
	}
	return x.exec(ctx, `INSERT INTO batch (id, dialect, file_id, artifact, ended_ms, record, host) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		[]byte(b.ID), []byte(b.Dialect), []byte(b.FileID), []byte(b.Artifact), ended, text, orNull(x.w.o.Owner))
}

func (x *transaction) addLines(ctx context.Context, batch string, lines []task.Line) error {
	var seq int64
	if err := x.c.QueryRow(ctx, `SELECT seq FROM batch WHERE id = $1`, []byte(batch)).Scan(&seq); err != nil {
		return unknown(err)
	}
	b := &pgx.Batch{}
	for _, l := range lines {
		outcome, err := entry.EncodeLine(l)
		if err != nil {
			return err
		}
		b.Queue(`INSERT INTO batch_line (batch, n, custom_id, at, bytes, state, tries, outcome) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
			seq, l.N, []byte(l.CustomID), l.At, l.Bytes, string(l.State), l.Tries, outcome)
	}
	return x.c.SendBatch(ctx, b).Close()
}

// EndLine implements ledger.Batches.
func (l *Ledger) EndLine(ctx context.Context, line task.Line) error {
	return l.batched(ctx, "end a line of batch", line.Batch, len(line.Refusal)+lineBytes, func(ctx context.Context, x *transaction) error {
		now, err := x.line(ctx, lineKey{line.Batch, line.N})
		if err != nil || now.State == task.LineCompleted || now.State == task.LineFailed {
			return err
		}
		now.State, now.Status, now.Refusal, now.Fault = line.State, line.Status, line.Refusal, line.Fault
		return x.setLine(ctx, now)
	})
}

// EndLines implements ledger.Batches.
func (l *Ledger) EndLines(ctx context.Context, b task.BatchRecord, as task.LineState) error {
	text, err := entry.Encode(b)
	if err != nil {
		return fmt.Errorf("end the lines of batch %s: %w", b.ID, err)
	}
	return l.batched(ctx, "end the lines of batch", b.ID, len(text), func(ctx context.Context, x *transaction) error {
		if err := x.keepBatch(ctx, b, text); err != nil {
			return err
		}
		return x.exec(ctx, `UPDATE batch_line SET state = $1 WHERE batch = (SELECT seq FROM batch WHERE id = $2) AND state = 'waiting'`, string(as), []byte(b.ID))
	})
}

// Batch implements ledger.Batches.
func (r *Reader) Batch(ctx context.Context, id string) (b task.BatchRecord, ok bool, err error) {
	found, err := r.batches(ctx, `WHERE id = $1`, []byte(id))
	if err != nil || len(found) == 0 {
		return b, false, err
	}
	return found[0], true, nil
}

// Batches implements ledger.Batches.
func (r *Reader) Batches(ctx context.Context, f task.BatchFilter) (found []task.BatchRecord, err error) {
	where, args := `WHERE true`, []any{}
	add := func(and string, arg any) {
		args = append(args, arg)
		where += fmt.Sprintf(` AND `+and, len(args))
	}
	if f.Dialect != "" {
		add(`dialect = $%d`, []byte(f.Dialect))
	}
	if f.Live {
		where += ` AND ended_ms IS NULL`
	}
	if own := r.own(f.Own); own != nil {
		add(`(host IS NULL OR host = $%d)`, *own)
	}
	if !f.EndedBefore.IsZero() {
		add(`ended_ms < $%d`, f.EndedBefore.UnixMilli())
	}
	for id, side := range map[string]string{f.After: `seq < $%d`, f.Before: `seq > $%d`} {
		if id == "" {
			continue
		}
		var seq int64
		if err := r.row(ctx, []any{&seq}, `SELECT seq FROM batch WHERE id = $1`, []byte(id)); err != nil {
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
		args = append(args, f.Limit)
		where += fmt.Sprintf(` LIMIT $%d`, len(args))
	}
	found, err = r.batches(ctx, where, args...)
	if upwards {
		slices.Reverse(found)
	}
	return found, err
}

func (r *Reader) batches(ctx context.Context, where string, args ...any) (found []task.BatchRecord, err error) {
	seqs := []int64{}
	rows, err := r.query(ctx, `SELECT seq, record FROM batch `+where, args...)
	if err == nil {
		var seq int64
		var text []byte
		_, err = pgx.ForEachRow(rows, []any{&seq, &text}, func() error {
			var b task.BatchRecord
			if err := json.Unmarshal(text, &b); err != nil {
				return err
			}
			seqs, found = append(seqs, seq), append(found, b)
			return nil
		})
	}
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

// own is the host whose entries alone are wanted; nil: those of all are.
func (r *Reader) own(wanted bool) *string {
	if !wanted {
		return nil
	}
	return orNull(r.o.Owner)
}

// orNull is a text, NULL where it is empty.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (r *Reader) lineCounts(ctx context.Context, batch int64) (c task.LineCounts, err error) {
	rows, err := r.query(ctx, `SELECT state, count(*) FROM batch_line WHERE batch = $1 GROUP BY state`, batch)
	if err != nil {
		return c, err
	}
	var state string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&state, &n}, func() error {
		*c.Of(task.LineState(state)) = n
		return nil
	})
	return c, err
}

// Lines implements ledger.Batches.
func (r *Reader) Lines(ctx context.Context, batch string, f task.LineFilter) (found []task.Line, err error) {
	where := ``
	if f.Open {
		where = ` AND l.state IN ('waiting', 'fed')`
	}
	rows, err := r.query(ctx, `SELECT `+lineColumns+` FROM batch b JOIN batch_line l ON l.batch = b.seq WHERE b.id = $1 AND l.n > $2`+where+` ORDER BY l.n LIMIT $3`,
		[]byte(batch), f.After, limit(f.Limit))
	if err == nil {
		found, err = pgx.AppendRows(found, rows, func(row pgx.CollectableRow) (task.Line, error) {
			line, err := scanLine(row)
			if err != nil {
				return task.Line{}, err
			}
			return line.Line, nil
		})
	}
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
	l.kept()
	return nil
}

func (l *Ledger) eraseLines(ctx context.Context, batch string, states []task.LineState, at time.Time) error {
	for f := (task.LineFilter{Limit: sweepTasks}); ; {
		lines, err := l.Lines(ctx, batch, f)
		if err != nil || len(lines) == 0 {
			return err
		}
		f.After = lines[len(lines)-1].N
		err = l.batched(ctx, "erase lines of batch", batch, 0, func(ctx context.Context, x *transaction) error {
			for _, line := range lines {
				if !slices.Contains(states, line.State) {
					continue
				}
				for ; line.Tries >= 0; line.Tries-- {
					if err := x.delete(ctx, line.TaskID(), at); err != nil && !refused(err) {
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
	for left := true; left; {
		err := l.batched(ctx, "drop batch", id, 0, func(ctx context.Context, x *transaction) error {
			err := x.exec(ctx, `DELETE FROM batch_line WHERE (batch, n) IN (SELECT l.batch, l.n FROM batch b JOIN batch_line l ON l.batch = b.seq WHERE b.id = $1 LIMIT $2)`, []byte(id), sweepTasks)
			if err == nil {
				left, err = x.there(ctx, `SELECT 1 FROM batch b JOIN batch_line l ON l.batch = b.seq WHERE b.id = $1`, []byte(id))
			}
			if err != nil || left {
				return err
			}
			return x.exec(ctx, `DELETE FROM batch WHERE id = $1`, []byte(id))
		})
		if err != nil {
			return err
		}
	}
	l.kept()
	return nil
}
