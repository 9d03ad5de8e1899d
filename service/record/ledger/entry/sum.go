// SPDX-License-Identifier: GPL-3.0-or-later

package entry

import (
	"cmp"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// What is read of a task has to be what was written (LO-834). A database finds a page that is no page, but not a letter that changed. So the accept
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

// TaskSum is that sum of a task.
func TaskSum(t task.Task, body []byte) []byte {
	return acceptSum(int64(t.Seq), t.ID, string(t.Request.Priority), t.PoolID, t.AcceptedAt.UnixMilli(), body)
}

// EndSum is the sum of a task's end. Marks and log probabilities count where there are some: tasks that have none keep the sum that earlier versions
// gave them.
func EndSum(seq int64, r task.Record, p Proof, outcome, ends, marks []byte, logprobs string) []byte {
	h := newHashed("end", len(outcome)+len(ends)+len(r.Transcript.Text)+len(marks)+len(logprobs)).
		number(seq, ToMS(r.StartedAt).Int64, ToMS(r.FinishedAt).Int64, p.Bytes.Int64, p.Keeps.Int64).
		text(string(r.State), r.ReplicaID, r.Fingerprint, r.SealedAt, r.LastEventID).data(p.Sum, outcome, ends).text(r.Transcript.Text)
	if len(marks) > 0 {
		h = h.data(marks)
	}
	if logprobs != "" {
		h = h.text("logprobs", logprobs)
	}
	return h.sum()
}

// intact returns what is wrong with the accept that a row has. A deletion leaves an accept of its own.
func (w *Row) intact(r task.Record) error {
	if w.requestSum == nil {
		return nil
	}
	sum := acceptSum(w.seq, r.Task.ID, string(r.Task.Request.Priority), r.Task.PoolID, w.accepted, w.task)
	if string(sum) != string(w.requestSum) {
		return errors.New("what was asked is not what was recorded")
	}
	return nil
}

// Whole makes a record of a row that has all of its task, and makes sure that it is what was recorded.
func (w *Row) Whole() (task.Record, error) {
	r, err := w.Record()
	if err != nil {
		return r, err
	}
	if err = verify(r); err == nil && w.textSum != nil && r.Deleted == nil {
		if sum := EndSum(w.seq, r, w.proof, w.outcome, w.ends, w.marks, string(w.logprobs)); string(sum) != string(w.textSum) {
			err = errors.New("how it ended is not what was recorded")
		}
	}
	if err != nil {
		return r, Damage(r.Task.ID, err)
	}
	return r, nil
}

// Damage is the error of an entry that is not what was recorded. Clients see it.
func Damage(id string, why error) error {
	e := task.Errorf(task.Internal, "the record of task %.128q is damaged on the server's disk, and is not shown since it is not what it was: "+
		"run `orchestratord ledger check` on the server, which says more, and restore a backup of the ledger, or delete the task with `llama-orch rm %.128s`", id, id)
	return e.Because(fmt.Errorf("%w: task %.128q: %w", ledger.ErrDamaged, id, why))
}

// Readable returns the record of a row. Where that is damaged, it returns what is certain, with the Damage as its error, so that one
// damaged task does not hide the others.
func (w *Row) Readable() task.Record {
	r, err := w.Record()
	if err == nil {
		return r
	}
	var e *task.Error
	if !errors.As(err, &e) {
		e = task.AsError(err)
	}
	t := task.Task{ID: r.Task.ID, Seq: uint64(w.seq), PoolID: r.Task.PoolID, AcceptedAt: FromMS(sql.NullInt64{Int64: w.accepted, Valid: true})}
	t.Request.Priority = r.Task.Request.Priority
	return Named(task.Record{
		Task: t, State: r.State, ReplicaID: string(w.replica), StartedAt: FromMS(w.started), FinishedAt: FromMS(w.finished), Err: e,
	})
}

// Named puts something into the fields that a client needs, where a damaged entry lost them.
func Named(r task.Record) task.Record {
	t := &r.Task
	t.Engine, t.Determinism = cmp.Or(t.Engine, "unknown"), cmp.Or(t.Determinism, task.BestEffort)
	t.Request.ModelRef, t.Request.Workload = cmp.Or(t.Request.ModelRef, "unknown"), cmp.Or(t.Request.Workload, task.Completion)
	return r
}

// verify returns what is wrong with a record that could be read, or nil.
func verify(r task.Record) error {
	ends := r.Transcript.Ends
	switch {
	case r.Deleted != nil: // nothing of it can be checked
		return nil
	case r.State.Final() && (r.End != nil) == (r.Err != nil):
		return fmt.Errorf("task %s is %s and has no outcome, or two", r.Task.ID, r.State)
	case len(ends) > 0 && ends[len(ends)-1] != len(r.Transcript.Text), len(ends) == 0 && r.Transcript.Text != "":
		return fmt.Errorf("the transcript of task %s is longer or shorter than its tokens", r.Task.ID)
	}
	if r.End != nil {
		if got := r.Transcript.Digest(); got != r.End.Receipt.TranscriptSHA256 {
			return fmt.Errorf("the transcript of task %s has the SHA-256 %s, and its receipt says %s", r.Task.ID, got, r.End.Receipt.TranscriptSHA256)
		}
	}
	return nil
}

// Bundled returns what is wrong with a task's proof bundle, or nil.
func Bundled(r task.Record) error {
	if _, err := bundle.Text(r); err != nil && !errors.Is(err, bundle.ErrNone) {
		return err
	}
	return nil
}
