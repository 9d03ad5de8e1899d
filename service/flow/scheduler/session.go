// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/prefix"
	"github.com/llama-orch/llama-orch/service/task"
)

// noSessions stand in where tasks have no sessions: nothing is refused, and nothing is charged.
type noSessions struct{}

func (noSessions) Admit(*task.Task) error                                       { return nil }
func (noSessions) Withdraw(task.Task)                                           {}
func (noSessions) Recover(task.Task)                                            {}
func (noSessions) Charge(task.Record, time.Duration, *task.Energy) *task.Charge { return nil }
func (noSessions) Settle(task.Record)                                           {}
func (noSessions) Rests(string, string) task.Budgets                            { return task.Budgets{} }
func (noSessions) Warm(string) string                                           { return "" }
func (noSessions) Began(task.Task, string, int) bool                            { return false }
func (noSessions) Kept(task.Task, string, <-chan struct{}, task.KV)             {}
func (noSessions) Forget(string)                                                {}
func (noSessions) Take(string, string) (s engine.Saved, done func(), ok bool) {
	return s, nil, false
}

// restoreWithin bounds the restore of a slot. Long before, to compute the prompt would have been faster.
const restoreWithin = 30 * time.Second

// restored has a slot hold what the session's last turn left on a worker that has ended since (LO-473).
func (l *lane) restored(ctx context.Context, j *job, lease Lease) bool {
	saver, ok := lease.Engine().(engine.Saver)
	if !ok || j.task.Request.SessionID == "" {
		return false
	}
	s, done, ok := l.s.o.Sessions.Take(j.task.Request.SessionID, lease.Replica().Fingerprint)
	if !ok {
		return false
	}
	defer done()
	ctx, stop := awake.WithTimeout(ctx, restoreWithin)
	defer stop()
	slot, err := idleSlot(ctx, lease.Engine())
	if err == nil {
		err = saver.Restore(ctx, slot, s)
	}
	if err != nil {
		l.s.o.Log.Warn("the saved KV of a session was not restored, and its turn starts cold", append(j.told(), zap.Error(err))...)
		return false
	}
	l.s.o.Log.Info("the saved KV of a session was restored", append(j.told(), zap.Int("tokens", s.Tokens))...)
	return true
}

// idleSlot is a slot of an engine that nobody uses. The caller has a lease, so that there is one.
func idleSlot(ctx context.Context, e engine.Engine) (int, error) {
	keeper, ok := e.(engine.Keeper)
	if !ok {
		return 0, nil
	}
	slots, err := keeper.Slots(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range slots {
		if !s.Busy {
			return s.ID, nil
		}
	}
	return 0, errors.New("no slot is idle")
}

// slotWithin bounds the look at a slot after a session's turn: the slot's next task waits for it.
const slotWithin = time.Second

// kept notes what KV a completed task has left in its slot. The caller still has the slot.
func (l *lane) kept(ctx context.Context, j *job, t *task.Task, warm bool, s *slot, r engine.Result) {
	lease, kv := s.lease, task.KV{Slot: r.Slot, Cells: r.Cells}
	if warm {
		kv.Cached = r.Cached
	}
	if keeper, ok := lease.Engine().(engine.Keeper); ok && t.Request.SessionID != "" && reuses(t, lease.Replica()) {
		bounded, stop := awake.WithTimeout(ctx, slotWithin)
		defer stop()
		slots, err := keeper.Slots(bounded)
		for _, s := range slots { // in a busy one the next job runs already
			if err == nil && s.ID == kv.Slot && !s.Busy && s.Told {
				kv.Job, kv.Told = s.Job, true
				lease.KeepWarm()
			}
		}
	}
	l.s.o.Sessions.Kept(*t, lease.Replica().ID, lease.Lost(), kv)
	if t.Request.Workload != task.Completion || r.Slot == engine.NoSlot && !r.Left { // it had no need of a slot, so that they hold what they did
		return
	}
	var left prefix.Chain // none: whatever was there, nobody looks for what is there now
	if s.choosy {
		left = j.begins()
	}
	l.s.prefixes.Left(lease.Replica().ID, lease.Lost(), lease.Replica().Slots, left)
	if len(t.Request.Messages) > 0 && reuses(t, lease.Replica()) {
		lease.KeepWarm() // the conversation is likely to go on
	}
}

// reuses reports whether a task may find KV on a replica that it can use.
func reuses(t *task.Task, on Replica) bool {
	what := reuse(t)
	return what == engine.ReuseAny || what == engine.ReuseExact && on.Piece > 0
}

// reuse is what a task may take from the KV of what ran before it. A strict one gets the bytes of a cold start all the same (LO-206).
func reuse(t *task.Task) engine.Reuse {
	switch {
	case t.Request.KVHint == task.KVCold:
		return engine.ReuseNothing
	case t.Determinism == task.BestEffort:
		return engine.ReuseAny
	}
	return engine.ReuseExact
}
