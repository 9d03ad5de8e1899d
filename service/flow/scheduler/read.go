// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// PoolOf is the pool of a task that is live in this process, or is on its way to be; false: there is no such task.
func (s *Scheduler) PoolOf(id string) (pool string, live bool) {
	if j := s.job(id); j != nil {
		return j.lane.pool.ID, true
	}
	return "", false
}

// Get returns a task's status, once the task is accepted.
func (s *Scheduler) Get(ctx context.Context, id string) (task.Status, error) {
	if j := s.job(id); j != nil {
		if _, ok := j.shown(); !ok {
			return task.Status{}, errUnknown(id)
		}
		return j.status(), nil
	}
	r, err := s.finished(ctx, id)
	return r.Status(), err
}

// Record is what is known of a task, once it is accepted: of one that has not ended, with what it has said so far. Again says that an earlier
// run of the orchestrator may have told its readers more than that.
func (s *Scheduler) Record(ctx context.Context, id string) (r task.Record, again bool, err error) {
	j := s.job(id)
	if j == nil {
		r, err = s.finished(ctx, id)
		return r, false, err
	}
	if err := j.await(ctx); err != nil {
		return task.Record{}, false, err
	}
	if r = j.snapshot(); !r.State.Final() {
		r.Transcript = j.log.Told()
	}
	return r, j.log.Recovering(), nil
}

// Await returns once a task has ended, or this process has let go of it. NOT_FOUND.
func (s *Scheduler) Await(ctx context.Context, id string) error {
	j := s.job(id)
	if j == nil {
		if _, ok, err := s.lookUp(ctx, id); err != nil || ok {
			return err
		}
		return errUnknown(id)
	}
	if err := j.await(ctx); err != nil {
		return err
	}
	select {
	case <-j.over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Ended is the record of a task that has ended. NOT_FOUND, CONFLICT where it has not, DELETED.
func (s *Scheduler) Ended(ctx context.Context, id string) (task.Record, error) {
	if err := s.ended(ctx, id); err != nil {
		return task.Record{}, err
	}
	return s.finished(ctx, id)
}

// finished is a task that is no longer live, and was not deleted.
func (s *Scheduler) finished(ctx context.Context, id string) (task.Record, error) {
	r, ok, err := s.lookUp(ctx, id)
	switch {
	case err != nil:
	case !ok:
		err = errUnknown(id)
	case r.Deleted != nil:
		err = errDeleted(r)
	case r.State.Final():
	case s.Stopping(): // the next start takes it up
		err = errStopping()
	default: // such as one that an earlier process was running, while the disk is full
		err = errLedger("how the task ended cannot be recorded yet", nil)
	}
	return r, err
}

// lookUp reads a task's record.
func (s *Scheduler) lookUp(ctx context.Context, id string) (task.Record, bool, error) {
	r, ok, err := s.o.Ledger.Get(ctx, id)
	if task.HasCode(err, task.Internal) { // it is damaged, and the error says what to do
		return r, false, err
	}
	if err != nil {
		return r, false, errLedger("the record of tasks cannot be read", err)
	}
	return r, ok, nil
}

func errUnknown(id string) *task.Error {
	return task.Errorf(task.NotFound, "there is no task %.128q: GET /v1/tasks lists the recent ones", id)
}

func errLedger(what string, err error) *task.Error {
	return task.Errorf(task.LedgerUnavailable, "%s: try again in a moment; the orchestrator's log has the cause", what).Retry(time.Second).Because(err)
}

// List returns at most limit accepted tasks, the last accepted first. An empty state means all.
func (s *Scheduler) List(ctx context.Context, state task.State, limit int) ([]task.Status, error) {
	live := slices.DeleteFunc(s.jobs(), func(j *job) bool {
		shown, ok := j.shown()
		return !ok || state != "" && shown != state
	})
	slices.SortFunc(live, func(a, b *job) int { return cmp.Compare(b.task.Seq, a.task.Seq) })
	var found []task.Status
	for _, j := range live[:min(limit, len(live))] { // a queued task's position and start have their price
		found = append(found, j.status())
	}
	if s.o.Live != nil {
		others, err := s.o.Live(ctx)
		if err != nil {
			return nil, errLedger("the record of tasks cannot be read", err)
		}
		for _, r := range others {
			if s.job(r.Task.ID) == nil && (state == "" || r.State == state) && r.Err == nil {
				found = append(found, r.Status())
			}
		}
	}
	finished, err := s.o.Ledger.List(ctx, state, limit)
	if err != nil {
		return nil, errLedger("the record of tasks cannot be read", err)
	}
	// A task that ended between the looks is in both.
	ended := make(map[string]bool, len(finished))
	for _, r := range finished {
		ended[r.Task.ID] = true
	}
	found = slices.DeleteFunc(found, func(s task.Status) bool { return ended[s.ID] })
	for _, r := range finished {
		found = append(found, r.Status())
	}
	slices.SortFunc(found, func(a, b task.Status) int { return cmp.Compare(b.Seq, a.Seq) }) // whatever the clock says
	return found[:min(limit, len(found))], nil
}
