// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// Putter is where a Sink stores bundles. A *Store is one.
type Putter interface {
	Put(ctx context.Context, m Meta, r io.Reader) (Entry, error)
}

// SinkOptions are what a sink is made from. Only Store is needed.
type SinkOptions struct {
	Store           Putter
	KeepPrompts     bool
	KeepTranscripts bool
	Reasons         func(task.Record) []string // why a task ran where it did, beside what its record tells; called by the writer
	MaxTasks        int                        // that may wait to be written; default 1024
	MaxBytes        int64                      // of text that they may hold; default 64 MiB
	Log             *zap.Logger
	Registerer      prometheus.Registerer
}

// Sink writes the proof bundle of each task that ends, without making anyone wait: what the disk does not take in time is
// dropped, counted and logged (OC-CTRL-2067). Bundling is a function of the record, so a bundle may be written again at any time.
type Sink struct {
	o      SinkOptions
	log    *zap.Logger
	proofs *prometheus.CounterVec

	mu      sync.Mutex
	waiting []task.Record
	bytes   int64
	dropped int // in a row
	closed  bool

	wake    chan struct{} // capacity 1
	abandon context.CancelFunc
	writing sync.WaitGroup
}

const (
	defaultMaxTasks = 1024
	defaultMaxText  = 64 << 20
)

// NewSink makes a sink and starts its writer, which Close joins.
func NewSink(o SinkOptions) (*Sink, error) {
	if o.Store == nil {
		return nil, errors.New("artifact: a sink needs a store")
	}
	if o.MaxTasks <= 0 {
		o.MaxTasks = defaultMaxTasks
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxText
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	proofs, err := newProofMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Sink{o: o, log: o.Log.Named("artifact"), proofs: proofs, wake: make(chan struct{}, 1)}
	ctx, abandon := context.WithCancel(context.Background())
	s.abandon = abandon
	s.writing.Go(func() { s.write(ctx) })
	return s, nil
}

// Finished hands a task that has ended over. It never blocks. The record must not change any more.
func (s *Sink) Finished(r task.Record) {
	if !r.State.Final() {
		return
	}
	size := textOf(r)
	s.mu.Lock()
	full := s.closed || len(s.waiting) >= s.o.MaxTasks || s.bytes+size > s.o.MaxBytes
	if full {
		s.dropped++
	} else {
		s.waiting = append(s.waiting, r)
		s.bytes += size
	}
	first := s.dropped == 1
	s.mu.Unlock()
	if full {
		s.proofs.WithLabelValues(string(proofDropped)).Inc()
		if first { // and no line for each of a thousand others
			s.log.Warn("a task leaves no proof bundle: the disk does not keep up", zap.String("job_id", r.Task.ID))
		}
		return
	}
	s.nudge()
}

func (s *Sink) nudge() {
	select {
	case s.wake <- struct{}{}:
	default: // it is on its way
	}
}

// Close takes no more tasks, writes what waits, and joins the writer. When ctx ends, what still waits is dropped.
func (s *Sink) Close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.nudge()
	defer context.AfterFunc(ctx, s.abandon)()
	s.writing.Wait()
	s.abandon()
	s.o.Registerer.Unregister(s.proofs)
}

func (s *Sink) write(ctx context.Context) {
	for range s.wake {
		for {
			r, ok, closed := s.next()
			if !ok && closed {
				return
			}
			if !ok {
				break
			}
			if ctx.Err() != nil {
				s.drop(r)
				continue
			}
			if _, err := s.Write(ctx, r); err != nil {
				s.log.Warn("a task's proof bundle could not be written", zap.String("job_id", r.Task.ID), zap.Error(err))
			}
		}
	}
}

func (s *Sink) next() (r task.Record, ok, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		s.waiting = nil // and the array that it ran through
		return r, false, s.closed
	}
	r = s.waiting[0]
	s.waiting[0] = task.Record{}
	s.waiting = s.waiting[1:]
	s.bytes -= textOf(r)
	if s.dropped > 0 && !s.closed {
		s.log.Info("proof bundles are written again", zap.Int("dropped", s.dropped))
		s.dropped = 0
	}
	return r, true, s.closed
}

func (s *Sink) drop(r task.Record) {
	s.proofs.WithLabelValues(string(proofDropped)).Inc()
	s.log.Warn("a task leaves no proof bundle: the server is shutting down", zap.String("job_id", r.Task.ID))
}

// Write writes a task's bundle at once and returns when it is on the disk: for tasks that ended while nobody could write
// theirs, such as before a crash.
func (s *Sink) Write(ctx context.Context, r task.Record) (Entry, error) {
	options := ProofOptions{KeepPrompts: s.o.KeepPrompts, KeepTranscripts: s.o.KeepTranscripts}
	if s.o.Reasons != nil {
		options.Reasons = s.o.Reasons(r)
	}
	var e Entry
	text, err := Bundle(r, options).Encode()
	if err == nil {
		e, err = s.o.Store.Put(ctx, Meta{
			Kind: KindProof, MediaType: ProofMediaType, TaskID: r.Task.ID, Tags: []string{"outcome:" + string(r.State)},
		}, bytes.NewReader(text))
	}
	if err != nil {
		s.proofs.WithLabelValues(string(proofFailed)).Inc()
		return Entry{}, err
	}
	s.proofs.WithLabelValues(string(proofStored)).Inc()
	return e, nil
}

// textOf is about what a record holds in memory beside its fixed part.
func textOf(r task.Record) int64 {
	n := len(r.Task.Prompt) + len(r.Task.Request.Prompt) + len(r.Transcript.Text) + 8*len(r.Transcript.Ends)
	for _, m := range r.Task.Request.Messages {
		n += len(m.Content)
	}
	for _, input := range r.Task.Request.Inputs {
		n += len(input)
	}
	if r.End != nil {
		n += len(r.End.Result)
	}
	return int64(n)
}
