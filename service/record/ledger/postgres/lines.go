// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/task"
)

// lineKey names a line of a batch.
type lineKey struct {
	batch string
	n     int
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
	var id, custom, outcome []byte
	var state string
	if err := from.Scan(&l.batch, &id, &l.N, &custom, &l.At, &l.Bytes, &state, &l.Tries, &outcome); err != nil {
		return nil, err
	}
	l.Batch, l.CustomID, l.State = string(id), string(custom), task.LineState(state)
	return &l, entry.DecodeLine(outcome, &l.Line)
}

// line reads a line and locks it, so that no other daemon moves it meanwhile.
func (x *transaction) line(ctx context.Context, of lineKey) (*storedLine, error) {
	l, err := scanLine(x.c.QueryRow(ctx, `SELECT `+lineColumns+` FROM batch b JOIN batch_line l ON l.batch = b.seq WHERE b.id = $1 AND l.n = $2 FOR UPDATE OF l`, []byte(of.batch), of.n))
	return l, unknown(err)
}

func (x *transaction) setLine(ctx context.Context, l *storedLine) error {
	outcome, err := entry.EncodeLine(l.Line)
	if err != nil {
		return err
	}
	return x.exec(ctx, `UPDATE batch_line SET state = $1, tries = $2, outcome = $3 WHERE batch = $4 AND n = $5`, string(l.State), l.Tries, outcome, l.batch, l.N)
}

// lineOf is the line that a task is about to be accepted for; nil: there is none.
func (x *transaction) lineOf(ctx context.Context, t task.Task) (*storedLine, error) {
	if t.Request.BatchID == "" {
		return nil, nil
	}
	l, err := x.line(ctx, lineKey{t.Request.BatchID, t.Request.BatchLine})
	switch {
	case errors.Is(err, ledger.ErrUnknown):
		return nil, nil
	case err == nil && (l.State != task.LineWaits || l.TaskID() != t.ID):
		if known, err := x.there(ctx, `SELECT 1 FROM task WHERE id = $1`, []byte(t.ID)); err != nil || known { // it was accepted before
			return nil, err
		}
		return nil, fmt.Errorf("%w: the line of its batch is %s", ledger.ErrEnded, l.State)
	}
	return l, err
}

// endOfLine moves the line of a task that has ended.
func (x *transaction) endOfLine(ctx context.Context, r task.Record) error {
	if r.Task.Request.BatchID == "" {
		return nil
	}
	l, err := x.line(ctx, lineKey{r.Task.Request.BatchID, r.Task.Request.BatchLine})
	if errors.Is(err, ledger.ErrUnknown) {
		return nil
	}
	if err != nil || l.State.Final() || l.TaskID() != r.Task.ID {
		return err
	}
	l.Line = l.After(r)
	return x.setLine(ctx, l)
}
