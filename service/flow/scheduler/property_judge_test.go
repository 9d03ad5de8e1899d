// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing/synctest"

	"github.com/llama-orch/llama-orch/service/task"
)

// judge looks at every accepted task.
func (s *stage) judge() {
	for _, a := range s.tasks {
		id := a.task.ID
		st, err := s.s.Get(s.t.Context(), id)
		if a.admitted == 0 {
			if a.refused && !a.lost && err == nil {
				s.complain("%s was refused, and is %s", id, st.State)
			}
			continue
		}
		if err != nil || !st.State.Final() {
			s.complain("%s was accepted and is %q at the end, %v", id, st.State, err)
			continue
		}
		terminals := strings.Count(a.got, "event: end\n") + strings.Count(a.got, "event: error\n")
		if a.outcomes != 1 || terminals != 1 {
			s.complain("%s: its client got %d terminal events:\n%s", id, terminals, a.got)
		}
		fresh := &actor{task: a.task}
		s.read(s.t.Context(), s.s, fresh)
		if fresh.got != a.got {
			s.complain("%s: its client has\n%s\nand the stream is\n%s", id, a.got, fresh.got)
		}
		if a.dropped != "" && (st.State == task.Completed || s.life == 1) {
			s.complain("%s is %s, and its client had to discard\n%s", id, st.State, a.dropped)
		}
		strict := a.task.Determinism == task.Strict
		if got := tokenLines(a.got); !slices.ContainsFunc([]string{"", otherKind}, func(kind string) bool {
			want := undisturbed(kind, a.task)
			return got == want || st.State != task.Completed && (!strict || strings.HasPrefix(want, got))
		}) {
			s.complain("%s is %s and sent\n%sundisturbed it is\n%s", id, st.State, got, undisturbed("", a.task))
		}
		if st.Err != nil && strict && st.Err.Code == task.WorkerReset && len(a.started) < attempts {
			s.complain("%s is strict, was tried %d times and ended with %v", id, len(a.started), st.Err)
		}
	}
	s.leftOvers()
	// First in, first out: of two tasks of a priority that one process dispatched, once each.
	for i, a := range s.tasks {
		for _, b := range s.tasks[i+1:] {
			if a.admitted > 0 && a.admitted < b.sent && a.task.Request.Priority == b.task.Request.Priority && len(a.started) == 1 && len(b.started) == 1 &&
				a.started[0].life == b.started[0].life && a.started[0].at.After(b.started[0].at) {
				s.complain("%s came before %s and was dispatched %s later", a.task.ID, b.task.ID, a.started[0].at.Sub(b.started[0].at))
			}
		}
	}
}

// undisturbed are the token lines of a task on a machine of that kind.
func undisturbed(kind string, t task.Task) string {
	lines := ""
	for i := range t.Request.MaxTokens {
		lines += fmt.Sprintf("data: {\"t\":%q,\"i\":%d}\n", word(kind, t.ID, i), i)
	}
	return lines
}

// look checks what must hold whenever nothing moves: who waits is counted, and nobody else is.
func (s *stage) look() {
	synctest.Wait()
	l := s.s.lane("default")
	for _, j := range l.retries.list() {
		if now := j.now(); now != moving {
			s.complain("%s is in state %d, and among those that wait for another replica", j.task.ID, now)
		}
	}
	if n := l.queue.Depth(); l.rates.queued.tasks != n {
		s.complain("%d tasks are queued, and predictions count %d", n, l.rates.queued.tasks)
	}
}

// leftOvers looks for what the tasks left behind once all of them have ended.
func (s *stage) leftOvers() {
	l := s.s.lane("default")
	if n := s.s.Backlog("default"); n != 0 {
		s.complain("all tasks have ended, and the backlog is %d", n)
	}
	if d, _ := s.s.Demand("default"); d.Waiting != 0 || d.Running != 0 || !d.Interactive.IsZero() || !d.Batch.IsZero() {
		s.complain("all tasks have ended, and the demand is %+v", d)
	}
	if l.rates.queued != (work{}) || len(l.rates.runs) != 0 {
		s.complain("all tasks have ended, and predictions count %+v and %d runs", l.rates.queued, len(l.rates.runs))
	}
	if len(s.s.live) != 0 || len(s.s.arriving) != 0 {
		s.complain("all tasks have ended, and %d live, and %d arrive", len(s.s.live), len(s.s.arriving))
	}
}
