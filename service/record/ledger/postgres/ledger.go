// SPDX-License-Identifier: GPL-3.0-or-later

// Package postgres is the ledger in a schema of a PostgreSQL database, which several daemons may have open (LO-701). One goroutine of each writes, and what
// many callers ask for at a time shares one transaction. A daemon holds its tasks by a claim with a fencing number, whose lease it renews; the clock of all
// leases is the database's.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/record/ledger/meter"
	"github.com/llama-orch/llama-orch/service/record/ledger/note"
	"github.com/llama-orch/llama-orch/service/task"
)

// Options are what a ledger is opened with.
type Options struct {
	DSN         string // of the database, as libpq has it; its password is in no error and no log line
	Schema      string // of the ledger's tables; made where it is missing
	Connections int    // at most, at least 2: one writes, the others read
	Owner       string // names this daemon; whoever has the name after it takes what it held
	Lease       time.Duration
	Log         *zap.Logger
	Registerer  prometheus.Registerer
	RetainAge   time.Duration // how long finished tasks are kept; 0: for ever
	RetainBytes int64         // what the texts of tasks may take before the oldest finished ones go; 0: no bound
	// Bundles says what proof bundles have in full. With it Finish sets the record's Proof. Nil: Finish records the Proof that it is given.
	Bundles *bundle.Keep
	// BeforeForgetting is called with finished tasks before they are removed for their age or for want of room. They stay while it fails. It may be nil.
	BeforeForgetting func(context.Context, []task.Record) error
	// Lost is called once if another daemon has taken what this one held. It may be nil.
	Lost func(error)
	Now  func() time.Time

	steps []string // of the schema; tests have their own
	where string   // the database, for people
}

// DefaultLease is how long a daemon holds its tasks after it was last heard of.
const DefaultLease = 5 * time.Second

// defaults of the options.
const (
	DefaultSchema      = "llorch"
	DefaultConnections = 8
)

func (o Options) filled() Options {
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
	if o.Lease <= 0 {
		o.Lease = DefaultLease
	}
	if o.Schema == "" {
		o.Schema = DefaultSchema
	}
	if o.Connections == 0 {
		o.Connections = DefaultConnections
	}
	return o
}

var (
	_ ledger.Ledger = (*Ledger)(nil)
	_ ledger.Shared = (*Ledger)(nil)
)

// Ledger is a ledger.Ledger.
type Ledger struct {
	*Reader
	o       Options
	log     *zap.Logger
	metrics *meter.Metrics
	w       *writer // of the writing goroutine

	mu       sync.Mutex
	queue    []*op
	notes    note.Notes // that wait for a commit
	nextSeq  uint64
	endSeq   uint64        // behind the last number that is ours to hand out
	fetching chan struct{} // closed when the next numbers have come, or have not; nil: nobody fetches
	starts   int64         // counts dispatches: each gets its place in the order of starts
	closed   bool

	fence   atomic.Int64              // of the claim
	renewed atomic.Pointer[time.Time] // when what renewed its lease last was sent
	wrote   atomic.Int64              // when the last commit was, in s since the epoch; 0: it or a read since has failed, or there was none
	turns   atomic.Uint64             // how often the writing goroutine came round
	size    atomic.Int64              // bytes of the tables, as last looked at
	wake    chan struct{}             // capacity 1
	sweeps  chan struct{}             // capacity 1
	mute    atomic.Bool               // tests: the lease is not renewed

	running sync.WaitGroup // the writing goroutine
	beside  sync.WaitGroup // what fetches numbers and sweeps, with the help of the first
	keeping sync.Mutex     // held while BeforeForgetting reads tasks and keeps what it keeps
	halt    context.Context
	abandon context.CancelFunc // of halt, with Close
}

// openWithin is how long a database is waited for that does not answer.
const openWithin = 5 * time.Second

// Open opens the ledger, and makes its schema where there is none. It fails with an *Error, as a rule. Where the database is away, it waits a little before that.
func Open(o Options) (*Ledger, error) {
	o = o.filled()
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	l := &Ledger{o: o, log: o.Log.Named("ledger"), notes: note.New(), wake: make(chan struct{}, 1), sweeps: make(chan struct{}, 1)}
	l.halt, l.abandon = context.WithCancel(context.Background())
	if err := l.open(config); err != nil {
		l.abandon()
		return nil, o.openError(err)
	}
	if l.metrics, err = meter.New(o.Registerer, func() float64 { return float64(l.size.Load()) }); err != nil {
		l.abandon()
		return nil, errors.Join(err, l.shut())
	}
	l.running.Go(func() {
		defer l.unsound()
		l.write()
	})
	l.beside.Go(func() {
		_ = contain.Do(l.log, "the sweeps of the ledger panicked, and end: old tasks stay until the next start", l.sweep)
	})
	return l, nil
}

func (l *Ledger) open(config *pgxpool.Config) (err error) {
	l.w = newWriter(config.ConnConfig, l.o)
	for deadline := time.Now().Add(openWithin + l.o.Lease); ; {
		if err = l.begin(); err == nil {
			break
		}
		e, ok := errors.AsType[*Error](l.o.openError(err))
		if !ok || e.Fault != Away || time.Now().After(deadline) {
			return errors.Join(err, l.w.close())
		}
		time.Sleep(100 * time.Millisecond)
	}
	pool, err := pgxpool.NewWithConfig(l.halt, config)
	if err != nil {
		return errors.Join(err, l.w.close())
	}
	l.Reader = &Reader{o: l.o, db: pool, version: len(l.o.steps), missed: func() { l.wrote.Store(0) }}
	return nil
}

// begin makes sure of the database and its schema, and claims.
func (l *Ledger) begin() error {
	ctx, stop := context.WithTimeout(l.halt, readWithin)
	defer stop()
	c, err := l.w.connect(ctx)
	if err != nil {
		return err
	}
	if err := trust(ctx, c, l.o); err != nil {
		return err
	}
	if err := migrate(ctx, c, l.o); err != nil {
		return err
	}
	return l.enter(ctx, c)
}

// shut closes the connections.
func (l *Ledger) shut() error {
	l.Reader.db.Close()
	return l.w.close()
}

// Close writes what waits, gives up the claim, joins the goroutines and closes the connections.
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
	l.beside.Wait()
	l.running.Wait()
	l.metrics.Unregister(l.o.Registerer)
	if err := l.shut(); err != nil {
		return fmt.Errorf("close the ledger: %w", err)
	}
	return nil
}

// Accept implements ledger.Ledger.
func (l *Ledger) Accept(ctx context.Context, t task.Task) error { return l.accept(ctx, t, nil) }

// AcceptRunning implements ledger.Ledger.
func (l *Ledger) AcceptRunning(ctx context.Context, t task.Task, d task.Dispatch) error {
	place := l.place(&d)
	return l.accept(ctx, t, &note.Start{Dispatch: d, Place: place})
}

func (l *Ledger) accept(ctx context.Context, t task.Task, s *note.Start) error {
	if err := ledger.CheckTask(t); err != nil {
		return fmt.Errorf("accept task %q: %w", t.ID, err)
	}
	a, err := newArrival(t, s)
	if err != nil {
		return fmt.Errorf("accept task %s: encode: %w", t.ID, err)
	}
	return l.submit(ctx, &op{kind: opAccept, id: t.ID, size: len(a.body), seq: t.Seq, arrival: a})
}

// Render implements ledger.Ledger.
func (l *Ledger) Render(ctx context.Context, t task.Task) error {
	body, err := entry.EncodeTask(t)
	if err != nil {
		return fmt.Errorf("render task %s: encode: %w", t.ID, err)
	}
	return l.submit(ctx, &op{kind: opRender, id: t.ID, size: len(body), run: func(ctx context.Context, x *transaction) error {
		if err := x.mine(ctx, t.ID); err != nil {
			return err
		}
		return x.render(ctx, t, body)
	}})
}

// Dispatch implements ledger.Ledger.
func (l *Ledger) Dispatch(ctx context.Context, d task.Dispatch) error {
	place := l.place(&d)
	return l.submit(ctx, &op{kind: opDispatch, id: d.ID, start: &note.Start{Dispatch: d, Place: place}})
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
	e, err := newEnding(r)
	if err != nil {
		return fmt.Errorf("finish task %s: encode: %w", r.Task.ID, err)
	}
	return l.submit(ctx, &op{kind: opFinish, id: r.Task.ID, size: len(e.outcome) + len(r.Transcript.Text), seq: r.Task.Seq, ending: e})
}

func (l *Ledger) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
