// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/record/ledger"
)

// How long a commit may take, how long a database that failed is left alone, and how long one that went away in the middle of a commit is waited for.
const (
	commitWithin = 10 * time.Second
	retryAfter   = 250 * time.Millisecond
	doubtWithin  = 2 * time.Second
)

// writer is the writing goroutine's connection.
type writer struct {
	o       Options
	log     *zap.Logger
	config  *pgx.ConnConfig
	conn    *pgx.Conn     // nil: there is none
	class   int32         // of this schema's advisory locks
	failing int           // operations that failed since the last commit
	written int           // about how many bytes since the last sweep
	away    error         // why there is no connection
	again   time.Time     // when the next one is tried
	window  time.Time     // of the budgets that are being charged; older windows were forgotten
	lost    int64         // the claim that was found to be another's
	ours    atomic.Uint64 // the last number that this ledger may hand out
	doubts  []doubt       // commits that may have been made although their callers were refused
}

func newWriter(config *pgx.ConnConfig, o Options) *writer {
	own := config.Copy()
	maps.Copy(own.RuntimeParams, o.writing())
	return &writer{o: o, log: o.Log.Named("ledger"), config: own, class: o.lockClass()}
}

// connect returns the connection, and makes one where there is none. A database that just failed is not asked again at once: callers are refused at once.
func (w *writer) connect(ctx context.Context) (*pgx.Conn, error) {
	if w.conn != nil && !w.conn.IsClosed() {
		return w.conn, nil
	}
	w.conn = nil
	if time.Now().Before(w.again) {
		return nil, w.away
	}
	bounded, stop := context.WithTimeout(ctx, connectWithin)
	defer stop()
	c, err := pgx.ConnectConfig(bounded, w.config)
	if err != nil {
		w.away, w.again = err, time.Now().Add(retryAfter)
		return nil, err
	}
	w.conn = c
	return c, nil
}

// drop closes the connection, of which nobody knows what it is in.
func (w *writer) drop() {
	if w.conn == nil {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	_ = w.conn.Close(ctx)
	w.conn = nil
}

func (w *writer) close() error {
	if w.conn == nil {
		return nil
	}
	ctx, stop := context.WithTimeout(context.Background(), connectWithin)
	defer stop()
	err := w.conn.Close(ctx)
	w.conn = nil
	return err
}

// try writes a batch in one transaction. Either all of it is durable, or nothing is.
func (w *writer) try(batch []*op, fence int) error {
	ctx, stop := context.WithTimeout(context.Background(), commitWithin)
	defer stop()
	c, err := w.connect(ctx)
	if err != nil {
		return err
	}
	if err := w.settle(ctx); err != nil {
		w.drop()
		return err
	}
	for range 3 { // two who lock the same tasks in another order
		if err = w.transact(ctx, c, batch, fence); code(err) != deadlock {
			break
		}
	}
	return err
}

// errGone is of an operation that needs a claim, where another daemon has taken it.
var errGone = fmt.Errorf("%w: its lease had ended", ledger.ErrFenced)

// transaction is one commit while it is made.
type transaction struct {
	c     *pgx.Conn
	w     *writer
	fence int
	last  *pgx.Batch // goes with the commit
	top   uint64     // the greatest number of the tasks that it brings
}

func (w *writer) transact(ctx context.Context, c *pgx.Conn, batch []*op, fence int) error {
	x := &transaction{c: c, w: w, fence: fence, last: &pgx.Batch{}}
	for _, o := range batch {
		o.err = nil
	}
	sent, xid, err := x.all(ctx, batch)
	if err == nil {
		return nil
	}
	w.window = time.Time{}
	if code(err) != "" && !c.IsClosed() {
		if _, failed := c.Exec(ctx, "ROLLBACK"); failed == nil {
			return err
		}
	}
	w.drop()
	if sent {
		return w.doubt(ctx, xid, batch, err)
	}
	return err
}

// all does what a batch asks for, and commits. Sent says that the commit may have been made, whatever the error says.
func (x *transaction) all(ctx context.Context, batch []*op) (sent bool, xid string, err error) {
	runs := split(batch)
	first := &pgx.Batch{}
	first.Queue(`BEGIN`)
	first.Queue(`SELECT pg_current_xact_id()::text`).QueryRow(func(r pgx.Row) error { return r.Scan(&xid) })
	held := false
	first.Queue(`SELECT pg_advisory_xact_lock_shared($1, $2)`, x.w.class, x.fence)
	first.Queue(`SELECT EXISTS (SELECT 1 FROM claim WHERE fence = $1)`, x.fence).QueryRow(func(r pgx.Row) error { return r.Scan(&held) })
	runs[0].queue(first, x.fence)
	if err := x.c.SendBatch(ctx, first).Close(); err != nil {
		return false, xid, err
	}
	if !held {
		// What was to be written about a task is another's by now. What is about no task is done all the same.
		free := batch[:0:0]
		for _, o := range batch {
			if o.err = errGone; o.free {
				o.err = nil
				free = append(free, o)
			}
		}
		if _, err := x.c.Exec(ctx, `ROLLBACK`); err != nil || len(free) == 0 {
			return false, xid, err
		}
		if _, err := x.c.Exec(ctx, `BEGIN`); err != nil {
			return false, xid, err
		}
		if err := x.c.QueryRow(ctx, `SELECT pg_current_xact_id()::text`).Scan(&xid); err != nil {
			return false, xid, err
		}
		runs = split(free)
	}
	for i, r := range runs {
		if i > 0 {
			next := &pgx.Batch{}
			r.queue(next, x.fence)
			if next.Len() > 0 {
				if err := x.c.SendBatch(ctx, next).Close(); err != nil {
					return false, xid, err
				}
			}
		}
		if err := r.rest(ctx, x); err != nil {
			return false, xid, err
		}
	}
	if x.top > x.w.ours.Load() { // this ledger has not handed it out
		x.last.Queue(`UPDATE counter SET seq = greatest(seq, $1)`, int64(x.top))
	}
	var tag string
	x.last.Queue(`COMMIT`)
	results := x.c.SendBatch(ctx, x.last)
	for range x.last.Len() {
		done, failed := results.Exec()
		tag, err = done.String(), errors.Join(err, failed)
	}
	err = errors.Join(err, results.Close())
	if err == nil && tag != "COMMIT" {
		err = fmt.Errorf("the database answered a commit with %q", tag)
	}
	return true, xid, err
}

// flush sends what waits for the commit, so that what comes next sees it.
func (x *transaction) flush(ctx context.Context) error {
	if x.last.Len() == 0 {
		return nil
	}
	err := x.c.SendBatch(ctx, x.last).Close()
	x.last = &pgx.Batch{}
	return err
}

// doubt is a commit of which nobody knows whether it was made: the connection broke behind it.
type doubt struct {
	xid  string
	seqs []int64 // of the tasks whose accept was refused
	line map[int64]lineKey
}

// doubt finds out what became of a commit. Where the database does not say that soon, the callers are refused, and their accepts are taken back once
// it is there again.
func (w *writer) doubt(ctx context.Context, xid string, batch []*op, cause error) error {
	for deadline := time.Now().Add(doubtWithin); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		made, err := w.committed(ctx, xid)
		if err == nil && made {
			return nil
		}
		if err == nil {
			return cause
		}
	}
	d := doubt{xid: xid, line: map[int64]lineKey{}}
	for _, o := range batch {
		if o.arrival == nil || o.err != nil {
			continue
		}
		seq := int64(o.arrival.t.Seq)
		d.seqs = append(d.seqs, seq)
		if q := o.arrival.t.Request; q.BatchID != "" {
			d.line[seq] = lineKey{q.BatchID, q.BatchLine}
		}
	}
	w.doubts = append(w.doubts, d)
	return cause
}

// errOpen says that a transaction has not ended.
var errOpen = errors.New("what was sent last is not decided yet")

// committed reports whether a transaction was committed. One that is still open, since the database has not noticed that its connection is gone, is ended.
func (w *writer) committed(ctx context.Context, xid string) (bool, error) {
	c, err := w.connect(ctx)
	if err != nil {
		return false, err
	}
	var status *string
	err = c.QueryRow(ctx, `SELECT pg_xact_status($1::text::xid8)`, xid).Scan(&status)
	switch {
	case code(err) == noSuchValue: // the database lost it before it reached the disk
		return false, nil
	case err != nil:
		w.drop()
		return false, err
	case status == nil:
		return false, fmt.Errorf("transaction %s is too old", xid)
	case *status == "in progress":
		_, err := c.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xid = $1::text::xid8::xid AND pid <> pg_backend_pid()`, xid)
		return false, errors.Join(errOpen, err)
	}
	return *status == "committed", nil
}

// settle takes back the accepts that were refused although they were committed.
func (w *writer) settle(ctx context.Context) error {
	for len(w.doubts) > 0 {
		d := w.doubts[0]
		made, err := w.committed(ctx, d.xid)
		if err != nil {
			return err
		}
		if made && len(d.seqs) > 0 {
			if err := w.takeBack(ctx, d); err != nil {
				return err
			}
		}
		w.doubts = w.doubts[1:]
	}
	return nil
}

// takeBack removes tasks whose callers were told that they were not accepted, as far as nobody has claimed or ended them.
func (w *writer) takeBack(ctx context.Context, d doubt) error {
	c, err := w.connect(ctx)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `DELETE FROM task WHERE seq = ANY($1) AND finished_ms IS NULL AND EXISTS (SELECT 1 FROM claim c WHERE c.fence = task.fence AND c.owner = $2) RETURNING seq`, d.seqs, w.o.Owner)
		if err != nil {
			return err
		}
		gone, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM request WHERE seq = ANY($1)`, gone); err != nil {
			return err
		}
		for _, seq := range gone {
			key, ok := d.line[seq]
			if !ok {
				continue
			}
			if _, err := tx.Exec(ctx, `UPDATE batch_line SET state = 'waiting' WHERE batch = (SELECT seq FROM batch WHERE id = $1) AND n = $2 AND state = 'fed'`, []byte(key.batch), key.n); err != nil {
				return err
			}
		}
		if len(gone) > 0 {
			w.log.Info("tasks that were refused while the database was away had reached it, and were taken back", zap.Int("tasks", len(gone)))
		}
		return nil
	})
}
