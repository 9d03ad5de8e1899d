// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"slices"

	"github.com/llama-orch/llama-orch/service/awake"
)

// state is where a live task is in its one life. Clients see less of it: queued, running, or how it ended (task.State).
type state uint8

// The states. A job that is not recorded has the same, and takes at once the steps that are a record's (see job.recorded); it is never moving, nor left.
const (
	pushed    state = iota // it has its place in the queue, and the ledger is to record that it is accepted
	starting               // it found a free slot and works in it, and the ledger is to record that it is accepted and runs
	accepted               // it is recorded, and waits for its turn
	running                // it is recorded, and a replica runs it, or is about to
	moving                 // its run broke off, in this process or an earlier one, and it waits for another replica
	ending                 // somebody ends it: its log is sealed, and the ledger is to record the outcome
	done                   // its outcome is recorded, and everybody may see it
	left                   // this process let go of it, and the next start takes it up
	withdrawn              // the ledger could not record it, so that it was never accepted
	states
)

// follow are the states that each state may be followed by. What is not listed cannot happen: enter refuses it.
var follow = [states][]state{
	pushed:    {accepted, starting, withdrawn},
	starting:  {running, withdrawn},
	accepted:  {running, moving, ending},
	running:   {moving, ending},
	moving:    {running, ending},
	ending:    {done, left},
	done:      {},
	left:      {},
	withdrawn: {},
}

// mayBecome reports whether one state may follow another.
func (s state) mayBecome(next state) bool { return slices.Contains(follow[s], next) }

// decided reports whether the ledger has accepted a task in this state, or has failed to.
func (s state) decided() bool { return s != pushed && s != starting }

// live reports whether a task in this state is accepted and has yet to end.
func (s state) live() bool { return s == accepted || s == running || s == moving }

// waits reports whether a task in this state waits for a replica.
func (s state) waits() bool { return s == accepted || s == moving }

// enter is the only place where a job's state changes. It reports whether the change is allowed; if not, nothing happens.
// Entering a state starts its timers, and leaving it stops them. The caller holds mu.
func (j *job) enter(next state) bool {
	if !j.state.mayBecome(next) {
		return false
	}
	decides := next.decided() && !j.state.decided()
	j.state = next
	j.changes++
	stop(&j.patience)
	if !next.live() {
		stop(&j.absence)
		if j.noDeadline != nil {
			j.noDeadline()
			j.noDeadline = nil
		}
	}
	if decides && next.live() {
		j.startDeadline()
	}
	if next == moving {
		j.startPatience()
	}
	if decides {
		close(j.decided)
	}
	return true
}

func stop(timer **awake.Timer) {
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
}

// A timer that has fired may still find its job in another state, or in the same one for a second time. So each timer claims
// the job on the condition that it started with, under the job's lock, and does nothing where that does not hold any more.

// startDeadline runs from the accept to the end, where the task has a deadline. Its client goes on waiting while this machine sleeps.
// The caller holds mu.
func (j *job) startDeadline() {
	if d := j.task.Request.Deadline; d > 0 {
		s := j.lane.s
		j.noDeadline = awake.At(d-s.o.Now().Sub(j.task.AcceptedAt), func() {
			s.aside(func() { s.fail(j, errDeadline(j.task), nil) }, j.told)
		})
	}
}

// startPatience runs while the job waits for another replica. The caller holds mu.
func (j *job) startPatience() {
	l, stay := j.lane, j.changes
	still := func() bool { return j.changes == stay }
	j.patience = awake.AfterFunc(l.s.o.MoveWithin, func() {
		defer l.unplaced(j)
		if waits := l.parked() || j.line() && l.suited(j); !waits {
			l.s.aside(func() { l.s.fail(j, l.errLost("no replica that can go on with it was ready in time"), still) }, j.told)
			return
		}
		j.mu.Lock() // a drained pool's tasks wait for it, as its queue does, and a line waits behind interactive tasks
		defer j.mu.Unlock()
		if still() {
			j.patience.Reset(l.s.o.MoveWithin)
		}
	})
}

// startAbsence runs from the moment when the last reader left, where the task is to end with its client. The caller holds mu.
func (j *job) startAbsence() {
	s, visits := j.lane.s, j.visits
	j.absence = awake.AfterFunc(cmp.Or(j.task.Request.ReturnWithin, s.o.ReturnWithin), func() {
		s.aside(func() { s.cancel(j, errAbandoned(), func() bool { return j.visits == visits }) }, j.told)
	})
}
