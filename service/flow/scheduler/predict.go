// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/task"
)

// predict is how long a task of a priority with so many ahead of it in the queue has to wait for a slot. Batches' lines make way for an interactive one.
func (l *lane) predict(ahead int, p task.Priority) time.Duration {
	ready := l.ready()
	defer ready.done()
	ahead += l.retries.ahead(p)
	if ahead < ready.slots-ready.busy {
		return 0
	}
	now := l.s.o.Now()
	var lines []*job
	if p == task.Interactive {
		lines = l.lines((*job).makesWay)
	}
	wait := l.rates.wait(ahead, ready.replicas, now, lines)
	if l.pool.OnDemand {
		wait += l.s.o.Residency.Wait(l.pool.ID, now)
	}
	return wait
}

// loading reports whether the pool's model is on its way into memory, and how far it is.
func (l *lane) loading() (progress float64, loading bool) {
	if !l.pool.OnDemand {
		return 0, false
	}
	return l.s.o.Residency.Loading(l.pool.ID, l.s.o.Now())
}

// readiness is a pool's Ready replicas at one moment.
type readiness struct {
	all      []placement.Replica // of the pool, those that are Ready first
	replicas []placement.Replica // that are Ready
	slots    int                 // of all of them
	busy     int                 // slots in use
}

// readinesses are reused: each submit asks for a prediction of each pool, and each stream asks for one a second.
var readinesses = sync.Pool{New: func() any { return new(readiness) }}

// ready looks at the pool's Ready replicas. The caller gives the answer back with done.
func (l *lane) ready() *readiness {
	r, _ := readinesses.Get().(*readiness)
	r.all = l.replicas(r.all[:0])
	n := 0
	r.slots, r.busy = 0, 0
	for i := range r.all {
		if one := &r.all[i]; one.Ready {
			r.slots += one.Slots
			r.busy += one.Active
			r.all[n], r.all[i] = r.all[i], r.all[n]
			n++
		}
	}
	r.replicas = r.all[:n]
	return r
}

func (r *readiness) done() { readinesses.Put(r) }

// busy is the number of the pool's slots in use.
func (l *lane) busy() int {
	r := l.ready()
	defer r.done()
	return r.busy
}

// perPlace is the mean time between two tasks' ends, each of which frees a place in the queue.
func (l *lane) perPlace() time.Duration {
	ready := l.ready()
	defer ready.done()
	return l.rates.perTask() / time.Duration(max(ready.slots, 1))
}

// backoff is how long a client should wait before its next task. It is 0 while less than half of the queue's places are taken, and then the time in
// which the pool ends the tasks beyond that half.
func (l *lane) backoff() time.Duration {
	over := l.queue.Places() - l.queue.Capacity()/2
	if over <= 0 {
		return 0
	}
	return time.Duration(over) * l.perPlace()
}

// onTime estimates the chance that a task meets its deadline. It is 1 without a deadline, and where the predicted end comes before it.
// It is 0 where the predicted start comes after it. In between it is the part of the run that fits in before the deadline.
func (l *lane) onTime(deadline, start time.Duration) float64 {
	if deadline == 0 {
		return 1
	}
	service := l.rates.perTask()
	switch {
	case start+service <= deadline:
		return 1
	case start >= deadline:
		return 0
	}
	return float64(deadline-start) / float64(service)
}
