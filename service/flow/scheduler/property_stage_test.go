// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/task"
)

// slowBook is a ledger whose commits take a while, and that ends with its life: what is committed later is not. Starts that are only
// noted are written later still, so that a crash loses them.
type slowBook struct {
	*book
	commit time.Duration
	starts map[string]task.Dispatch // that are noted; guarded by book.mu
}

func newSlowBook(b *book, commit time.Duration) *slowBook {
	return &slowBook{b, commit, map[string]task.Dispatch{}}
}

// noteAfter is how long a noted start waits.
const noteAfter = 100 * time.Millisecond

func (b slowBook) Started(d task.Dispatch) {
	b.mu.Lock()
	_, waits := b.starts[d.ID]
	b.starts[d.ID] = d
	b.mu.Unlock()
	if !waits {
		time.AfterFunc(noteAfter, func() { b.write(d.ID) })
	}
}

// write writes a noted start, unless something has made it needless.
func (b slowBook) write(id string) {
	b.mu.Lock()
	d, waits := b.starts[id]
	b.mu.Unlock()
	switch {
	case !waits:
	case b.book.Dispatch(context.Background(), d) == nil:
		b.drop(id)
	default: // the disk is full
		time.AfterFunc(noteAfter, func() { b.write(id) })
	}
}

func (b slowBook) drop(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.starts, id)
}

// flush writes what is noted, as far as the disk takes it.
func (b slowBook) flush() {
	b.mu.Lock()
	noted := maps.Clone(b.starts)
	clear(b.starts)
	b.mu.Unlock()
	for _, d := range noted {
		_ = b.book.Dispatch(context.Background(), d)
	}
}

func (b slowBook) Accept(ctx context.Context, t task.Task) error {
	time.Sleep(b.commit)
	if _, known, _ := b.Get(ctx, t.ID); known && !b.full.Load() { // canceled before it was recorded
		return nil
	}
	return b.book.Accept(ctx, t)
}

func (b slowBook) AcceptRunning(ctx context.Context, t task.Task, d task.Dispatch) error {
	time.Sleep(b.commit)
	return b.book.AcceptRunning(ctx, t, d)
}

func (b slowBook) Dispatch(ctx context.Context, d task.Dispatch) error {
	time.Sleep(b.commit)
	err := b.book.Dispatch(ctx, d)
	if err == nil {
		b.drop(d.ID)
	}
	return err
}

func (b slowBook) Finish(ctx context.Context, r task.Record) error {
	time.Sleep(b.commit)
	err := b.book.Finish(ctx, r)
	if err == nil {
		b.drop(r.Task.ID)
	}
	return err
}

// turn makes a machine die, or come back.
func (s *stage) turn(pick int, back bool) {
	s.mu.Lock()
	x := s.replicas[pick%len(s.replicas)]
	switch {
	case !back && x.ready:
		x.ready = false
		close(x.died)
	case back && !x.ready:
		x.ready, x.died = true, make(chan struct{})
	}
	s.mu.Unlock()
	s.s.Wake("default")
}

func (s *stage) reads(a *actor, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.reading = on
}

// line is told of each line of the log at level warn or above. It looks for the one of a task that lost its worker, which comes before
// the task waits for another. Nothing may panic.
func (s *stage) line(message, id string) {
	if strings.HasSuffix(message, "panicked") {
		go panic(message) // nobody recovers it there
	}
	if !strings.HasSuffix(message, "moves to another") {
		return
	}
	s.mu.Lock()
	quits, on, life, lives := s.quits, s.s, s.life, s.lives
	s.quits = false
	at := slices.IndexFunc(s.tasks, func(a *actor) bool { return a.task.ID == id })
	s.mu.Unlock()
	if quits {
		ctx, stop := context.WithTimeout(lives, 50*time.Millisecond) // the disk may be full
		defer stop()
		s.cancel(ctx, on, life, s.tasks[at])
	}
}

// machine is a replica with one slot, and its engine.
type machine struct {
	stage   *stage
	id      string
	kind    string // of its bytes
	ready   bool
	busy    bool
	running int
	died    chan struct{}
}

func (s *stage) Snapshot(_ string, into []placement.Replica) []placement.Replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.replicas {
		active := 0
		if m.busy {
			active = 1
		}
		into = append(into, placement.Replica{ID: m.id, Ready: m.ready, Slots: 1, Active: active, Strict: true, Fingerprint: "fp" + m.kind})
	}
	return into
}

func (s *stage) EngineVersion(string) string { return "b1" }

func (s *stage) Lease(id string) (Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.replicas {
		if m.id == id && m.ready && !m.busy {
			m.busy = true
			return held{m, m.died, &sync.Once{}, s.s}, nil
		}
	}
	return nil, task.Errorf(task.ReplicaExhausted, "busy")
}

type held struct {
	*machine
	lost chan struct{}
	once *sync.Once
	of   *Scheduler
}

func (h held) Engine() engine.Engine { return h }
func (h held) Replica() Replica {
	return Replica{ID: h.id, EngineVersion: "b1", Fingerprint: "fp" + h.kind}
}
func (h held) Lost() <-chan struct{}      { return h.lost }
func (h held) Replace(string)             {}
func (h held) Others() int                { return 0 }
func (held) Intact(context.Context) error { return nil }
func (h held) KeepWarm()                  {}
func (h held) Release() {
	h.once.Do(func() {
		h.stage.mu.Lock()
		h.busy = false
		h.stage.mu.Unlock()
		h.of.Wake("default")
	})
}

// otherKind is the kind of the machines that give other bytes than the rest.
const otherKind = "other "

// word is the i-th token of a task, on every machine of a kind and in every life.
func word(kind, prompt string, i int) string { return fmt.Sprint(kind, prompt, ".", i, " ") }

func (h held) Generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	if ctx.Err() != nil { // ended between its start and here: the engine is not even asked
		return engine.Result{}, fmt.Errorf("decode: %w", context.Cause(ctx))
	}
	s := h.stage
	s.mu.Lock()
	h.running++
	if h.running > 1 {
		s.wrong = append(s.wrong, fmt.Sprintf("replica %s has one slot and runs %d tasks", h.id, h.running))
	}
	for _, a := range s.tasks {
		if a.task.ID == job.Prompt {
			a.started = append(a.started, dispatch{s.step(), s.life, time.Now()})
			if a.ended > 0 {
				s.wrong = append(s.wrong, fmt.Sprintf("%s was dispatched after its cancel had returned", job.Prompt))
			}
		}
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		h.running--
		s.mu.Unlock()
	}()
	for i := range job.MaxTokens {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-h.lost:
			return engine.Result{}, task.Errorf(task.WorkerReset, "the worker died").Retry(0)
		case <-ctx.Done():
			return engine.Result{}, fmt.Errorf("decode: %w", context.Cause(ctx))
		}
		if err := emit(task.TextPiece(word(h.kind, job.Prompt, i))); err != nil {
			return engine.Result{}, err
		}
	}
	return engine.Result{TokensIn: 3, TokensOut: job.MaxTokens, Finish: task.FinishLength}, nil
}
func (m *machine) Busy(context.Context) (int, error)                { return 0, nil }
func (m *machine) Health(context.Context) error                     { return nil }
func (m *machine) Props(context.Context) (engine.Props, error)      { return engine.Props{}, nil }
func (m *machine) CountTokens(context.Context, string) (int, error) { return 3, nil }
func (m *machine) ApplyTemplate(context.Context, []task.Message, *task.Chat) (string, error) {
	return "", nil
}

func (m *machine) Embed(context.Context, engine.Job) (json.RawMessage, engine.Result, error) {
	return nil, engine.Result{}, errors.New("no such workload here")
}
