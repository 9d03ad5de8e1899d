// SPDX-License-Identifier: GPL-3.0-or-later

// Package batch has files, and batches of requests of the other fronts (LO-435 to LO-440). A Feeder runs the lines of batches as tasks, a few at a time,
// and makes their results from the ledger's record. OpenAI and Anthropic are the fronts that show them, each in its dialect.
package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

// Dialect is the front whose requests the lines of a batch are.
type Dialect interface {
	// Line makes a task of a body that would have been sent to the path. The names are what the body calls the task's fields.
	Line(ctx context.Context, path string, body []byte) (task.Request, *lenient.Names, error)
	// LineAnswer is the body of the answer to such a task, which has completed.
	LineAnswer(path string, r task.Record) any
	// LineRefusal is the status and the body that the client of such a request would have got in place of an answer.
	LineRefusal(path string, err error, requestID string) (status int, body any)
}

// Tasks is the line of tasks.
type Tasks interface {
	// Submit accepts a task, or refuses it with a *task.Error.
	Submit(ctx context.Context, r task.Request) (task.Admission, error)
	// Await returns once a task has ended.
	Await(ctx context.Context, id string) error
	Get(ctx context.Context, id string) (task.Status, error)
	Cancel(ctx context.Context, id string) (task.CancelResult, error)
}

// Records is the ledger. What it refuses is a *task.Error: NOT_FOUND, or CONFLICT for what has not ended. Any other error means that it cannot be
// read or written now.
type Records interface {
	KeepFile(ctx context.Context, f task.File) error
	DropFile(ctx context.Context, id string) error
	File(ctx context.Context, id string) (task.File, bool, error)
	Files(ctx context.Context, f task.FileFilter) ([]task.Listed, error)
	Uses(ctx context.Context, artifact string) (bool, error)
	KeepBatch(ctx context.Context, b task.BatchRecord, lines []task.Line) error
	EndLine(ctx context.Context, l task.Line) error
	EndLines(ctx context.Context, b task.BatchRecord, as task.LineState) error
	Batch(ctx context.Context, id string) (task.BatchRecord, bool, error)
	Batches(ctx context.Context, f task.BatchFilter) ([]task.BatchRecord, error)
	Lines(ctx context.Context, batch string, f task.LineFilter) ([]task.Line, error)
	EraseLines(ctx context.Context, batch string, states []task.LineState, at time.Time) error
	DropBatch(ctx context.Context, id string, at time.Time) error
	Get(ctx context.Context, id string) (task.Record, bool, error)
}

// Store keeps the bytes of files. Its errors are *task.Error, or wrap what the reader failed with.
type Store interface {
	// Put stores what r reads, up to so many bytes, and returns its id and size once it is on the disk.
	Put(ctx context.Context, name string, r io.Reader, most int64) (id string, size int64, err error)
	Open(id string) (io.ReadSeekCloser, error)
	Has(id string) bool
	Remove(id string) error
	// Keep has the store remove nothing by itself of which needed says that it is needed. It is called with locks of the store held.
	Keep(needed func(id string) bool)
}

// Options are what a Feeder is made from. Tasks, Records, Store, Dialects and NewID are needed.
type Options struct {
	Tasks    Tasks
	Records  Records
	Store    Store
	Dialects map[string]Dialect // by the name of the front
	NewID    func() string      // of 32 letters and digits
	Feed     int                // lines of a batch that are in the queue or run; default 16
	// FileBytes bounds a file, and LineBytes one of its lines; default 200 MB and 10 MiB.
	FileBytes, LineBytes int64
	Retain               time.Duration // how long a batch that has ended is kept; 0: for ever
	Log                  *zap.Logger   // default none
	Registerer           prometheus.Registerer
	Now                  func() time.Time // default the wall clock's
}

// The defaults of Options, and bounds that are none of them.
const (
	DefaultFileBytes = 200_000_000
	defaultLineBytes = 10 << 20
	defaultFeed      = 16

	maxLines    = 100_000
	maxLive     = 100 // batches that have not ended
	pageOfLines = 64  // that are read at a time
	pageOfFiles = 256 // and of batches
	tendEvery   = time.Hour
	retryAfter  = time.Second // while the ledger cannot write
)

// Feeder runs batches. Its methods may be called from several goroutines.
type Feeder struct {
	o       Options
	log     *zap.Logger
	metrics *metrics
	life    lifecycle.Life

	mu   sync.Mutex
	live map[string]*run // that have not ended, by id

	ended  sync.Mutex // held while the record of a batch that has ended is changed
	stored sync.Mutex // held while what is stored gets a file or a batch, and while it is removed since it has none; before mu
}

var _ lifecycle.Service = (*Feeder)(nil)

// New makes a feeder, which knows the batches that have not ended. Start runs them.
func New(o Options) (*Feeder, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	o.Feed = cmp.Or(o.Feed, defaultFeed)
	o.FileBytes, o.LineBytes = cmp.Or(o.FileBytes, DefaultFileBytes), cmp.Or(o.LineBytes, defaultLineBytes)
	f := &Feeder{o: o, log: o.Log.Named("batch"), live: map[string]*run{}}
	left, err := o.Records.Batches(context.Background(), task.BatchFilter{Live: true, Own: true})
	if err != nil {
		return nil, fmt.Errorf("read the batches that have not ended: %w", err)
	}
	for _, b := range left {
		r := newRun(f, b)
		if r.durable = o.Dialects[b.Dialect] != nil; !r.durable {
			f.log.Warn("a batch waits, since its dialect is not served any more", zap.String("batch_id", b.ID), zap.String("front", b.Dialect))
		}
		f.live[b.ID] = r
	}
	if f.metrics, err = newMetrics(o.Registerer, f.open); err != nil {
		return nil, err
	}
	o.Store.Keep(f.needs)
	return f, nil
}

// Start implements lifecycle.Service.
func (f *Feeder) Start(context.Context) error {
	if !f.life.Begin() {
		return nil
	}
	for _, r := range f.running() {
		f.begin(r) //nolint:contextcheck // it outlives the start
	}
	f.life.Go(func(ctx context.Context) {
		contain.Loop(ctx, f.log, "the tending of batches panicked, and is tried again", f.tend)
	})
	return nil
}

// Stop implements lifecycle.Service. The tasks of lines go on without it.
func (f *Feeder) Stop(ctx context.Context) error { return f.life.End(ctx, errStopping()) }

func errStopping() *task.Error {
	return task.Errorf(task.ShuttingDown, "the server is shutting down: try again once it is back").Retry(retryAfter)
}

// running are the batches that have not ended, the oldest first.
func (f *Feeder) running() []*run {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Values(f.live), func(a, b *run) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.id, b.id))
	})
}

// begin runs a batch that is durable, once. Before Start nothing is run.
func (f *Feeder) begin(r *run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !r.durable || r.started {
		return
	}
	r.started = f.life.Go(func(ctx context.Context) {
		contain.Loop(ctx, f.log, "the feeding of a batch panicked, and is taken up anew", r.run, zap.String("batch_id", r.id))
	})
}

// needs reports whether a batch that has not ended reads an artifact.
func (f *Feeder) needs(artifact string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.live {
		if r.artifact == artifact {
			return true
		}
	}
	return false
}

// open counts the lines that have not ended.
func (f *Feeder) open() (c task.LineCounts) {
	for _, r := range f.running() {
		if b, ok, err := f.o.Records.Batch(context.Background(), r.id); err == nil && ok {
			c.Waiting += b.Counts.Waiting
			c.Fed += b.Counts.Fed
		}
	}
	return c
}

// Create accepts a batch: its id, dialect, and all that its client said of it. It returns once the batch is durable.
func (f *Feeder) Create(ctx context.Context, b task.BatchRecord) (task.BatchRecord, error) {
	r := newRun(f, b)
	if err := f.enlist(r); err != nil {
		return b, err
	}
	if err := f.unwritten(f.o.Records.KeepBatch(ctx, b, nil)); err != nil {
		f.forget(b.ID)
		return b, err
	}
	f.log.Info("a batch was accepted", zap.String("batch_id", b.ID), zap.String("front", b.Dialect), zap.String("actor", b.Actor))
	f.mu.Lock()
	r.durable = true
	f.mu.Unlock()
	f.begin(r) //nolint:contextcheck // it outlives the request
	return b, nil
}

// enlist puts a new batch among the live ones. From then on nothing takes its input away.
func (f *Feeder) enlist(r *run) error {
	f.stored.Lock()
	defer f.stored.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.life.Stopping():
		return errStopping()
	case len(f.live) >= maxLive:
		return task.Errorf(task.AdmissionReject, "%d batches have not ended, and there may be no more: wait for one of them, or cancel one", maxLive).Retry(time.Minute)
	case f.o.Store.Has(r.artifact):
		f.live[r.id] = r
		return nil
	case r.b.FileID == "":
		return errTwin()
	default:
		return noFile(r.b.FileID)
	}
}

func (f *Feeder) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, id)
}

// Batch is a batch of a dialect.
func (f *Feeder) Batch(ctx context.Context, dialect, id string) (task.BatchRecord, error) {
	b, ok, err := f.o.Records.Batch(ctx, id)
	if err != nil {
		return b, f.unwritten(err)
	}
	if !ok || b.Dialect != dialect {
		return b, noBatch(id)
	}
	return b, nil
}

func noBatch(id string) error { return task.Errorf(task.NotFound, "there is no batch %.100q", id) }

// Batches are those of a filter. NOT_FOUND for an id in it that there is not.
func (f *Feeder) Batches(ctx context.Context, filter task.BatchFilter) ([]task.BatchRecord, error) {
	found, err := f.o.Records.Batches(ctx, filter)
	return found, f.unwritten(err)
}

// Cancel ends a batch because of its client, and returns once that is durable (LO-438).
func (f *Feeder) Cancel(ctx context.Context, dialect, id string) (task.BatchRecord, error) {
	b, err := f.Batch(ctx, dialect, id)
	if err != nil {
		return b, err
	}
	f.mu.Lock()
	r := f.live[id]
	f.mu.Unlock()
	if r != nil {
		if err := r.cancel(ctx); err != nil {
			return b, err
		}
		return f.Batch(ctx, dialect, id)
	}
	if b, err = f.Batch(ctx, dialect, id); err == nil && b.CancelAt.IsZero() { // it may have ended just now
		err = errEnded(id)
	}
	return b, err
}

func errEnded(id string) *task.Error {
	return task.Errorf(task.Conflict, "batch %.100q has ended, so it cannot be canceled any more: its results are there", id)
}

// Drop deletes a batch that has ended, with its requests and its results (LO-440).
func (f *Feeder) Drop(ctx context.Context, dialect, id string) error {
	b, err := f.Batch(ctx, dialect, id)
	switch {
	case err != nil:
		return err
	case b.EndedAt.IsZero():
		return task.Errorf(task.Conflict, "batch %.100q has not ended, so it cannot be deleted: cancel it first, or wait for its end", id)
	}
	f.ended.Lock()
	defer f.ended.Unlock()
	if err := f.o.Records.DropBatch(ctx, id, f.o.Now()); err != nil {
		return f.unwritten(err)
	}
	if b.FileID != "" {
		return nil
	}
	return f.release(ctx, b.Artifact)
}

// tend forgets batches that ended long ago, and files whose bytes are gone, until ctx ends.
func (f *Feeder) tend(ctx context.Context) {
	every := time.NewTicker(tendEvery)
	defer every.Stop()
	for {
		if err := f.sweep(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("old batches and files are not forgotten yet, and it is tried again", zap.Error(err))
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

func (f *Feeder) sweep(ctx context.Context) error {
	if err := f.sweepBatches(ctx); err != nil {
		return err
	}
	return f.sweepFiles(ctx)
}

func (f *Feeder) sweepBatches(ctx context.Context) error {
	if f.o.Retain <= 0 {
		return nil
	}
	for before := f.o.Now().Add(-f.o.Retain); ; {
		due, err := f.o.Records.Batches(ctx, task.BatchFilter{EndedBefore: before, Own: true, Limit: pageOfFiles})
		if err != nil || len(due) == 0 {
			return err
		}
		for _, b := range due {
			if err := f.Drop(ctx, b.Dialect, b.ID); err != nil && !task.HasCode(err, task.NotFound) {
				return err
			}
		}
	}
}

// sweepFiles forgets files whose bytes are gone. Those of a page are forgotten once the next one is there, which begins at the last of them.
func (f *Feeder) sweepFiles(ctx context.Context) (failed error) {
	var gone []string
	for filter := (task.FileFilter{Sent: true, Own: true, Limit: pageOfFiles}); ; {
		page, err := f.o.Records.Files(ctx, filter)
		for _, id := range gone {
			failed = errors.Join(failed, f.o.Records.DropFile(ctx, id))
		}
		if err != nil || len(page) == 0 {
			return errors.Join(failed, err)
		}
		gone, filter.After = gone[:0], page[len(page)-1].ID()
		for _, one := range page {
			if !f.o.Store.Has(one.File.Artifact) {
				gone = append(gone, one.File.ID)
			}
		}
	}
}

// unwritten words an error of the ledger that is not one already.
func (f *Feeder) unwritten(err error) error {
	if e, ok := errors.AsType[*task.Error](err); err == nil || ok {
		if err == nil {
			return nil
		}
		return e
	}
	return task.Errorf(task.LedgerUnavailable, "the record of batches cannot be read or written: try again in a moment; the orchestrator's log has the cause").
		Retry(retryAfter).Because(err)
}
