// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// Delete removes what an ended task was asked and answered (LO-832). Actor is who asks for it. Who reads the task's stream at that moment reads
// it to its end, from memory. NOT_FOUND, CONFLICT for a task that has not ended.
func (s *Scheduler) Delete(ctx context.Context, id, actor string) error {
	if j := s.job(id); j != nil && !j.recorded() { // nothing will be left of it
		_, err := s.Cancel(ctx, id)
		return err
	}
	if err := s.ended(ctx, id); err != nil {
		return err
	}
	r, ok, err := s.lookUp(ctx, id)
	switch {
	case err != nil && !task.HasCode(err, task.Internal): // a damaged record can be deleted
		return err
	case err == nil && !ok:
		return errUnknown(id)
	case err == nil && !r.State.Final():
		return errNotEnded(id)
	}
	if err := s.o.Ledger.Delete(ctx, id, s.o.Now()); err != nil {
		return errLedger("the task is not deleted from every file yet", err)
	}
	s.mu.Lock()
	delete(s.replays, id) // a reader that comes now must not join one that has the text
	s.mu.Unlock()
	s.o.Sessions.Forget(r.Task.Request.SessionID)
	r.Task.ID = id // a damaged record may not even say that
	s.o.Log.Info("a task was deleted", append(narrated(r, r.Task.EngineVersion).Fields(), zap.String("deleted_by", actor), observe.Audit())...)
	return nil
}

// ended waits until all of a task's end is recorded. CONFLICT where it has not ended.
func (s *Scheduler) ended(ctx context.Context, id string) error {
	j := s.job(id)
	if j == nil {
		return nil
	}
	if err := j.await(ctx); err != nil {
		return err
	}
	if j.now() != done {
		return errNotEnded(id)
	}
	select { // its last lines are being written
	case <-j.over:
		return nil
	case <-ctx.Done():
		return errLedger("the task's end is not recorded yet", context.Cause(ctx))
	}
}

func errNotEnded(id string) *task.Error {
	return task.Errorf(task.Conflict, "task %.128q has not ended: cancel it first, or wait for its end", id)
}

func errDeleted(r task.Record) *task.Error {
	return task.Errorf(task.Deleted, "task %.128q was deleted at %s: its prompt and its answer are gone; GET /v1/tasks still lists how it ended",
		r.Task.ID, r.Deleted.At.UTC().Format(time.RFC3339))
}
