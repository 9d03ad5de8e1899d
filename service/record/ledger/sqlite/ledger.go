// SPDX-License-Identifier: GPL-3.0-or-later

// Package sqlite is the ledger as one SQLite file. One goroutine writes it, and what many callers ask for at a time shares
// one commit (LO-202). One process has it open: it holds a lock on the file itself, which is the lease of its claims.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/record/ledger/meter"
	"github.com/llama-orch/llama-orch/service/record/ledger/note"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// FileName is the ledger's name in the data folder.
const FileName = "state.db"

// Options are what a ledger is opened with.
type Options struct {
	Path        string // of the file; its folder has to be there
	Log         *zap.Logger
	Registerer  prometheus.Registerer
	RetainAge   time.Duration // how long finished tasks are kept; 0: for ever
	RetainBytes int64         // what the tasks may take on the disk before the oldest finished ones go; 0: no bound
	// Bundles says what proof bundles have in full. With it Finish sets the record's Proof. Nil: Finish records the Proof that it
	// is given.
	Bundles *bundle.Keep
	// BeforeForgetting is called with finished tasks before they are removed for their age or for want of room. They stay while
	// it fails. It may be nil.
	BeforeForgetting func(context.Context, []task.Record) error
	MaxPages         int // of 4 KiB, where the disk is taken as full; 0: none
	Now              func() time.Time

	steps   []string // of the schema; tests have their own
	offhand bool     // tests: do not wait for the disk
}

var _ ledger.Ledger = (*Ledger)(nil)

// Ledger is a ledger.Ledger.
type Ledger struct {
	*Reader
	o       Options
	log     *zap.Logger
	metrics *meter.Metrics
	lock    *lock   // on the file; the lease of every claim
	w       *writer // of the writing goroutine

	mu      sync.Mutex
	queue   []*op
	notes   note.Notes // that wait for a commit
	nextSeq uint64
	starts  int64 // counts dispatches: each gets its place in the order of starts
	closed  bool

	wrote   atomic.Int64  // when the last commit was, in s since the epoch; 0: it failed, or there was none
	turns   atomic.Uint64 // how often the writing goroutine came round
	wake    chan struct{} // capacity 1
	writing sync.WaitGroup

	erasures []chan error // of callers whose deletions are committed, and who wait until the file has nothing of them any more

	parting sync.WaitGroup     // calls of BeforeForgetting
	keeping sync.Mutex         // held while they read tasks and keep what they keep
	halt    context.Context    // ends with Close; the context of those calls
	abandon context.CancelFunc // of halt
}

// Open opens the ledger, and makes one where there is none. It fails with an *Error, and does not change the file, if the file
// is not a whole ledger of this version or an earlier one, or if another process has it open.
func Open(o Options) (*Ledger, error) {
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
	l := &Ledger{o: o, log: o.Log.Named("ledger"), notes: note.New(), wake: make(chan struct{}, 1)}
	l.halt, l.abandon = context.WithCancel(ctx)
	if err := l.open(ctx); err != nil {
		l.abandon()
		return nil, openError(o.Path, err)
	}
	if l.metrics, err = meter.New(o.Registerer, l.bytes); err != nil {
		return nil, errors.Join(err, l.closeFile())
	}
	l.writing.Go(func() {
		defer l.unsound()
		l.write()
	})
	return l, nil
}

// open looks at the file without writing to it, and only then takes the lock and opens it for writing.
func (l *Ledger) open(ctx context.Context) (err error) {
	var version int
	if l.Reader, version, err = look(ctx, l.o.Path, len(l.o.steps)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.closeFile())
		}
	}()
	if l.lock, err = takeLock(l.o.Path); err != nil {
		return err
	}
	if err = quickCheck(ctx, l.db, l.o.Path); err != nil {
		return err
	}
	if l.w, err = newWriter(ctx, l.o, version); err != nil {
		return err
	}
	if l.nextSeq, l.starts, err = l.w.last(ctx); err != nil {
		return err
	}
	if err = l.compare(ctx); err != nil {
		return err
	}
	l.nextSeq++
	if l.w.erase.due, err = l.w.leftOver(ctx); err != nil {
		return err
	}
	return l.Reader.prepare(ctx)
}

// closeFile closes what open opened. The lock goes last, when SQLite has closed its handles.
func (l *Ledger) closeFile() error {
	err := l.Reader.Close()
	if l.w != nil {
		err = errors.Join(err, l.w.close())
	}
	return errors.Join(err, l.lock.release())
}

// Close writes what waits, joins the writer and closes the file.
func (l *Ledger) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.notes.Ripen()
	l.mu.Unlock()
	l.abandon()
	l.nudge()
	l.writing.Wait()
	l.parting.Wait()
	l.metrics.Unregister(l.o.Registerer)
	if err := l.closeFile(); err != nil {
		return fmt.Errorf("close the ledger: %w", err)
	}
	return nil
}

// Claim implements ledger.Ledger. The lock on the file is the lease: whoever has the ledger open holds all that is live.
func (l *Ledger) Claim(ctx context.Context, by task.Host) (ledger.Claim, error) {
	c := ledger.Claim{Owner: by.ID}
	var unreadable error // a damaged task; it does not keep the claim from being made
	err := l.submit(ctx, &op{
		kind: opClaim, id: by.ID,
		run: func(w *writer) (err error) {
			if c.Fence = w.fence; c.Fence > 0 {
				return nil
			}
			c.Tasks, unreadable = w.live()
			c.Fence, err = w.claim(by.ID, l.o.Now())
			return err
		},
		then: func() { l.w.fence = c.Fence },
	})
	return c, errors.Join(err, unreadable)
}

// NextSeq implements ledger.Ledger.
func (l *Ledger) NextSeq() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, ledger.ErrClosed
	}
	next := l.nextSeq
	l.nextSeq++
	return next, nil
}

// Accept implements ledger.Ledger.
func (l *Ledger) Accept(ctx context.Context, t task.Task) error { return l.accept(ctx, t, nil) }

// AcceptRunning implements ledger.Ledger.
func (l *Ledger) AcceptRunning(ctx context.Context, t task.Task, d task.Dispatch) error {
	place := l.place(&d)
	return l.accept(ctx, t, &note.Start{Dispatch: d, Place: place})
}

// accept records a task, and its first start where s is not nil.
func (l *Ledger) accept(ctx context.Context, t task.Task, s *note.Start) error {
	if err := ledger.CheckTask(t); err != nil {
		return fmt.Errorf("accept task %q: %w", t.ID, err)
	}
	text, err := entry.EncodeTask(t)
	if err != nil {
		return fmt.Errorf("accept task %s: encode: %w", t.ID, err)
	}
	return l.submit(ctx, &op{
		kind: opAccept, id: t.ID, size: len(text), seq: t.Seq,
		run: func(w *writer) error { return w.accept(t, s, func() ([]byte, error) { return text, nil }) },
	})
}

// Render implements ledger.Ledger.
func (l *Ledger) Render(ctx context.Context, t task.Task) error {
	text, err := entry.EncodeTask(t)
	if err != nil {
		return fmt.Errorf("render task %s: encode: %w", t.ID, err)
	}
	return l.submit(ctx, &op{kind: opRender, id: t.ID, size: len(text), run: func(w *writer) error {
		state, _, err := w.find(t.ID)
		switch {
		case err != nil:
			return err
		case state.Final():
			return fmt.Errorf("%w: it is %s", ledger.ErrEnded, state)
		}
		return w.render(t, text)
	}})
}

// Dispatch implements ledger.Ledger.
func (l *Ledger) Dispatch(ctx context.Context, d task.Dispatch) error {
	place := l.place(&d)
	return l.submit(ctx, &op{kind: opDispatch, id: d.ID, run: func(w *writer) error { return w.dispatch(d, place) }})
}

// place returns a dispatch's place in the order of starts. Where a first start of the task is noted, the dispatch gets its place and time.
func (l *Ledger) place(d *task.Dispatch) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.notes.Of(d.ID); s != nil {
		d.At = s.At
		return s.Place
	}
	l.starts++
	return l.starts
}

// Started implements ledger.Ledger. A task that ends soon, as most do, needs no write for its start.
func (l *Ledger) Started(d task.Dispatch) {
	l.mu.Lock()
	l.starts++
	first := !l.closed && l.notes.Start(d, l.starts, time.Now())
	l.mu.Unlock()
	if first {
		l.nudge()
	}
}

// Checkpoint implements ledger.Ledger.
func (l *Ledger) Checkpoint(id string, c task.Checkpoint) {
	l.mu.Lock()
	first := !l.closed && l.notes.Checkpoint(id, c, time.Now())
	l.mu.Unlock()
	if first {
		l.nudge()
	}
}

// Finish implements ledger.Ledger.
func (l *Ledger) Finish(ctx context.Context, r task.Record) error {
	if err := ledger.CheckOutcome(r); err != nil {
		return fmt.Errorf("finish task %q: %w", r.Task.ID, err)
	}
	if l.o.Bundles != nil {
		var err error
		if r.Proof, err = bundle.Prove(r, *l.o.Bundles); err != nil {
			return fmt.Errorf("finish task %s: %w", r.Task.ID, err)
		}
	}
	outcome, err := entry.EncodeOutcome(r)
	if err != nil {
		return fmt.Errorf("finish task %s: encode: %w", r.Task.ID, err)
	}
	var rendered []byte
	if !r.Task.RenderedAt.IsZero() {
		if rendered, err = entry.EncodeTask(r.Task); err != nil {
			return fmt.Errorf("finish task %s: encode: %w", r.Task.ID, err)
		}
	}
	return l.submit(ctx, &op{
		kind: opFinish, id: r.Task.ID, size: len(outcome) + len(r.Transcript.Text), seq: r.Task.Seq,
		run: func(w *writer) error { return w.finish(r, outcome, rendered) },
	})
}

func (l *Ledger) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

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

// bytes is what the ledger takes on the disk.
func (l *Ledger) bytes() float64 {
	sum := int64(0)
	for _, part := range parts(l.o.Path) {
		if info, err := os.Stat(part); err == nil {
			sum += info.Size()
		}
	}
	return float64(sum)
}
