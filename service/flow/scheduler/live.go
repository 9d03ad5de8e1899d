// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Live returns the tasks that run, in the order in which they started, with at most tail bytes of what each has said, and behind them the first tasks
// that wait in each pool, in the order in which they will start. It is for somebody who only looks: no task takes them for a reader (LO-607).
func (s *Scheduler) Live(first, tail int) []task.Live {
	var runs []task.Live
	for _, j := range s.jobs() {
		if state, shown := j.shown(); shown && state == task.Running {
			l := j.look()
			l.Tail = j.log.Tail(tail)
			runs = append(runs, l)
		}
	}
	slices.SortFunc(runs, func(a, b task.Live) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.Seq, b.Seq))
	})
	lanes := *s.lanes.Load()
	for _, id := range slices.Sorted(maps.Keys(lanes)) {
		l := lanes[id]
		for _, j := range l.queue.First(first, nil) {
			if state, shown := j.shown(); shown && state == task.Queued {
				runs = append(runs, j.look())
			}
		}
	}
	return runs
}

// Ends counts the tasks that this process has let go of: while it stays, no list of ended tasks has changed.
func (s *Scheduler) Ends() uint64 { return s.ends.Load() }

// Recent are the tasks that have ended, of those that were accepted last, the last ended first.
func (s *Scheduler) Recent(ctx context.Context, most int) ([]task.Status, error) {
	ended, err := s.o.Ledger.List(ctx, "", most)
	if err != nil {
		return nil, errLedger("the record of tasks cannot be read", err)
	}
	out := make([]task.Status, len(ended))
	for i, r := range ended {
		out[i] = r.Status()
	}
	slices.SortFunc(out, func(a, b task.Status) int {
		return cmp.Or(b.FinishedAt.Compare(a.FinishedAt), cmp.Compare(b.Seq, a.Seq))
	})
	return out, nil
}

// look is the job as Live shows it.
func (j *job) look() task.Live {
	l := task.Live{
		Status: j.status(), Deadline: j.task.Request.Deadline, OnTime: 1, Front: j.task.Request.Front.Dialect, SessionID: j.task.Request.SessionID,
	}
	m, live := j.figures()
	if !live {
		return l
	}
	l.Phase, l.OnTime, l.QueuePosition = m.Phase, m.OnTimeProbability, m.QueuePosition
	if l.State == task.Queued {
		l.StartsAt = l.AcceptedAt.Add(time.Duration(m.PredictedStartMS) * time.Millisecond)
	}
	return l
}

// outlook counts how predictions come true.
type outlook struct {
	mu sync.Mutex
	o  task.Outlook
}

// nearBy is how far a start may be from its prediction to count as near, at least.
const nearBy = time.Second

// started is told of a task's first start.
func (o *outlook) started(predicted, waited time.Duration) {
	off := (waited - predicted).Abs()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.o.Starts++
	if off <= max(nearBy, waited/4) {
		o.o.Near++
	} else {
		o.o.Off += off
	}
}

// ended is told how a task ended that was told a chance of its deadline. One that was canceled, or failed for another reason, says nothing.
func (o *outlook) ended(r task.Record, chance *float64) {
	kept := r.State == task.Completed
	if chance == nil || !kept && (r.Err == nil || r.Err.Code != task.DeadlineUnmet) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	c := &o.o.Chances[min(int(*chance*float64(len(o.o.Chances))), len(o.o.Chances)-1)]
	c.Tasks++
	c.Told += *chance
	if kept {
		c.Kept++
	}
}

// Outlook is how predictions have come true since the start.
func (s *Scheduler) Outlook() task.Outlook {
	s.outlook.mu.Lock()
	defer s.outlook.mu.Unlock()
	return s.outlook.o
}
