// SPDX-License-Identifier: GPL-3.0-or-later

// Package sqlite is the durable record of accepted tasks: what was accepted, dispatched and how it ended, with the
// transcript. It is one SQLite file that one goroutine writes; what many callers ask for at a time shares one commit
// (LO-202).
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// FileName is that of the ledger in the data folder.
const FileName = "state.db"

// Options are what a ledger is opened with.
type Options struct {
	Path        string // of the file; its folder has to be there
	Log         *zap.Logger
	Registerer  prometheus.Registerer
	RetainAge   time.Duration // how long finished tasks are kept; 0: for ever
	RetainBytes int64         // what the tasks may take on the disk before the oldest finished ones go; 0: no bound
	MaxPages    int           // of 4 KiB, where the disk is taken as full; 0: none
	Now         func() time.Time

	steps   []string // of the schema; tests have their own
	offhand bool     // tests: don't wait for the disk
}

// SQLite is a ledger. Its methods may be called from several goroutines.
type SQLite struct {
	*Reader
	o       Options
	log     *zap.Logger
	metrics *metrics
	w       *writer // of the writing goroutine

	mu          sync.Mutex
	queue       []*op
	checkpoints map[string]task.Checkpoint // that wait for a commit
	nextSeq     uint64
	closed      bool

	wake    chan struct{} // capacity 1
	writing sync.WaitGroup
}

// Open opens the ledger, and makes one where there is none. A file that is no whole ledger of this version or an earlier one
// is an *Error, and is left as it was.
func Open(o Options) (*SQLite, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.steps == nil {
		o.steps = steps
	}
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	o.Path = path
	ctx := context.Background()
	if err := create(ctx, o.Path, o.steps); err != nil {
		return nil, err
	}
	l := &SQLite{o: o, log: o.Log.Named("ledger"), checkpoints: map[string]task.Checkpoint{}, wake: make(chan struct{}, 1)}
	if err := l.open(ctx); err != nil {
		return nil, openError(o.Path, err)
	}
	if l.metrics, err = newMetrics(o.Registerer, l.bytes); err != nil {
		return nil, errors.Join(err, l.Reader.Close(), l.w.close())
	}
	l.writing.Go(l.write)
	return l, nil
}

// open looks at the file first, without a right to write it, and then takes it.
func (l *SQLite) open(ctx context.Context) (err error) {
	var version int
	if l.Reader, version, err = look(ctx, l.o.Path, len(l.o.steps)); err != nil {
		return err
	}
	if err = quickCheck(ctx, l.db, l.o.Path); err == nil {
		l.w, err = newWriter(ctx, l.o, version)
	}
	if err != nil {
		return errors.Join(err, l.Reader.Close())
	}
	if l.nextSeq, err = l.w.nextSeq(ctx); err == nil {
		err = l.Reader.prepare(ctx)
	}
	if err != nil {
		return errors.Join(err, l.Reader.Close(), l.w.close())
	}
	return nil
}

// Close writes what waits, joins the writer and closes the file.
func (l *SQLite) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.nudge()
	l.writing.Wait()
	l.metrics.unregister(l.o.Registerer)
	if err := errors.Join(l.Reader.Close(), l.w.close()); err != nil {
		return fmt.Errorf("close the ledger: %w", err)
	}
	return nil
}

// NextSeq hands out a sequence number. It is greater than every one that it handed out before, and than that of every task
// that was ever accepted.
func (l *SQLite) NextSeq() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, ErrClosed
	}
	next := l.nextSeq
	l.nextSeq++
	return next, nil
}

// Accept records a task as queued. It may be repeated, also for a task that is past that.
func (l *SQLite) Accept(ctx context.Context, t task.Task) error {
	if t.Seq == 0 || t.ID == "" || t.AcceptedAt.IsZero() {
		return fmt.Errorf("accept task %q: it needs an id, a sequence number and a time", t.ID)
	}
	text, err := encodeTask(t)
	if err != nil {
		return fmt.Errorf("accept task %s: encode: %w", t.ID, err)
	}
	return l.submit(ctx, &op{kind: opAccept, id: t.ID, size: len(text), run: func(w *writer) error { return w.accept(t, text) }, seq: t.Seq})
}

// Dispatch records that a replica is about to run a task. A later dispatch of the task leaves its place in the start order.
func (l *SQLite) Dispatch(ctx context.Context, d task.Dispatch) error {
	return l.submit(ctx, &op{kind: opDispatch, id: d.ID, run: func(w *writer) error { return w.dispatch(d) }})
}

// Finish records how a task ended. It may be repeated with the same outcome.
func (l *SQLite) Finish(ctx context.Context, r task.Record) error {
	if !r.State.Final() || r.Task.Seq == 0 || r.Task.ID == "" || r.Task.AcceptedAt.IsZero() || r.FinishedAt.IsZero() {
		return fmt.Errorf("finish task %q: state %q, sequence number %d, accepted %v and finished %v are not those of an outcome",
			r.Task.ID, r.State, r.Task.Seq, r.Task.AcceptedAt, r.FinishedAt)
	}
	text, err := encodeTask(r.Task)
	if err != nil {
		return fmt.Errorf("finish task %s: encode: %w", r.Task.ID, err)
	}
	outcome, err := encodeOutcome(r)
	if err != nil {
		return fmt.Errorf("finish task %s: encode: %w", r.Task.ID, err)
	}
	return l.submit(ctx, &op{
		kind: opFinish, id: r.Task.ID, size: len(outcome) + len(r.Transcript.Text), seq: r.Task.Seq,
		run: func(w *writer) error { return w.finish(r, text, outcome) },
	})
}

// maxCheckpoints is how many tasks' checkpoints may wait; beyond that they are dropped.
const maxCheckpoints = 4096

// Checkpoint notes a point of a running task's log. It returns at once; the note is written with the next commit, within
// about a second, and may be lost. A task's checkpoint never goes back.
func (l *SQLite) Checkpoint(id string, c task.Checkpoint) {
	l.mu.Lock()
	known, waits := l.checkpoints[id]
	if l.closed || !waits && len(l.checkpoints) >= maxCheckpoints || waits && known.Event >= c.Event {
		l.mu.Unlock()
		return
	}
	l.checkpoints[id] = c
	first := len(l.checkpoints) == 1
	l.mu.Unlock()
	if first {
		l.nudge()
	}
}

func (l *SQLite) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// submit has the writer do an operation, and waits for the commit. When ctx ends before the writer has begun, nothing is
// recorded; after that the answer takes no longer than a commit.
func (l *SQLite) submit(ctx context.Context, o *op) error {
	o.done = make(chan error, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
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

// bytes is what the ledger takes on the disk.
func (l *SQLite) bytes() float64 {
	sum := int64(0)
	for _, part := range parts(l.o.Path) {
		if info, err := os.Stat(part); err == nil {
			sum += info.Size()
		}
	}
	return float64(sum)
}
