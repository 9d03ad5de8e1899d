// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
)

// Moving is a schema that is moved to or from: no daemon uses it meanwhile, and all that is done to it is done at once with Commit, or not at all.
type Moving struct {
	o    Options
	conn *pgx.Conn
	tx   pgx.Tx
	done bool
}

// Move begins to move a ledger. It fails where a daemon uses it. Where to is set, the schema is made if it is missing.
func Move(ctx context.Context, o Options, to bool) (_ *Moving, err error) {
	o = o.filled()
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	config.ConnConfig.RuntimeParams["statement_timeout"] = "0"
	m := &Moving{o: o}
	if m.conn, err = pgx.ConnectConfig(ctx, config.ConnConfig); err != nil {
		return nil, o.openError(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(o.openError(err), m.Close())
		}
	}()
	if err := trust(ctx, m.conn, o); err != nil {
		return nil, err
	}
	if to {
		if err := migrate(ctx, m.conn, o); err != nil {
			return nil, err
		}
	}
	if m.tx, err = m.conn.BeginTx(ctx, pgx.TxOptions{}); err != nil {
		return nil, err
	}
	if _, err := m.tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1, $2)`, o.lockClass(), claiming); err != nil {
		return nil, err
	}
	version, err := o.version(ctx, m.tx)
	if err == nil && version != len(o.steps) {
		err = &Error{Fault: NotThere, Where: o.where, What: fmt.Sprintf("has schema %d in %q, and this version reads %d", version, o.Schema, len(o.steps)), Remedy: "start orchestratord once, which makes it or brings it up to date"}
	}
	if err != nil {
		return nil, err
	}
	others, err := o.inUse(ctx, m.tx)
	if err == nil && len(others) > 0 {
		err = &Error{Fault: Held, Where: o.where, What: fmt.Sprintf("is in use by an orchestratord (%s)", others[0]), Remedy: "stop it first, and wait for the end of its lease if it was killed"}
	}
	return m, err
}

// Rows implements entry.Store.
func (m *Moving) Rows(ctx context.Context, t entry.Table, do func(row []any) error) error {
	rows, err := m.tx.Query(ctx, t.Select())
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		row, err := rows.Values()
		if err != nil {
			return err
		}
		for i, v := range row {
			if text, ok := v.(string); ok { // states are texts here
				row[i] = []byte(text)
			}
		}
		if err := do(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Last is the greatest sequence number that was handed out.
func (m *Moving) Last(ctx context.Context) (seq uint64, err error) {
	err = m.tx.QueryRow(ctx, `SELECT seq FROM counter`).Scan(&seq)
	return seq, err
}

// Fill takes the rows of another store in, and compares the digests of both. Its next task gets a number behind last. A ledger that has something must have
// just these rows, as where a move was cut off behind its end.
func (m *Moving) Fill(ctx context.Context, from entry.Store, last uint64) error {
	want, _, err := entry.Digests(ctx, from)
	if err != nil {
		return err
	}
	has, rows, err := entry.Digests(ctx, m)
	if err != nil {
		return m.o.openError(err)
	}
	if maps.Equal(want, has) {
		return nil
	}
	for name, n := range rows {
		if n > 0 {
			return &Error{Fault: NotEmpty, Where: m.o.where, What: fmt.Sprintf("has other entries already (table %s, %d)", name, n), Remedy: "name another ledger.postgres.schema, or drop this one if nobody needs it"}
		}
	}
	for _, t := range entry.Tables {
		if err := m.fill(ctx, t, from); err != nil {
			return fmt.Errorf("fill table %s: %w", t.Name, err)
		}
	}
	for _, text := range []string{
		`UPDATE task t SET bytes = octet_length(q.task) + coalesce(octet_length(t.outcome), 0) FROM request q WHERE q.seq = t.seq`,
		`UPDATE task t SET bytes = t.bytes + octet_length(x.ends) + octet_length(x.text) + coalesce(octet_length(x.marks), 0) + coalesce(octet_length(x.logprobs), 0) FROM transcript x WHERE x.seq = t.seq`,
		`SELECT setval(pg_get_serial_sequence('file', 'seq'), (SELECT max(seq) FROM file)) WHERE EXISTS (SELECT 1 FROM file)`,
		`SELECT setval(pg_get_serial_sequence('batch', 'seq'), (SELECT max(seq) FROM batch)) WHERE EXISTS (SELECT 1 FROM batch)`,
	} {
		if _, err := m.tx.Exec(ctx, text); err != nil {
			return err
		}
	}
	if _, err := m.tx.Exec(ctx, `UPDATE counter SET seq = greatest(seq, $1)`, int64(last)); err != nil {
		return err
	}
	if has, _, err = entry.Digests(ctx, m); err != nil {
		return err
	}
	for _, t := range entry.Tables {
		if want[t.Name] != has[t.Name] {
			return &Error{Fault: Different, Where: m.o.where, What: fmt.Sprintf("has the SHA-256 %s of table %s, and what was moved has %s", has[t.Name], t.Name, want[t.Name]), Remedy: "nothing was changed; report this"}
		}
	}
	return nil
}

// fillAtOnce is how many rows are in memory.
const fillAtOnce = 512

func (m *Moving) fill(ctx context.Context, t entry.Table, from entry.Store) error {
	var some [][]any
	flush := func() error {
		_, err := m.tx.CopyFrom(ctx, pgx.Identifier{t.Name}, t.Columns, pgx.CopyFromRows(some))
		some = some[:0]
		return err
	}
	err := from.Rows(ctx, t, func(row []any) error {
		for i, name := range t.Columns {
			if text, ok := row[i].([]byte); ok && name == "state" {
				row[i] = string(text)
			}
		}
		if some = append(some, row); len(some) < fillAtOnce {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// Aside gives the schema another name, which it returns.
func (m *Moving) Aside(ctx context.Context, now time.Time) (string, error) {
	name := fmt.Sprintf("%.40s_aside_%s", m.o.Schema, now.UTC().Format("20060102t150405"))
	_, err := m.tx.Exec(ctx, `ALTER SCHEMA `+quoted(m.o.Schema)+` RENAME TO `+quoted(name))
	return name, err
}

// Commit makes all of it durable.
func (m *Moving) Commit(ctx context.Context) error {
	m.done = true
	return m.tx.Commit(ctx)
}

// Close ends the move. What was not committed is undone.
func (m *Moving) Close() error {
	ctx, stop := context.WithTimeout(context.Background(), connectWithin)
	defer stop()
	var err error
	if m.tx != nil && !m.done {
		err = m.tx.Rollback(ctx)
	}
	return errors.Join(err, m.conn.Close(ctx))
}
