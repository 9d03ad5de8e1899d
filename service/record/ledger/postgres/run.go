// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/record/ledger/note"
	"github.com/llama-orch/llama-orch/service/task"
)

// A batch is written in runs. In a run no task and no session comes twice, so that one statement writes all accepts of it, one all starts, and so on. What such
// a statement leaves out is looked at one by one: most often it is a repeat. An operation of another kind is a run of its own.
type run struct {
	arrivals, starts, marks, endings []*op

	alone *op
	done  map[*op]bool
}

// split parts a batch into runs. There is at least one.
func split(batch []*op) []*run {
	runs := []*run{{}}
	now := runs[0]
	seen := map[string]bool{}
	begin := func() {
		now = &run{}
		runs = append(runs, now)
		clear(seen)
	}
	for _, o := range batch {
		if o.run != nil {
			begin()
			now.alone = o
			begin()
			continue
		}
		keys := o.keys()
		for _, k := range keys {
			if seen[k] {
				begin()
				break
			}
		}
		for _, k := range keys {
			seen[k] = true
		}
		switch {
		case o.arrival != nil:
			now.arrivals = append(now.arrivals, o)
		case o.start != nil:
			now.starts = append(now.starts, o)
		case o.mark != nil:
			now.marks = append(now.marks, o)
		default:
			now.endings = append(now.endings, o)
		}
	}
	return runs
}

// keys are what an operation must not share with another one of its run.
func (o *op) keys() []string {
	keys := []string{"id " + o.id}
	if o.seq > 0 {
		keys = append(keys, fmt.Sprint("seq ", o.seq))
	}
	if a := o.arrival; a != nil && a.t.Session != nil {
		keys = append(keys, "session "+a.t.Session.ID)
	}
	if e := o.ending; e != nil && e.r.Charge != nil && e.r.Charge.SessionID != "" {
		keys = append(keys, "session "+e.r.Charge.SessionID)
	}
	return keys
}

// queue adds the run's statements to those that are sent together.
func (r *run) queue(b *pgx.Batch, fence int) {
	r.done = map[*op]bool{}
	if plain := withoutLine(r.arrivals); len(plain) > 0 {
		queueArrivals(b, plain, fence, r.done)
	}
	if len(r.starts) > 0 {
		queueStarts(b, r.starts, fence, r.done)
	}
	if len(r.marks) > 0 {
		queueMarks(b, r.marks, fence)
	}
	if len(r.endings) > 0 {
		queueEndings(b, r.endings, fence, r.done)
	}
}

// rest does what is left of a run once its statements have been answered.
func (r *run) rest(ctx context.Context, x *transaction) error {
	if r.alone != nil {
		if err := x.flush(ctx); err != nil {
			return err
		}
		return r.alone.note(r.alone.run(ctx, x))
	}
	for _, o := range r.arrivals {
		var err error
		if !r.done[o] {
			r.done[o], err = x.arrive(ctx, o.arrival)
		}
		if r.done[o] && err == nil {
			x.arrived(o.arrival)
		}
		if err := o.note(err); err != nil {
			return err
		}
	}
	for _, o := range r.starts {
		if r.done[o] {
			continue
		}
		if err := o.note(x.mine(ctx, o.start.ID)); err != nil {
			return err
		}
	}
	for _, o := range r.endings {
		err := x.flushFor(ctx, o.ending)
		if err == nil && !r.done[o] {
			r.done[o], err = x.end(ctx, o.ending)
		}
		if r.done[o] && err == nil {
			err = x.ended(ctx, o.ending)
		}
		if err := o.note(err); err != nil {
			return err
		}
	}
	return nil
}

// note keeps why an operation was refused. Another error is the whole batch's.
func (o *op) note(err error) error {
	if refused(err) {
		o.err = err
		return nil
	}
	return err
}

func withoutLine(ops []*op) []*op {
	plain := ops[:0:0]
	for _, o := range ops {
		if o.arrival.t.Request.BatchID == "" {
			plain = append(plain, o)
		}
	}
	return plain
}

// arrival is an accept that is to be written.
type arrival struct {
	t     task.Task
	start *note.Start // the task's first, where it runs at once
	body  []byte
	sum   []byte
}

func newArrival(t task.Task, s *note.Start) (*arrival, error) {
	body, err := entry.EncodeTask(t)
	return &arrival{t: t, start: s, body: body, sum: entry.TaskSum(t, body)}, err
}

// Two statements make the entries of many tasks. The second takes no heed of what the first has made, since a join of the two lists would take the square of their
// length: where there was an entry it finds its text, and else arrive cleans up.
const (
	insertTasks = `INSERT INTO task (seq, id, state, priority, pool_id, accepted_ms, replica_id, fingerprint, started_ms, start_order, bytes, fence)
	SELECT n.*, $1 FROM unnest($2::bigint[], $3::bytea[], $4::text[], $5::bytea[], $6::bytea[], $7::bigint[], $8::bytea[], $9::bytea[], $10::bigint[], $11::bigint[], $12::bigint[]) AS n
	ON CONFLICT DO NOTHING RETURNING seq`
	insertBodies = `INSERT INTO request (seq, task, sum) SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) ON CONFLICT DO NOTHING`
)

// insert adds the statements that make entries to those that are sent together. Made gets the numbers of those that were made.
func insert(b *pgx.Batch, fence int, made func(pgx.Rows) error, all ...*arrival) {
	n := len(all)
	seqs, ids, states, priorities, pools := make([]int64, n), make([][]byte, n), make([]string, n), make([][]byte, n), make([][]byte, n)
	accepted, replicas, prints := make([]int64, n), make([][]byte, n), make([][]byte, n)
	started, places, sizes, bodies, sums := make([]*int64, n), make([]*int64, n), make([]int64, n), make([][]byte, n), make([][]byte, n)
	for i, a := range all {
		seqs[i], ids[i], states[i], priorities[i], pools[i] = int64(a.t.Seq), []byte(a.t.ID), string(task.Queued), []byte(a.t.Request.Priority), []byte(a.t.PoolID)
		accepted[i], sizes[i], bodies[i], sums[i] = a.t.AcceptedAt.UnixMilli(), int64(len(a.body)), a.body, a.sum
		if s := a.start; s != nil {
			states[i], replicas[i], prints[i] = string(task.Running), []byte(s.ReplicaID), []byte(s.Fingerprint)
			started[i], places[i] = ms(entry.ToMS(s.At)), &s.Place
		}
	}
	b.Queue(insertTasks, int64(fence), seqs, ids, states, priorities, pools, accepted, replicas, prints, started, places, sizes).Query(made)
	b.Queue(insertBodies, seqs, bodies, sums)
}

func queueArrivals(b *pgx.Batch, ops []*op, fence int, done map[*op]bool) {
	all, of := make([]*arrival, len(ops)), map[int64]*op{}
	for i, o := range ops {
		all[i], of[int64(o.seq)] = o.arrival, o
	}
	insert(b, fence, func(rows pgx.Rows) error { return each(rows, of, done) }, all...)
}

// each notes the operations whose keys come back.
func each[K comparable](rows pgx.Rows, of map[K]*op, done map[*op]bool) error {
	keys, err := pgx.CollectRows(rows, pgx.RowTo[K])
	for _, k := range keys {
		done[of[k]] = true
	}
	return err
}

// arrive makes a task's entry by itself. Made is false where there was one, of the same task.
func (x *transaction) arrive(ctx context.Context, a *arrival) (made bool, err error) {
	line, err := x.lineOf(ctx, a.t)
	if err != nil {
		return false, err
	}
	b := &pgx.Batch{}
	insert(b, x.fence, func(rows pgx.Rows) error {
		seqs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		made = len(seqs) == 1
		return err
	}, a)
	err = x.c.SendBatch(ctx, b).Close()
	if err == nil && made && line != nil {
		line.State = task.LineFed
		err = x.setLine(ctx, line)
	}
	if made || err != nil {
		return err == nil, err
	}
	var id []byte
	var theirs bool
	err = x.c.QueryRow(ctx, `SELECT id, finished_ms IS NULL AND fence <> $2 FROM task WHERE seq = $1`, int64(a.t.Seq), int64(x.fence)).Scan(&id, &theirs)
	switch {
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		return false, err
	case err != nil: // another number has the id
		return false, errors.Join(ledger.ErrTaken, x.exec(ctx, `DELETE FROM request WHERE seq = $1`, int64(a.t.Seq)))
	case string(id) != a.t.ID:
		return false, ledger.ErrTaken
	case theirs:
		return false, ledger.ErrFenced
	}
	return false, nil
}

// arrived does what an accept brings along.
func (x *transaction) arrived(a *arrival) {
	if a.t.Session != nil {
		x.keepSession(*a.t.Session)
	}
	x.top = max(x.top, a.t.Seq)
}

// The statements below look for live tasks by their state: where they looked by finished_ms, PostgreSQL might read the whole index of what is live for them.

func queueStarts(b *pgx.Batch, ops []*op, fence int, done map[*op]bool) {
	n := len(ops)
	ids, replicas, prints, at, places, of := make([][]byte, n), make([][]byte, n), make([][]byte, n), make([]*int64, n), make([]int64, n), map[string]*op{}
	for i, o := range ops {
		s := o.start
		ids[i], replicas[i], prints[i], at[i], places[i], of[s.ID] = []byte(s.ID), []byte(s.ReplicaID), []byte(s.Fingerprint), ms(entry.ToMS(s.At)), s.Place, o
	}
	b.Queue(`UPDATE task t SET state = 'running', replica_id = n.replica, fingerprint = n.print, started_ms = coalesce(t.started_ms, n.at), start_order = coalesce(t.start_order, n.place)
		FROM unnest($2::bytea[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[]) AS n(id, replica, print, at, place)
		WHERE t.id = n.id AND t.state IN ('queued', 'running') AND t.fence = $1 RETURNING t.id`, int64(fence), ids, replicas, prints, at, places).
		Query(func(rows pgx.Rows) error { return eachID(rows, of, done) })
}

func eachID(rows pgx.Rows, of map[string]*op, done map[*op]bool) error {
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	for _, id := range ids {
		done[of[string(id)]] = true
	}
	return err
}

// queueMarks writes checkpoints. Nothing is done where a task has ended, is unknown or is another's.
func queueMarks(b *pgx.Batch, ops []*op, fence int) {
	n := len(ops)
	ids, events, sums := make([][]byte, n), make([]int64, n), make([][]byte, n)
	for i, o := range ops {
		ids[i], events[i], sums[i] = []byte(o.mark.id), int64(o.mark.at.Event), o.mark.at.Sum[:]
	}
	b.Queue(`UPDATE task t SET checkpoint_event = n.event, checkpoint_sum = n.sum FROM unnest($2::bytea[], $3::bigint[], $4::bytea[]) AS n(id, event, sum)
		WHERE t.id = n.id AND t.state IN ('queued', 'running') AND t.fence = $1 AND coalesce(t.checkpoint_event, -1) < n.event`, int64(fence), ids, events, sums)
}

// mine returns nil where a task is live and ours, and else why it is not.
func (x *transaction) mine(ctx context.Context, id string) error {
	var state task.State
	var fence int64
	err := x.c.QueryRow(ctx, `SELECT state, fence FROM task WHERE id = $1 FOR UPDATE`, []byte(id)).Scan(&state, &fence)
	switch {
	case err != nil:
		return unknown(err)
	case state.Final():
		return fmt.Errorf("%w: it is %s", ledger.ErrEnded, state)
	case fence != int64(x.fence):
		return ledger.ErrFenced
	}
	return nil
}

// unknown turns the want of a row into ledger.ErrUnknown.
func unknown(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ledger.ErrUnknown
	}
	return err
}

// render replaces what is recorded of a task's accept by the task as it is now.
func (x *transaction) render(ctx context.Context, t task.Task, body []byte) error {
	_, err := x.c.Exec(ctx, `UPDATE request SET task = $1, sum = $2 WHERE seq = $3`, body, entry.TaskSum(t, body), int64(t.Seq))
	return err
}

// ms is a number that may be NULL.
func ms(n sql.NullInt64) *int64 {
	if !n.Valid {
		return nil
	}
	return &n.Int64
}

// orNil is a text, NULL where it is empty.
func orNil(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}
