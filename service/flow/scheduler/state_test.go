// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// jobIn is a job that got to a state by allowed changes, with a deadline, and with a reader that left where it is live.
func jobIn(t *testing.T, r *rig, to state) *job {
	j := newJob(r.s.lane("default"), task.Task{
		ID: "a", PoolID: "default", Determinism: task.Strict, AcceptedAt: time.Now(),
		Request: task.Request{Deadline: time.Hour, OnDisconnect: task.CancelIt},
	})
	way := map[state][]state{
		pushed: {}, starting: {starting}, accepted: {accepted}, running: {accepted, running}, moving: {accepted, running, moving},
		ending: {accepted, running, ending}, done: {accepted, running, ending, done}, left: {accepted, ending, left}, withdrawn: {withdrawn},
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range way[to] {
		require.True(t, j.enter(s))
		if s == accepted {
			j.startAbsence()
		}
	}
	require.Equal(t, to, j.state)
	return j
}

// Each change of a job's state is in the table, or is refused and changes nothing; and each state has its timers and no others.
// LO-202, LO-203, ORCH-3026
func TestAJobChangesAsTheTableAllows(t *testing.T) {
	want := map[state]string{ // by the states' first letters
		pushed: "asw", starting: "rw", accepted: "rme", running: "me", moving: "re", ending: "dl", done: "", left: "", withdrawn: "",
	}
	letters := map[state]string{pushed: "p", starting: "s", accepted: "a", running: "r", moving: "m", ending: "e", done: "d", left: "l", withdrawn: "w"}
	require.Len(t, want, int(states))
	run(t, 0, nil, func(t *testing.T, r *rig) {
		for from := range states {
			may := ""
			for to := range states {
				j := jobIn(t, r, from)
				j.mu.Lock()
				changes := j.changes
				if j.enter(to) {
					may += letters[to]
					require.Equal(t, to, j.state)
					require.Equal(t, changes+1, j.changes)
				} else {
					require.Equal(t, from, j.state)
					require.Equal(t, changes, j.changes)
				}
				require.Equal(t, j.state == moving, j.patience != nil, "%s to %s", letters[from], letters[to])
				require.Equal(t, j.state.live(), j.noDeadline != nil, "%s to %s", letters[from], letters[to])
				require.Equal(t, j.state.live() && from.decided(), j.absence != nil, "%s to %s", letters[from], letters[to])
				select {
				case <-j.decided:
					require.NotContains(t, []state{pushed, starting}, j.state)
				default:
					require.Contains(t, []state{pushed, starting}, j.state)
				}
				stop(&j.patience)
				if j.noDeadline != nil {
					j.noDeadline()
				}
				stop(&j.absence)
				j.mu.Unlock()
			}
			require.ElementsMatch(t, []byte(want[from]), []byte(may), letters[from])
		}
	})
}

// A timer that fires when its job has left the state, or has come back to it, does nothing; nor does one that finds its client back.
// LO-203, ORCH-3026
func TestATimerThatFiresLateDoesNothing(t *testing.T) {
	run(t, 0, nil, func(t *testing.T, r *rig) {
		for name, c := range map[string]struct {
			wait   time.Duration // until the timer fires
			change func(j *job)  // what happens at that moment, before the timer has the job
		}{
			"the deadline of a task that ends":        {time.Hour, func(j *job) { j.enter(ending) }},
			"the patience of a wait before this one":  {r.s.o.MoveWithin, func(j *job) { j.enter(running); j.enter(moving); stop(&j.patience) }},
			"the absence of a client that came back":  {r.s.o.ReturnWithin, func(j *job) { j.visits++; j.readers++ }},
			"the absence where the task ends already": {r.s.o.ReturnWithin, func(j *job) { j.enter(ending) }},
		} {
			j := jobIn(t, r, moving)
			if c.wait != time.Hour {
				if j.noDeadline != nil {
					j.noDeadline()
				}
			}
			if c.wait != r.s.o.ReturnWithin {
				stop(&j.absence)
			}
			if c.wait != r.s.o.MoveWithin {
				stop(&j.patience)
			}
			time.Sleep(c.wait - time.Nanosecond)
			j.mu.Lock()
			time.Sleep(time.Nanosecond) // it fires, and waits for the job
			c.change(j)
			was := j.state
			j.mu.Unlock()
			synctest.Wait()
			require.Equal(t, was, j.now(), name)
			j.mu.Lock()
			j.enter(ending)
			stop(&j.patience)
			stop(&j.absence)
			j.mu.Unlock()
		}
	})
}
