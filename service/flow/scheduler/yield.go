// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"errors"
	"slices"

	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/task"
)

// yields is how often a batch's line gives way. Then it keeps its slot, so that it is done some day.
const yields = 3

// errYields ends the run of a batch's line that gives way to an interactive task (LO-444).
var errYields = errors.New("the run gives way to an interactive task")

// line reports whether the task is a batch's line, which nobody waits for.
func (j *job) line() bool { return j.task.Request.BatchID != "" }

// makeWay has a batch's line give its slot to an interactive task that no replica can take now. Of the lines on replicas that suit the task, the one that has
// written least loses least. One line gives way at a time: its slot wakes the lane, and the next task may need another.
func (l *lane) makeWay(j *job) {
	if j.task.Request.Priority != task.Interactive || l.yielding.Load() > 0 {
		return
	}
	lines := l.lines((*job).makesWay)
	if len(lines) == 0 {
		return
	}
	need := j.need(l.known)
	lines = slices.DeleteFunc(lines, func(o *job) bool { return !placement.Suited(l.known, need, o.snapshot().ReplicaID) })
	slices.SortFunc(lines, func(a, b *job) int { return a.log.Tokens() - b.log.Tokens() })
	for _, o := range lines {
		if o.yield() {
			return
		}
	}
}

// lines are those of batches that run, and for which a condition holds.
func (l *lane) lines(holds func(*job) bool) []*job {
	return slices.DeleteFunc(l.rates.running(), func(j *job) bool { return !j.line() || !holds(j) })
}

// makesWay reports whether the job can still give way.
func (j *job) makesWay() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.yielded < yields
}

// yield ends the job's run, and reports whether it did: a line gives way so often, and only while it runs. What is not recorded yet gives way once it is.
func (j *job) yield() bool {
	j.mu.Lock()
	runs := j.state == running
	yes := j.yielded < yields && j.at != nil && !j.at.makesWay && (runs || j.state == starting)
	if yes {
		j.yielded++
		j.at.makesWay = true
		j.lane.yielding.Add(1)
	}
	j.mu.Unlock()
	if yes && runs {
		j.stopEngine(errYields)
	}
	return yes
}

// vacated says that a job's slot is free. If it was freed for an interactive task, another line may make way for the next one now.
func (l *lane) vacated(j *job, s *slot) {
	j.mu.Lock()
	if j.at == s {
		j.at = nil
	}
	madeWay := s.makesWay
	j.mu.Unlock()
	if madeWay {
		l.yielding.Add(-1)
		l.wake()
	}
}

// interactiveWaits reports whether an interactive task waits for a slot.
func (l *lane) interactiveWaits() bool {
	return l.queue.Len(task.Interactive) > 0 || slices.ContainsFunc(l.retries.list(), func(j *job) bool { return j.task.Request.Priority == task.Interactive })
}

// suited reports whether one of the pool's replicas could take a job if it had a free slot. Where the pool is on demand and none is ready, one will
// be, or the job is given up with its pool.
func (l *lane) suited(j *job) bool {
	replicas := l.replicas(nil)
	if l.pool.OnDemand && !slices.ContainsFunc(replicas, func(r placement.Replica) bool { return r.Ready }) {
		return true
	}
	need := j.need(replicas)
	return slices.ContainsFunc(replicas, func(r placement.Replica) bool { return placement.Suited(replicas, need, r.ID) })
}
