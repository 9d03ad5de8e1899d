// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

// run is a batch that has not ended. The ledger has all that is needed to take it up anew at any point.
type run struct {
	f        *Feeder
	id       string
	artifact string
	since    time.Time
	durable  bool            // the ledger has it; this and the next are guarded by Feeder.mu
	started  bool            // it is being run
	open     context.Context // ends once nothing more of it is to start; written by feed, before its workers

	mu   sync.Mutex
	b    task.BatchRecord   // as it is recorded
	shut context.CancelFunc // ends open; nil while the batch is not run
}

func newRun(f *Feeder, b task.BatchRecord) *run {
	return &run{f: f, id: b.ID, artifact: b.Artifact, since: b.CreatedAt, b: b}
}

// record is the batch as it is recorded.
func (r *run) record() task.BatchRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b
}

// run takes the batch to its end, or to where ctx ends.
func (r *run) run(ctx context.Context) {
	if r.record().BegunAt.IsZero() && !r.persist(ctx, func() error { return r.read(ctx) }) {
		return
	}
	if b := r.record(); len(b.Faults) == 0 && b.FinalAt.IsZero() {
		r.feed(ctx)
	}
	r.persist(ctx, func() error { return r.finish(ctx) })
}

// persist does something that writes to the ledger, until that can write. It returns false when ctx ends before.
func (r *run) persist(ctx context.Context, do func() error) bool {
	for told := false; ctx.Err() == nil; {
		err := do()
		if err == nil {
			return true
		}
		if !told && ctx.Err() == nil {
			told = true
			r.f.log.Error("a batch waits until its record can be written", zap.String("batch_id", r.id), zap.Error(err))
		}
		lifecycle.Pause(ctx, retryAfter)
	}
	return false
}

// opens makes the context that ends once nothing more of the batch is to start, or its feeding ends.
func (r *run) opens(ctx context.Context) (end context.CancelFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open, r.shut = context.WithCancel(ctx)
	if over(r.b) != "" {
		r.shut()
	}
	return r.shut
}

// add records lines of the batch.
func (r *run) add(ctx context.Context, lines []task.Line) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.f.o.Records.KeepBatch(ctx, r.b, lines)
}

// endLeft ends the lines that wait in the ledger of a batch that is closed: those that came back, or that were read, behind the close.
func (r *run) endLeft(ctx context.Context) error {
	as := r.over()
	if as == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.f.o.Records.EndLines(ctx, r.b, as)
}

// change records the batch as do leaves it.
func (r *run) change(ctx context.Context, do func(b *task.BatchRecord)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.b
	do(&b)
	if err := r.f.o.Records.KeepBatch(ctx, b, nil); err != nil {
		return err
	}
	r.b = b
	return nil
}

// cancel has nothing more of the batch start, because of its client.
func (r *run) cancel(ctx context.Context) error {
	return r.close(ctx, task.LineCanceled, func(b *task.BatchRecord, now time.Time) error {
		switch {
		case !b.CancelAt.IsZero():
			return nil
		case !b.FinalAt.IsZero():
			return errEnded(r.id)
		}
		b.CancelAt = now
		return nil
	})
}

// expire has nothing more of the batch start, because its window is over.
func (r *run) expire(ctx context.Context) error {
	return r.close(ctx, task.LineExpired, func(b *task.BatchRecord, now time.Time) error {
		if b.CancelAt.IsZero() && b.ExpiredAt.IsZero() && b.FinalAt.IsZero() {
			b.ExpiredAt = now
		}
		return nil
	})
}

// close ends the lines that wait in the ledger, in the commit that says why.
func (r *run) close(ctx context.Context, as task.LineState, why func(b *task.BatchRecord, now time.Time) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.b
	if err := why(&b, r.f.o.Now().UTC()); err != nil {
		return err
	}
	if b.CancelAt.Equal(r.b.CancelAt) && b.ExpiredAt.Equal(r.b.ExpiredAt) {
		return nil
	}
	if err := r.f.o.Records.EndLines(ctx, b, as); err != nil {
		return r.f.unwritten(err)
	}
	r.b = b
	if r.shut != nil {
		r.shut()
	}
	return nil
}

// over is how what has not started of the batch ends; empty: it may start.
func (r *run) over() task.LineState { return over(r.record()) }

func over(b task.BatchRecord) task.LineState {
	switch {
	case !b.CancelAt.IsZero():
		return task.LineCanceled
	case !b.ExpiredAt.IsZero():
		return task.LineExpired
	default:
		return ""
	}
}

// feed runs all lines that have not ended, a few at a time.
func (r *run) feed(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer r.opens(ctx)()
	var beside sync.WaitGroup
	beside.Go(func() {
		contain.Loop(ctx, r.f.log, "the clock of a batch panicked, and is set anew", r.watch, zap.String("batch_id", r.id))
	})
	defer beside.Wait()
	defer stop()
	for r.persist(ctx, func() error { return r.endLeft(ctx) }) {
		open := &openLines{r: r}
		var workers sync.WaitGroup
		for range r.f.o.Feed {
			workers.Go(func() {
				_ = contain.Do(r.f.log, "the feeding of a line panicked, and is tried again", func() {
					for l, ok := open.next(ctx); ok; l, ok = open.next(ctx) {
						r.line(ctx, l)
					}
				}, zap.String("batch_id", r.id))
			})
		}
		workers.Wait()
		b, _, err := r.f.o.Records.Batch(ctx, r.id)
		if err == nil && b.Counts.Open() == 0 {
			return
		}
		lifecycle.Pause(ctx, retryAfter) // the ledger could not be read, or a worker panicked, or the batch was closed meanwhile
	}
}

// watch waits for the end of the window.
func (r *run) watch(ctx context.Context) {
	for ctx.Err() == nil {
		left := r.record().ExpiresAt.Sub(r.f.o.Now())
		if left <= 0 && r.expire(ctx) == nil {
			return
		}
		lifecycle.Pause(r.open, min(max(left, retryAfter), time.Minute)) //nolint:contextcheck // a child of ctx; and the clock may be set meanwhile
		if r.over() != "" {
			return
		}
	}
}

// openLines are the lines of a batch that have not ended, each for one worker.
type openLines struct {
	r *run

	mu   sync.Mutex
	page []task.Line
	last int
	done bool
}

// next is the next line; false: there is none any more, or ctx has ended.
func (o *openLines) next(ctx context.Context) (task.Line, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.page) == 0 && !o.done && ctx.Err() == nil {
		page, err := o.r.f.o.Records.Lines(ctx, o.r.id, task.LineFilter{After: o.last, Open: true, Limit: pageOfLines})
		if err != nil {
			o.r.f.log.Warn("the lines of a batch cannot be read, and it is tried again", zap.String("batch_id", o.r.id), zap.Error(err))
		}
		o.page, o.done = page, err != nil || len(page) == 0
	}
	if len(o.page) == 0 || ctx.Err() != nil {
		return task.Line{}, false
	}
	l := o.page[0]
	o.page, o.last = o.page[1:], l.N
	return l, true
}

// line takes a line to its end, or to where ctx ends.
func (r *run) line(ctx context.Context, l task.Line) {
	for ctx.Err() == nil {
		switch was := l.State; {
		case was == task.LineFed:
			r.follow(ctx, l)
		case r.over() != "": // feed ends it
			return
		default:
			r.start(ctx, l)
		}
		again, err := r.f.o.Records.Lines(ctx, r.id, task.LineFilter{After: l.N - 1, Limit: 1})
		switch {
		case err != nil || len(again) == 0:
			lifecycle.Pause(ctx, retryAfter)
		case again[0].State.Final():
			r.f.metrics.ended.WithLabelValues(r.record().Dialect, string(again[0].State)).Inc()
			return
		default:
			l = again[0]
		}
	}
}

// start makes a task of a line, or ends the line where it can be none. Where waiting helps, it has waited for a while when it returns.
func (r *run) start(ctx context.Context, l task.Line) {
	b := r.record()
	_, err := contain.Try(func() (task.Admission, error) {
		q, names, err := r.request(ctx, b, l)
		if err != nil {
			return task.Admission{}, err
		}
		a, err := r.f.o.Tasks.Submit(ctx, q)
		return a, names.Err(err)
	})
	if err == nil || ctx.Err() != nil {
		return
	}
	if panicked, ok := errors.AsType[*contain.PanicError](err); ok {
		contain.Log(r.f.log, "a line of a batch fails, since it made its front panic", panicked, zap.String("batch_id", r.id), zap.Int("line", l.N))
	}
	if e := task.AsError(err).Envelope(); e.Retriable {
		after := retryAfter
		if e.RetryAfterMS != nil {
			after = min(max(time.Duration(*e.RetryAfterMS)*time.Millisecond, retryAfter), time.Minute)
		}
		lifecycle.Pause(r.open, after) //nolint:contextcheck // a child of ctx
		return
	}
	r.fail(ctx, l, err)
}

// fail ends a line with what its client would have got in place of an answer.
func (r *run) fail(ctx context.Context, l task.Line, err error) {
	b := r.record()
	status, body := r.f.o.Dialects[b.Dialect].LineRefusal(b.Endpoint, err, l.TaskID())
	l.State, l.Status, l.Refusal = task.LineFailed, status, exchange.JSON(body)
	r.persist(ctx, func() error { return r.f.o.Records.EndLine(ctx, l) })
}

// request is the task of a line, and what the line calls the task's fields.
func (r *run) request(ctx context.Context, b task.BatchRecord, l task.Line) (q task.Request, names *lenient.Names, err error) {
	text, err := r.bytes(l)
	if err != nil {
		return q, nil, err
	}
	asked, fault := forms[b.Dialect](b.Endpoint, text)
	if fault != nil { // it was read before, so the file has changed since
		return q, nil, task.Errorf(task.Internal, "the line is not what it was when the batch was accepted: send it again")
	}
	if q, names, err = r.f.o.Dialects[b.Dialect].Line(ctx, b.Endpoint, asked.body); err != nil {
		return q, nil, err
	}
	q.ID, q.BatchID, q.BatchLine, q.Priority = l.TaskID(), b.ID, l.N, task.Batch
	q.Front.Dialect, q.OnDisconnect = b.Dialect, task.Continue
	q.BodySHA256, q.CorrelationID, q.Actor = sha256.Sum256(asked.body), b.ID, b.Actor
	return q, names, nil
}

// bytes are those of a line.
func (r *run) bytes(l task.Line) ([]byte, error) {
	in, err := r.f.o.Store.Open(r.artifact)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text := make([]byte, l.Bytes)
	if _, err = in.Seek(l.At, io.SeekStart); err == nil {
		_, err = io.ReadFull(in, text)
	}
	if err != nil {
		return nil, fmt.Errorf("read line %d of batch %s: %w", l.N, r.id, err)
	}
	return text, nil
}

// follow waits for the end of a line's task. When the batch is closed, it ends a task that must not go on.
func (r *run) follow(ctx context.Context, l task.Line) {
	id := l.TaskID()
	err := r.f.o.Tasks.Await(r.open, id) //nolint:contextcheck // a child of ctx
	if err != nil && ctx.Err() == nil && r.open.Err() != nil {
		if r.over() == task.LineCanceled || r.queued(ctx, id) {
			if _, err := r.f.o.Tasks.Cancel(ctx, id); err != nil && ctx.Err() == nil {
				r.f.log.Warn("the task of a batch's line is not canceled yet, and it is tried again", zap.String("job_id", id), zap.Error(err))
				lifecycle.Pause(ctx, retryAfter)
				return
			}
		}
		err = r.f.o.Tasks.Await(ctx, id)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil && task.HasCode(err, task.NotFound): // a fault of ours, or of the disk
		r.fail(ctx, l, task.Errorf(task.Internal, "the task of this line is not in the record any more").Because(err))
	case err != nil:
		lifecycle.Pause(ctx, retryAfter)
	case r.over() == task.LineExpired:
		r.persist(ctx, func() error { return r.late(ctx, l) })
	}
}

// queued reports whether a task has not started.
func (r *run) queued(ctx context.Context, id string) bool {
	s, err := r.f.o.Tasks.Get(ctx, id)
	return err == nil && s.State == task.Queued
}

// late makes an expired line of one whose task was canceled since it had not started in time.
func (r *run) late(ctx context.Context, l task.Line) error {
	again, err := r.f.o.Records.Lines(ctx, r.id, task.LineFilter{After: l.N - 1, Limit: 1})
	if err != nil || len(again) == 0 || again[0].State != task.LineCanceled {
		return err
	}
	again[0].State = task.LineExpired
	return r.f.o.Records.EndLine(ctx, again[0])
}

// finish ends a batch whose lines have all ended, or of which none is run.
func (r *run) finish(ctx context.Context) error {
	if r.record().FinalAt.IsZero() {
		if err := r.change(ctx, func(b *task.BatchRecord) { b.FinalAt = r.f.o.Now().UTC() }); err != nil {
			return err
		}
	}
	now, _, err := r.f.o.Records.Batch(ctx, r.id)
	if err != nil {
		return err
	}
	if len(now.Faults) > 0 {
		now.Counts = task.LineCounts{Failed: now.Total}
	} else if now.OutputBytes, now.ErrorBytes, err = r.f.sizes(ctx, now); err != nil {
		return err
	}
	err = r.change(ctx, func(b *task.BatchRecord) {
		b.EndedAt, b.Counts, b.OutputBytes, b.ErrorBytes = r.f.o.Now().UTC(), now.Counts, now.OutputBytes, now.ErrorBytes
	})
	if err != nil {
		return err
	}
	r.f.forget(r.id)
	r.f.log.Info("a batch has ended", zap.String("batch_id", r.id), zap.Int("completed", now.Counts.Completed), zap.Int("failed", now.Counts.Failed),
		zap.Int("canceled", now.Counts.Canceled), zap.Int("expired", now.Counts.Expired))
	return nil
}
