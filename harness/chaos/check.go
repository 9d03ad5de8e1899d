// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/harness/client"
)

// finding is one property: how often it could be judged, and where it does not hold.
type finding struct {
	property string
	judged   int
	breaches []string
}

func (f *finding) breach(format string, args ...any) {
	f.breaches = append(f.breaches, fmt.Sprintf(format, args...))
}

// check judges a run. Every property says what it can judge. What it cannot know does not count as proof.
func check(h *history) []*finding {
	var all []*finding
	for _, p := range []struct {
		name  string
		judge func(*history, *finding)
	}{
		{"every 202 ends in exactly one outcome, and no refused task exists", oneOutcome},
		{"every outcome has its cause", causes},
		{"a repeated submit gives the same admission; refusals have their reason", admissions},
		{"event ids are contiguous and their hashes are those of the events", eventIDs},
		{"all readers and reconnects have the same events", sameEvents},
		{"the bytes of strict tasks are those of their undisturbed run", strictBytes},
		{"a cancel seals the log at the event it returns, always the same", cancels},
		{"no token arrives once a cancel has returned", silence},
		{"first in, first out within a pool's priority", order},
		{"nothing is left over: processes, files, descriptors, goroutines", leftOver},
		{"what a front has accepted is known in the end, and has ended", frontsAccepted},
		{"who repeats what may be repeated gets an answer", frontsAnswered},
		{"strict answers of fronts, as far as they came, are the undisturbed ones", strictAnswers},
		{"a best-effort answer has its text once, whoever decoded it", looseAnswers},
		{"each whole answer has the receipt of its text", receipts},
		{"requests under one key have one task that answers, and one answer", keyed},
		{"another body under a key is a conflict, which runs nothing", otherBodies},
		{"what goes on from a response answers the whole conversation", conversations},
		{"a response's events have all numbers, and the same bytes for everyone", sameNumbers},
		{"a response that has ended stays as its stream ended", responseLooks},
		{"a stream ends with its last event or breaks; errors are the dialect's", frontShapes},
		{"errors of fronts have their cause, and say whether to come again", frontCauses},
		{"a batch goes forward only, and its counts add up", batchCounts},
		{"each line of a batch has one result, which stays", batchResults},
		{"a canceled batch ends, keeps what had ended and starts nothing", batchCancels},
	} {
		f := &finding{property: p.name}
		p.judge(h, f)
		all = append(all, f)
	}
	return all
}

var final = map[string]string{"completed": "end", "canceled": "error", "failed": "error"}

func oneOutcome(h *history, f *finding) {
	for _, t := range h.tasks {
		switch {
		case t.accepted() == nil && t.final == nil && !t.unknown:
			if len(t.submits) > 0 {
				f.breach("%s: nobody asked at the end whether the daemon has it", t.plan.id)
			}
			continue
		case t.accepted() == nil && t.final != nil && refusedForGood(t):
			f.breach("%s was refused last, and yet the daemon has it as %s", t.plan.id, t.final.State)
			continue
		case !t.known():
			f.judged++
			continue
		case t.unknown || t.final == nil:
			f.breach("%s was accepted, and the daemon does not know it", t.plan.id)
			continue
		}
		f.judged++
		want, over := final[t.final.State]
		var last client.Event
		if len(t.log) > 0 {
			last = t.log[len(t.log)-1]
		}
		switch {
		case !over:
			f.breach("%s was accepted and is still %s", t.plan.id, t.final.State)
		case last.Name != want:
			f.breach("%s is %s, and its stream ends with %q", t.plan.id, t.final.State, last.Name)
		case last.ID != t.final.LastEvent:
			f.breach("%s: the stream's last event is %s, the status says %s", t.plan.id, last.ID, t.final.LastEvent)
		}
	}
}

// refusedForGood reports whether no submit's answer was lost: then a refused task must not exist.
func refusedForGood(t *taskRecord) bool {
	return !slices.ContainsFunc(t.submits, func(s submit) bool { return s.admission == nil && s.code == "" })
}

// tries is how often a strict task may lose its worker before the task itself is lost.
const tries = 3

func causes(h *history, f *finding) {
	for _, t := range h.tasks {
		if t.final == nil || t.final.Error == nil {
			continue
		}
		f.judged++
		if why := h.unexplained(t.final, t.plan.pool, t.plan.strict, len(t.cancels) > 0, t.plan.deadline > 0, t.submits[0].sent); why != "" {
			f.breach("%s %s", t.plan.id, why)
		}
	}
}

// stopLasts is how long before a submit a stop may have begun whose daemon still took it.
const stopLasts = 5 * time.Second

// unexplained says what an error is that nothing explains which was done to a task or its pool since its submit; empty: it is explained.
func (h *history) unexplained(s *status, pool string, strict, canceled, deadline bool, from time.Time) string {
	to := s.Finished.Add(time.Second)
	deaths := h.count(from, to, killDaemon, stopDaemon)
	for _, x := range h.faults {
		if (x.kind == killWorker || x.kind == cutEngine) && x.pool == pool && !x.at.Before(from) && !x.at.After(to) {
			deaths++
		}
	}
	ok := false
	switch code := s.Error.Code; code {
	case "CANCELED":
		ok = canceled && s.State == "canceled"
	case "DEADLINE_UNMET":
		ok = deadline
	case "QUEUE_FULL_DROP_LRU":
		ok = poolOf(pool).policy == dropLRU
	case "WORKER_RESET":
		ok = deaths >= tries || !strict && h.count(from, to, killDaemon, stopDaemon) > 0 // what such a task has sent goes with the daemon
	case "SHUTTING_DOWN":
		ok = !strict && h.count(from.Add(-stopLasts), to, stopDaemon) > 0
	case "LEDGER_UNAVAILABLE": // a best-effort task must not run while its dispatch cannot be recorded
		ok = !strict && h.count(from.Add(-10*time.Second), to, fillDisk) > 0
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("(strict: %t, pool %s, canceled: %t, engines or daemons lost meanwhile: %d) ended with %s: %s", strict, pool, canceled, deaths, s.Error.Code, s.Error.Message)
}

func poolOf(id string) poolPlan {
	if id == loose.id {
		return loose
	}
	return pools[slices.IndexFunc(pools, func(p poolPlan) bool { return p.id == id })]
}

// refusals lists the codes with which a submit may be refused, whatever happens to the daemon.
var refusals = []string{"ADMISSION_REJECT", "POOL_UNREADY", "SHUTTING_DOWN", "LEDGER_UNAVAILABLE"}

func admissions(h *history, f *finding) {
	for _, t := range h.tasks {
		first := t.accepted()
		for _, s := range t.submits {
			switch {
			case s.admission != nil:
				f.judged++
				if *s.admission != *first.admission {
					f.breach("%s: admitted with %+v and then with %+v", t.plan.id, *first.admission, *s.admission)
				}
			case s.code == "" || slices.Contains(refusals, s.code) || s.code == "DEADLINE_UNMET" && t.plan.deadline > 0:
			default:
				f.breach("%s was refused with %s", t.plan.id, s.code)
			}
		}
		if first == nil || len(t.log) == 0 {
			continue
		}
		l := client.NewLog()
		a := first.admission
		if l.Take(t.log[0]) == nil && l.Start != (client.Started{
			TaskID: a.TaskID, QueuePosition: a.QueuePosition, PredictedStartMS: a.PredictedStartMS, Seed: a.Seed, Determinism: a.Determinism,
		}) {
			f.breach("%s was admitted with %+v, and its stream starts with %+v", t.plan.id, *a, l.Start)
		}
	}
}

func eventIDs(h *history, f *finding) {
	strictly := func(t *taskRecord, events []client.Event) {
		f.judged++
		l := client.NewLog()
		for _, e := range events {
			if err := l.Take(e); err != nil {
				f.breach("%s: %v", t.plan.id, err)
				return
			}
		}
	}
	for _, t := range h.tasks {
		if t.final != nil {
			strictly(t, t.log)
		}
		for _, v := range t.views {
			strictly(t, v.events())
		}
	}
}

func (v *view) events() (events []client.Event) {
	for _, e := range v.seen {
		events = append(events, e.Event)
	}
	return events
}

func sameEvents(h *history, f *finding) {
	for _, t := range h.tasks {
		if t.final == nil {
			continue
		}
		for _, v := range t.views {
			if len(v.seen) == 0 {
				continue
			}
			f.judged++
			events := v.events()
			if v.discarded != "" {
				// If a daemon died, and its task then ended in another way, what that daemon sent cannot be continued. Nothing else may be lost.
				if t.final.State == "completed" || h.count(v.seen[0].at, v.at, killDaemon, stopDaemon) == 0 {
					f.breach("%s, which is %s: reader %d had to discard %d events, the last %s: %s", t.plan.id, t.final.State, v.reader,
						len(events), events[len(events)-1].ID, v.discarded)
				}
				continue
			}
			if h.leftWithADaemon(t, v) { // its end differs from the log's end; before that they must agree
				events = events[:min(len(events), len(t.log)-1)]
			}
			if len(events) > len(t.log) {
				f.breach("%s: reader %d has %d events, the stream has %d", t.plan.id, v.reader, len(events), len(t.log))
				continue
			}
			for i, e := range events {
				if e != t.log[i] {
					f.breach("%s: reader %d has %q where the stream has %q", t.plan.id, v.reader, e.Frame(), t.log[i].Frame())
					break
				}
			}
		}
	}
}

// leftWithADaemon reports whether a reader left a view before its end, to begin anew, and the daemon that sent it ended before the task, which then
// did not complete. That happens to a best-effort task, and to a strict task that is canceled before it was decoded again. Then the reader
// has seen more than the log holds.
func (h *history) leftWithADaemon(t *taskRecord, v *view) bool {
	last := v.seen[len(v.seen)-1]
	return !last.Terminal() && t.final.State != "completed" && h.count(last.at, t.final.Finished, killDaemon, stopDaemon) > 0
}

// strictBytes compares every token of a strict task that any client ever got with the undisturbed run. It also compares the receipts of completed
// tasks.
func strictBytes(h *history, f *finding) {
	for _, t := range h.tasks {
		if t.final == nil || !t.plan.strict {
			continue
		}
		all := [][]client.Event{t.log}
		for _, v := range t.views {
			all = append(all, v.events())
		}
		for _, events := range all {
			l := client.NewLog()
			for _, e := range events {
				if l.Take(e) != nil { // another property reports that
					break
				}
			}
			if len(l.Tokens) == 0 && l.End == nil {
				continue
			}
			if t.calm == nil {
				f.breach("%s sent tokens, and there is no undisturbed run of it", t.plan.id)
				break
			}
			f.judged++
			switch {
			case len(l.Tokens) > len(t.calm.tokens) || !slices.Equal(l.Tokens, t.calm.tokens[:len(l.Tokens)]):
				f.breach("%s sent %q, undisturbed it is %q", t.plan.id, l.Text(), strings.Join(t.calm.tokens, ""))
			case l.End != nil && !sameRun(*l.End, *t.calm):
				f.breach("%s ended with %+v, undisturbed it is %+v (%s)", t.plan.id, *l.End, t.calm.receipt, t.calm.finish)
			}
		}
	}
}

func sameRun(e client.End, c calm) bool {
	want := c.receipt
	want.ReplicaID, want.TokensCached = e.Receipt.ReplicaID, e.Receipt.TokensCached // what ran before decides on both, and neither changes a byte
	return e.TokensOut == len(c.tokens) && e.FinishReason == c.finish && reflect.DeepEqual(e.Receipt, want)
}

func cancels(h *history, f *finding) {
	for _, t := range h.tasks {
		var first *client.Canceled
		for _, c := range t.cancels {
			if c.answer == nil {
				if c.code != "" && !slices.Contains(refusals, c.code) {
					f.breach("%s: a cancel was refused with %s", t.plan.id, c.code)
				}
				continue
			}
			f.judged++
			if first == nil {
				first = c.answer
			}
			if *c.answer != *first {
				f.breach("%s: a cancel answered %+v and then %+v", t.plan.id, *first, *c.answer)
			}
		}
		if first == nil || t.final == nil || len(t.log) < 2 {
			continue
		}
		last := t.log[len(t.log)-1]
		sealed := last.ID
		if t.final.State == "canceled" {
			sealed = t.log[len(t.log)-2].ID
		}
		if first.Outcome != t.final.State || first.LastEventID != sealed {
			f.breach("%s: a cancel answered %s and %s; the task is %s, and its log was sealed at %s", t.plan.id, first.Outcome,
				first.LastEventID, t.final.State, sealed)
		}
	}
}

// slack is how late a client may read a token that was in a socket's buffer when the cancel returned. Readers that are slow on purpose are not
// judged.
const slack = 2 * time.Second

func silence(h *history, f *finding) {
	for _, t := range h.tasks {
		for _, c := range t.cancels {
			if c.answer == nil || c.answer.Outcome != "canceled" {
				continue
			}
			for _, v := range t.views {
				if v.slow {
					continue
				}
				f.judged++
				for _, e := range v.seen {
					if e.Name != "token" {
						continue
					}
					switch late := e.at.Sub(c.returned); {
					case late > slack+h.stall && v.conns[e.conn].opened.Before(c.sent):
						f.breach("%s: reader %d got event %s %s after the cancel had returned", t.plan.id, v.reader, e.ID, late)
					case v.conns[e.conn].opened.After(c.returned) && number(e.ID) > number(c.answer.LastEventID):
						f.breach("%s: reader %d, who came after the cancel, got event %s behind %s", t.plan.id, v.reader, e.ID, c.answer.LastEventID)
					}
				}
			}
		}
	}
}

func number(eventID string) (n int) {
	_, _ = fmt.Sscanf(eventID, "%d-", &n) // another property checks ids
	return n
}

// inverted is how much later than its follower a task may seem to start if two replicas take tasks at the same moment.
const inverted = 250 * time.Millisecond

// order can judge two tasks of one pool and priority if the second was sent after the first one's 202 had come, and the same process dispatched both
// for the first time. With several replicas that process must also have accepted them. The reason: a daemon goes on first with tasks that a dead one
// had recorded as running, and no client can know which of the dispatched tasks these are.
func order(h *history, f *finding) {
	type started struct {
		t            *taskRecord
		sent, has202 time.Time
		life         int
	}
	groups := map[[2]string][]started{}
	for _, t := range h.tasks {
		a := t.accepted()
		if a == nil || t.final == nil || t.final.StartedAt.IsZero() {
			continue
		}
		if life := h.lifeAt(t.final.StartedAt); life >= 0 {
			key := [2]string{t.plan.pool, t.plan.priority}
			groups[key] = append(groups[key], started{t, t.submits[0].sent, a.answered, life})
		}
	}
	for key, group := range groups {
		tolerance, several := time.Duration(0), poolOf(key[0]).replicas > 1
		if several {
			tolerance = inverted + h.stall
		}
		for _, a := range group {
			for _, b := range group {
				if a.life != b.life || !a.has202.Before(b.sent) || several && (h.lifeAt(a.has202) != a.life || h.lifeAt(b.sent) != a.life) {
					continue
				}
				f.judged++
				if late := a.t.final.StartedAt.Sub(b.t.final.StartedAt); late > tolerance {
					f.breach("%s was accepted before %s was sent, both %s in pool %s, and started %s later", a.t.plan.id, b.t.plan.id, key[1], key[0], late)
				}
			}
		}
	}
}

// How many more descriptors and goroutines an idle daemon may have at the end than at the start, for connections that are kept for the next
// request.
const (
	moreFDs        = 10
	moreGoroutines = 20
)

func leftOver(h *history, f *finding) {
	a := h.after
	f.judged = 5
	for _, o := range a.orphans {
		f.breach("a process outlived its daemon: %s", o)
	}
	for _, o := range a.files {
		f.breach("the data folder holds %s after the last stop", o)
	}
	if !a.stopped {
		f.breach("the last SIGTERM did not end the daemon well")
	}
	if a.lastFDs == 0 || a.lastFDs > a.idleFDs+moreFDs {
		f.breach("the daemon had %d open descriptors without tasks at first, and %d at last", a.idleFDs, a.lastFDs)
	}
	if a.lastGoroutines == 0 || a.lastGoroutines > a.idleGoroutines+moreGoroutines {
		f.breach("the daemon had %d goroutines without tasks at first, and %d at last", a.idleGoroutines, a.lastGoroutines)
	}
}
