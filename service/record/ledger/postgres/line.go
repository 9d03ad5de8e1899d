// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/note"
	"github.com/llama-orch/llama-orch/service/task"
)

// kind is what an operation does, a label of llorch_ledger_ops_total.
type kind string

const (
	opAccept     kind = "accept"
	opRender     kind = "render"
	opDispatch   kind = "dispatch"
	opCheckpoint kind = "checkpoint"
	opFinish     kind = "finish"
	opSession    kind = "session"
	opClaim      kind = "claim"
	opForget     kind = "forget"
	opDelete     kind = "delete"
	opExpire     kind = "expire"
	opProbe      kind = "probe"
	opBatch      kind = "batch"
)

// op is one operation that waits for the writer. It is one of the first five, of which those of many tasks are written by one statement, or run.
type op struct {
	arrival *arrival
	ending  *ending
	start   *note.Start
	mark    *mark
	run     func(context.Context, *transaction) error

	kind  kind
	id    string
	seq   uint64      // of the task that the operation brings, else 0
	size  int         // about how many bytes it writes
	free  bool        // no claim is needed for it
	then  func()      // called on the writing goroutine once it is committed; may be nil
	back  func()      // called when the commit failed; may be nil
	err   error       // why it was refused, where the database is not at fault
	taken atomic.Bool // set by the writer, which then answers, or by a caller that gives up
	done  chan error  // capacity 1; nil: nobody waits
}

// mark is a checkpoint that is to be written.
type mark struct {
	id string
	at task.Checkpoint
}

// The bounds of one commit.
const (
	maxBatch      = 1024
	maxBatchBytes = 8 << 20
)

// submit gives an operation to the writer and waits for its commit. If ctx ends before the writer has taken the operation,
// nothing is recorded. Afterwards the commit is waited for all the same.
func (l *Ledger) submit(ctx context.Context, o *op) error {
	o.done = make(chan error, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ledger.ErrClosed
	}
	l.queue = append(l.queue, o)
	l.mu.Unlock()
	l.nudge()
	var err error
	select {
	case err = <-o.done:
	case <-ctx.Done():
		if o.taken.CompareAndSwap(false, true) {
			err = context.Cause(ctx)
		} else {
			err = <-o.done
		}
	}
	if err != nil {
		return fmt.Errorf("%s task %s: %w", o.kind, o.id, err)
	}
	return nil
}

// write is the one goroutine that writes. It ends when the ledger is closed and nothing waits any more.
func (l *Ledger) write() {
	noted, renew := time.NewTimer(time.Hour), time.NewTimer(l.o.Lease/renewals)
	defer noted.Stop()
	defer renew.Stop()
	next := time.Now().Add(l.o.Lease / renewals) // the real time: the lease ends by the database's clock, which goes on too
	for {
		l.turns.Add(1)
		l.gather()
		batch, noteDue, closing := l.take()
		if now := time.Now(); !closing && !now.Before(next) {
			next = now.Add(l.o.Lease / renewals)
			renew.Reset(l.o.Lease / renewals)
			if !l.mute.Load() {
				batch = append(batch, l.renewal())
			}
		}
		if len(batch) > 0 {
			l.commit(batch)
			continue
		}
		if closing {
			l.leave()
			return
		}
		if !noteDue.IsZero() {
			noted.Reset(time.Until(noteDue))
		}
		select {
		case <-l.wake:
		case <-noted.C:
		case <-renew.C:
		}
	}
}

// unsound is deferred by the writer's goroutine, and ends the process where that panics. Nobody knows what the writer has in hand then, so nothing could
// be promised any more. All that was answered is in the database (LO-803).
func (l *Ledger) unsound() {
	if p := recover(); p != nil {
		l.log.Fatal("the writer of the ledger panicked, so this process ends on purpose: what was accepted is in the database, and the next start goes on with it",
			contain.Fields(p)...)
	}
}

// gather yields once to other goroutines, which may add their operations to the queue. One commit for all of them is less work than one for each.
func (l *Ledger) gather() {
	l.mu.Lock()
	n := len(l.queue)
	l.mu.Unlock()
	if n > 0 && n < maxBatch {
		runtime.Gosched()
	}
}

// take returns the next batch, with the notes that are written along with it. NoteDue is when the next of the other notes has to be written.
func (l *Ledger) take() (batch []*op, noteDue time.Time, closing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, n := 0, 0
	for ; n < len(l.queue) && n < maxBatch && size < maxBatchBytes; n++ {
		o := l.queue[n]
		l.queue[n] = nil
		if !o.taken.CompareAndSwap(false, true) {
			continue // its caller has gone
		}
		if o.kind == opFinish {
			l.notes.Unmark(o.id)
		}
		if o.kind == opFinish || o.kind == opDispatch {
			if s := l.notes.Drop(o.id); s != nil {
				o.back = func() { l.putBack(s) }
			}
		}
		size += o.size
		batch = append(batch, o)
	}
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil
	}
	if l.notes.Empty() {
		return batch, noteDue, l.closed
	}
	starts, checkpoints := l.notes.Take(time.Now(), len(batch) > 0)
	for _, s := range starts {
		batch = append(batch, &op{kind: opDispatch, id: s.ID, start: s, back: func() { l.putBack(s) }})
	}
	for id, c := range checkpoints {
		batch = append(batch, &op{kind: opCheckpoint, id: id, mark: &mark{id, c}})
	}
	return batch, l.notes.Due(), l.closed
}

// putBack keeps a start for a later commit. If it got lost, tasks that were started later would come first after a crash, and this one might go on
// elsewhere.
func (l *Ledger) putBack(s *note.Start) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.notes.Back(s, time.Now().Add(time.Second))
	}
}

// commit writes a batch and answers its callers.
func (l *Ledger) commit(batch []*op) {
	begun := time.Now() // the real time, for a metric
	err := l.w.try(batch, int(l.fence.Load()))
	if err != nil && len(batch) > 1 && about(err) {
		// One operation that the database does not take must not fail the others: the halves are tried apart, in their order.
		half := len(batch) / 2
		l.commit(batch[:half])
		l.commit(batch[half:])
		return
	}
	if err != nil {
		if l.w.failing == 0 {
			l.log.Error("the ledger cannot write", zap.String("first_task", batch[0].id), zap.Error(err))
		}
		l.w.failing += len(batch)
		l.wrote.Store(0)
		l.metrics.Errors.Add(float64(len(batch)))
		for _, o := range batch {
			if o.back != nil {
				o.back()
			}
			o.answer(fmt.Errorf("%w: %w", ledger.ErrUnavailable, err))
		}
		return
	}
	if l.w.failing > 0 {
		l.log.Info("the ledger writes again", zap.Int("failed", l.w.failing))
		l.w.failing = 0
	}
	l.wrote.Store(begun.Unix())
	l.metrics.Committed(len(batch), time.Since(begun))
	l.mu.Lock()
	for _, o := range batch {
		if o.err == nil {
			l.used(o.seq)
		}
	}
	l.mu.Unlock()
	for _, o := range batch {
		if o.err == nil {
			l.metrics.Ops.WithLabelValues(string(o.kind)).Inc()
			if o.then != nil {
				o.then()
			}
		}
		l.w.written += o.size
		o.answer(o.err)
	}
	if l.w.written >= sweepAfter {
		l.w.written = 0
		select {
		case l.sweeps <- struct{}{}:
		default:
		}
	}
}

func (o *op) answer(err error) {
	if o.done != nil {
		o.done <- err
	}
}

// refused reports whether an error is about one operation alone, and not about the database.
func refused(err error) bool {
	for _, e := range []error{ledger.ErrTaken, ledger.ErrUnknown, ledger.ErrEnded, ledger.ErrLive, ledger.ErrFenced, errGone} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
