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
	"github.com/llama-orch/llama-orch/service/task"
)

// ending is an outcome that is to be written.
type ending struct {
	r        task.Record
	outcome  []byte
	rendered []byte // the task's JSON where a run made its prompt, else nil
	proof    entry.Proof
	ends     []byte
	marks    []byte
	logprobs sql.NullString
	sum      []byte
}

func newEnding(r task.Record) (*ending, error) {
	outcome, err := entry.EncodeOutcome(r)
	if err != nil {
		return nil, err
	}
	e := &ending{
		r: r, outcome: outcome, proof: entry.ToProof(r.Proof), ends: entry.EncodeEnds(r.Transcript.Ends), marks: entry.EncodeMarks(r.Transcript.Marks),
		logprobs: entry.EncodeLogprobs(r.Transcript.Logprobs),
	}
	e.sum = entry.EndSum(int64(r.Task.Seq), r, e.proof, e.outcome, e.ends, e.marks, e.logprobs.String)
	if !r.Task.RenderedAt.IsZero() {
		e.rendered, err = entry.EncodeTask(r.Task)
	}
	return e, err
}

const endTasks = `WITH n AS (
	SELECT * FROM unnest($2::bigint[], $3::bytea[], $4::text[], $5::bytea[], $6::bytea[], $7::bigint[], $8::bigint[], $9::bytea[], $10::bytea[], $11::bytea[],
		$12::bytea[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bytea[], $17::bytea[], $18::bytea[], $19::bytea[], $20::bytea[])
		AS n(seq, id, state, replica_id, fingerprint, started_ms, finished_ms, sealed_at, last_event_id, outcome, proof_sum, proof_bytes, proof_keeps, text_until_ms,
			ends, text, marks, logprobs, sum)
), done AS (
	UPDATE task t SET state = n.state, replica_id = n.replica_id, fingerprint = n.fingerprint, started_ms = n.started_ms, finished_ms = n.finished_ms, sealed_at = n.sealed_at,
		last_event_id = n.last_event_id, outcome = n.outcome, proof_sum = n.proof_sum, proof_bytes = n.proof_bytes, proof_keeps = n.proof_keeps, text_until_ms = n.text_until_ms,
		bytes = t.bytes + octet_length(n.outcome) + octet_length(n.ends) + octet_length(n.text) + coalesce(octet_length(n.marks), 0) + coalesce(octet_length(n.logprobs), 0)
		FROM n WHERE t.seq = n.seq AND t.id = n.id AND t.state IN ('queued', 'running') AND t.fence = $1
		RETURNING t.seq, n.ends, n.text, n.marks, n.logprobs, n.sum
), kept AS (
	INSERT INTO transcript (seq, ends, text, marks, logprobs, sum) SELECT seq, ends, text, marks, logprobs, sum FROM done
) SELECT seq FROM done`

// endArgs are the arguments of endTasks.
func endArgs(fence int, all ...*ending) []any {
	n := len(all)
	bytes := func(of func(*ending) []byte) [][]byte {
		out := make([][]byte, n)
		for i, e := range all {
			out[i] = of(e)
		}
		return out
	}
	numbers := func(of func(*ending) sql.NullInt64) []*int64 {
		out := make([]*int64, n)
		for i, e := range all {
			out[i] = ms(of(e))
		}
		return out
	}
	states := make([]string, n)
	for i, e := range all {
		states[i] = string(e.r.State)
	}
	return []any{
		int64(fence), numbers(func(e *ending) sql.NullInt64 { return sql.NullInt64{Int64: int64(e.r.Task.Seq), Valid: true} }),
		bytes(func(e *ending) []byte { return []byte(e.r.Task.ID) }), states,
		bytes(func(e *ending) []byte { return orNil(e.r.ReplicaID) }), bytes(func(e *ending) []byte { return orNil(e.r.Fingerprint) }),
		numbers(func(e *ending) sql.NullInt64 { return entry.ToMS(e.r.StartedAt) }), numbers(func(e *ending) sql.NullInt64 { return entry.ToMS(e.r.FinishedAt) }),
		bytes(func(e *ending) []byte { return orNil(e.r.SealedAt) }), bytes(func(e *ending) []byte { return orNil(e.r.LastEventID) }),
		bytes(func(e *ending) []byte { return e.outcome }), bytes(func(e *ending) []byte { return e.proof.Sum }),
		numbers(func(e *ending) sql.NullInt64 { return e.proof.Bytes }), numbers(func(e *ending) sql.NullInt64 { return e.proof.Keeps }),
		numbers(func(e *ending) sql.NullInt64 { return entry.TextUntil(e.r) }),
		bytes(func(e *ending) []byte { return e.ends }), bytes(func(e *ending) []byte { return []byte(e.r.Transcript.Text) }), bytes(func(e *ending) []byte { return e.marks }),
		bytes(func(e *ending) []byte {
			if !e.logprobs.Valid {
				return nil
			}
			return []byte(e.logprobs.String)
		}), bytes(func(e *ending) []byte { return e.sum }),
	}
}

func queueEndings(b *pgx.Batch, ops []*op, fence int, done map[*op]bool) {
	all, of := make([]*ending, len(ops)), map[int64]*op{}
	for i, o := range ops {
		all[i], of[int64(o.seq)] = o.ending, o
	}
	b.Queue(endTasks, endArgs(fence, all...)...).Query(func(rows pgx.Rows) error { return each(rows, of, done) })
}

// flushFor sends what waits, where an outcome reads what other operations of the commit may have changed.
func (x *transaction) flushFor(ctx context.Context, e *ending) error {
	if e.r.Task.Request.BatchID == "" {
		return nil
	}
	return x.flush(ctx)
}

// end records an outcome by itself. If the task has no entry, it makes one first: a task may be dropped from its queue before its accept is through.
// Done is false where it had this outcome.
func (x *transaction) end(ctx context.Context, e *ending) (done bool, err error) {
	a, err := newArrival(e.r.Task, nil)
	if err != nil {
		return false, err
	}
	made, err := x.arrive(ctx, a)
	if err != nil {
		return false, err
	}
	if made {
		x.arrived(a)
	}
	var seq int64
	err = x.c.QueryRow(ctx, endTasks, endArgs(x.fence, e)...).Scan(&seq)
	if !errors.Is(err, pgx.ErrNoRows) {
		return err == nil, err
	}
	var state task.State
	var last []byte
	if err := x.c.QueryRow(ctx, `SELECT state, last_event_id FROM task WHERE id = $1`, []byte(e.r.Task.ID)).Scan(&state, &last); err != nil {
		return false, unknown(err)
	}
	switch {
	case !state.Final():
		return false, ledger.ErrFenced
	case state != e.r.State || string(last) != e.r.LastEventID:
		return false, fmt.Errorf("%w: it is %s at event %s", ledger.ErrEnded, state, last)
	}
	return false, nil
}

// ended does what an outcome brings along: the prompt that a run made, the charge, and the line of a batch.
func (x *transaction) ended(ctx context.Context, e *ending) error {
	if e.rendered != nil { // it may have ended before its new prompt was recorded, and its bundle is of that
		x.last.Queue(`UPDATE request SET task = $1, sum = $2 WHERE seq = $3`, e.rendered, entry.TaskSum(e.r.Task, e.rendered), int64(e.r.Task.Seq))
	}
	if e.r.Charge != nil {
		x.charge(*e.r.Charge, e.r)
	}
	return x.endOfLine(ctx, e.r)
}
