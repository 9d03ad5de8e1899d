// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// What is read of a task has to be what was written (LO-834). SQLite finds a page that is no page, but not a letter that changed. So the accept
// and the end of a task are each recorded with the SHA-256 of all that was recorded with them.

// digests are hashed values, each with its kind and length, so that none can be taken for another.
type digests struct{ hash.Hash }

func newDigests(kind string) digests {
	d := digests{sha256.New()}
	d.text(kind)
	return d
}

func (d digests) text(values ...string) {
	for _, v := range values {
		d.number(int64(len(v)))
		_, _ = d.Write([]byte(v)) // a hash takes everything
	}
}

func (d digests) number(values ...int64) {
	var b [8]byte
	for _, v := range values {
		binary.BigEndian.PutUint64(b[:], uint64(v))
		_, _ = d.Write(b[:])
	}
}

// acceptSum is the sum of a task's accept.
func acceptSum(seq int64, id, priority, pool string, accepted int64, body []byte) []byte {
	d := newDigests("accept")
	d.number(seq, accepted)
	d.text(id, priority, pool, string(body))
	return d.Sum(nil)
}

func taskSum(t task.Task, body []byte) []byte {
	return acceptSum(int64(t.Seq), t.ID, string(t.Request.Priority), t.PoolID, t.AcceptedAt.UnixMilli(), body)
}

// endSum is the sum of a task's end. Marks and log probabilities count where there are some: tasks that have none keep the sum that earlier versions
// gave them.
func endSum(seq int64, r task.Record, p proof, outcome, ends, marks []byte, logprobs string) []byte {
	d := newDigests("end")
	d.number(seq, toMS(r.StartedAt).Int64, toMS(r.FinishedAt).Int64, p.bytes.Int64, p.keeps.Int64)
	d.text(string(r.State), r.ReplicaID, r.Fingerprint, r.SealedAt, r.LastEventID, string(p.sum), string(outcome), string(ends), r.Transcript.Text)
	if len(marks) > 0 {
		d.text(string(marks))
	}
	if logprobs != "" {
		d.text("logprobs", logprobs)
	}
	return d.Sum(nil)
}

// intact returns what is wrong with the accept that a row has. A deletion leaves an accept of its own.
func (w *row) intact() error {
	if w.requestSum == nil {
		return nil
	}
	sum := acceptSum(w.seq, w.r.Task.ID, string(w.r.Task.Request.Priority), w.r.Task.PoolID, w.accepted, w.task)
	if string(sum) != string(w.requestSum) {
		return errors.New("what was asked is not what was recorded")
	}
	return nil
}

// whole makes a record of a row that has all of its task, and makes sure that it is what was recorded.
func (w *row) whole() (task.Record, error) {
	r, err := w.record()
	if err != nil {
		return r, err
	}
	if err = verify(r); err == nil && w.textSum != nil && r.Deleted == nil {
		if sum := endSum(w.seq, r, w.proof, w.outcome, w.ends, w.marks, w.logprobs.String); string(sum) != string(w.textSum) {
			err = errors.New("how it ended is not what was recorded")
		}
	}
	if err != nil {
		return r, damage(r.Task.ID, err)
	}
	return r, nil
}

// damage is the error of an entry that is not what was recorded. Clients see it.
func damage(id string, why error) error {
	e := task.Errorf(task.Internal, "the record of task %.128q is damaged on the server's disk, and is not shown since it is not what it was: "+
		"run `orchestratord ledger check` on the server, which says more, and restore a backup of the ledger, or delete the task with `llama-orch rm %.128s`", id, id)
	return e.Because(fmt.Errorf("%w: task %.128q: %w", ledger.ErrDamaged, id, why))
}

// readable returns the record of a row. Where that is damaged, it returns what is certain, with the damage as its error, so that one
// damaged task does not hide the others.
func (w *row) readable() task.Record {
	r, err := w.record()
	if err == nil {
		return r
	}
	var e *task.Error
	if !errors.As(err, &e) {
		e = task.AsError(err)
	}
	t := task.Task{ID: w.r.Task.ID, Seq: uint64(w.seq), PoolID: w.r.Task.PoolID, AcceptedAt: fromMS(sql.NullInt64{Int64: w.accepted, Valid: true})}
	t.Request.Priority = w.r.Task.Request.Priority
	return named(task.Record{
		Task: t, State: w.r.State, ReplicaID: w.replica.String, StartedAt: fromMS(w.started), FinishedAt: fromMS(w.finished), Err: e,
	})
}
