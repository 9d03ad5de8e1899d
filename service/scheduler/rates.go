// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"sync"
	"time"
)

// weight of the newest task in the mean: about the last ten count.
const weight = 0.2

// rates are a pool's measured service times.
type rates struct {
	mu   sync.Mutex
	mean time.Duration // of a task, from its dispatch to the free slot; 0: none measured
	runs map[*job]time.Time
}

// began notes a task's dispatch.
func (r *rates) began(j *job, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.runs == nil {
		r.runs = map[*job]time.Time{}
	}
	r.runs[j] = now
}

// ended notes that a task's slot is free. Only tasks that ran to their own end say how long tasks last.
func (r *rates) ended(j *job, now time.Time, counts bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	lasted := now.Sub(r.runs[j])
	delete(r.runs, j)
	switch {
	case !counts:
	case r.mean == 0:
		r.mean = lasted
	default:
		r.mean += time.Duration(weight * float64(lasted-r.mean))
	}
}

// service is the mean time of a task, 0 before one was measured: no guess.
func (r *rates) service() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mean
}

// wait predicts when a slot is free for a task with so many waiting ahead of it, all slots being busy: the running tasks
// and then the waiting ones end one after another, slots at a time.
func (r *rates) wait(ahead, slots int, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	mean := r.mean
	rest := mean // until the first running task ends, if each lasts the mean
	for _, since := range r.runs {
		rest = min(rest, max(mean-now.Sub(since), 0))
	}
	return rest + mean*time.Duration(ahead)/time.Duration(slots)
}
