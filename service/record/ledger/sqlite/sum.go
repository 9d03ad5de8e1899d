// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// What is read of a task has to be what was written (LO-834). SQLite finds a page that is no page, but not a letter that changed. So the accept
// and the end of a task are each recorded with the SHA-256 of all that was recorded with them.

// hashed are the values that a sum is of, each with its kind and length, so that none can be taken for another.
type hashed []byte

// newHashed begins with what the sum is of. Its texts have about so many bytes.
func newHashed(kind string, size int) hashed {
	return make(hashed, 0, size+256).text(kind)
}

func (h hashed) text(values ...string) hashed {
	for _, v := range values {
		h = append(h.number(int64(len(v))), v...)
	}
	return h
}

func (h hashed) data(values ...[]byte) hashed {
	for _, v := range values {
		h = append(h.number(int64(len(v))), v...)
	}
	return h
}

func (h hashed) number(values ...int64) hashed {
	for _, v := range values {
		h = binary.BigEndian.AppendUint64(h, uint64(v))
	}
	return h
}

func (h hashed) sum() []byte {
	sum := sha256.Sum256(h)
	return sum[:]
}

// acceptSum is the sum of a task's accept.
func acceptSum(seq int64, id, priority, pool string, accepted int64, body []byte) []byte {
	return newHashed("accept", len(body)).number(seq, accepted).text(id, priority, pool).data(body).sum()
}

func taskSum(t task.Task, body []byte) []byte {
	return acceptSum(int64(t.Seq), t.ID, string(t.Request.Priority), t.PoolID, t.AcceptedAt.UnixMilli(), body)
}

// endSum is the sum of a task's end. Marks and log probabilities count where there are some: tasks that have none keep the sum that earlier versions
// gave them.
func endSum(seq int64, r task.Record, p proof, outcome, ends, marks []byte, logprobs string) []byte {
	h := newHashed("end", len(outcome)+len(ends)+len(r.Transcript.Text)+len(marks)+len(logprobs)).
		number(seq, toMS(r.StartedAt).Int64, toMS(r.FinishedAt).Int64, p.bytes.Int64, p.keeps.Int64).
		text(string(r.State), r.ReplicaID, r.Fingerprint, r.SealedAt, r.LastEventID).data(p.sum, outcome, ends).text(r.Transcript.Text)
	if len(marks) > 0 {
		h = h.data(marks)
	}
	if logprobs != "" {
		h = h.text("logprobs", logprobs)
	}
	return h.sum()
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
