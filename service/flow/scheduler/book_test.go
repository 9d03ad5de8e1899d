// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llama-orch/llama-orch/service/task"
)

// book is a ledger in memory whose disk can be full, or hang.
type book struct {
	full       atomic.Bool
	noPrompts  atomic.Bool   // a prompt that a run made cannot be written
	panics     atomic.Value  // what panics; see mayPanic
	hangs      atomic.Bool   // accepts are not written, and nothing is read, until it does not
	forgets    atomic.Bool   // a crash comes before any note is written
	dispatches atomic.Int64  // that were recorded apart from their accept
	seq        atomic.Uint64 // that was handed out last
	steps      atomic.Int64  // that were written
	last       int64         // the number of the step behind which nothing is written any more; 0: none
	mu         sync.Mutex
	records    map[string]task.Record
	order      []string // of dispatch
}

func (b *book) change(id string, f func(*task.Record)) error {
	if b.full.Load() || b.over() {
		return errors.New("no space left on device")
	}
	b.steps.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.records[id]
	f(&r)
	b.records[id] = r
	return nil
}

// over reports whether the last step was written.
func (b *book) over() bool { return b.last > 0 && b.steps.Load() >= b.last }

// wait returns once the disk does not hang, or with the context.
func (b *book) wait(ctx context.Context) error {
	for b.hangs.Load() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

func (b *book) Accept(ctx context.Context, t task.Task) error {
	b.mayPanic("the accept")
	if err := b.wait(ctx); err != nil {
		return err
	}
	return b.change(t.ID, func(r *task.Record) { r.Task, r.State = t, task.Queued })
}

// Render takes a new prompt only of a task that has not ended.
func (b *book) Render(_ context.Context, t task.Task) error {
	b.mayPanic("the prompt")
	if b.noPrompts.Load() {
		return errors.New("no space left on device")
	}
	return b.change(t.ID, func(r *task.Record) {
		if !r.State.Final() {
			r.Task = t
		}
	})
}

func (b *book) AcceptRunning(ctx context.Context, t task.Task, d task.Dispatch) error {
	b.mayPanic("the accept")
	if err := b.wait(ctx); err != nil {
		return err
	}
	return b.change(t.ID, func(r *task.Record) {
		b.order = append(b.order, t.ID)
		*r = task.Record{Task: t, State: task.Running, ReplicaID: d.ReplicaID, Fingerprint: d.Fingerprint, StartedAt: d.At}
	})
}

func (b *book) Dispatch(_ context.Context, d task.Dispatch) error {
	b.dispatches.Add(1)
	return b.change(d.ID, func(r *task.Record) {
		if !slices.Contains(b.order, d.ID) {
			b.order = append(b.order, d.ID)
		}
		if !r.State.Final() {
			r.State = task.Running
		}
		r.ReplicaID, r.Fingerprint, r.StartedAt = d.ReplicaID, d.Fingerprint, d.At
	})
}

func (b *book) Started(d task.Dispatch) {
	if !b.forgets.Load() {
		_ = b.Dispatch(context.Background(), d)
	}
}

func (b *book) Checkpoint(id string, c task.Checkpoint) {
	_ = b.change(id, func(r *task.Record) { r.Checkpoint = c })
}

// Finish refuses a task that is not as it was accepted: the record's proof bundle would have another digest.
func (b *book) Finish(_ context.Context, r task.Record) error {
	b.mayPanic("the outcome")
	return b.change(r.Task.ID, func(to *task.Record) {
		if at := r.Task.RenderedAt; !at.IsZero() { // it may have ended before that was written
			to.Task.Prompt, to.Task.PromptTokens, to.Task.RequestDigest, to.Task.RenderedAt = r.Task.Prompt, r.Task.PromptTokens, r.Task.RequestDigest, at
		}
		if to.Task.ID != "" && !assert.ObjectsAreEqual(to.Task, r.Task) {
			go panic(fmt.Sprintf("task %s was accepted as %+v and ended as %+v", r.Task.ID, to.Task, r.Task))
		}
		*to = r
	})
}

func (b *book) Delete(_ context.Context, id string, at time.Time) error {
	return b.change(id, func(r *task.Record) {
		if r.Deleted == nil {
			*r = r.Erased(at)
		}
	})
}

func (b *book) Expire(_ context.Context, at time.Time) (ids []string, next time.Time, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, r := range b.records {
		keep := r.Task.Request.KeepText
		if keep == 0 || !r.State.Final() || r.Deleted != nil {
			continue
		}
		if due := r.FinishedAt.Add(keep); !due.After(at) {
			b.records[id] = r.Erased(at)
			ids = append(ids, id)
		} else if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return ids, next, nil
}

func (b *book) Get(ctx context.Context, id string) (task.Record, bool, error) {
	if err := b.wait(ctx); err != nil {
		return task.Record{}, false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.records[id]
	return r, ok, nil
}

func (b *book) List(_ context.Context, state task.State, limit int) (found []task.Record, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.records {
		if r.State.Final() && (state == "" || r.State == state) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b task.Record) int { return cmp.Compare(b.Task.Seq, a.Task.Seq) })
	return found[:min(limit, len(found))], nil
}

func (b *book) NextSeq() (uint64, error) {
	b.mayPanic("the number")
	return b.seq.Add(1), nil
}

func (b *book) mayPanic(what string) {
	if b.panics.Load() == what {
		panic(what)
	}
}

// live are the running tasks in start order, then the queued ones in theirs.
func (b *book) live() (left []task.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range b.order {
		if r := b.records[id]; r.State == task.Running {
			left = append(left, r)
		}
	}
	running := len(left)
	for _, r := range b.records {
		if r.State == task.Queued {
			left = append(left, r)
		}
	}
	slices.SortFunc(left[running:], func(a, b task.Record) int { return cmp.Compare(a.Task.Seq, b.Task.Seq) })
	return left
}
