// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// figures has a run's counts, for the report and for the minimum that a run of each scale must reach.
type figures struct {
	accepted, refused, lost, repeated  int
	outcomes                           map[string]int
	faults, midStream                  map[faultKind]int
	readers, connections, reconnects   int
	resumed, discarded, acrossLives    int
	cancels, canceled                  int
	hitByWorker, hitByDaemon           int // strict tasks that were hit in mid-stream and completed all the same
	movedSeen, strictResets, bestReset int
}

func (r *result) figures() (f figures) {
	f.outcomes, f.faults, f.midStream = map[string]int{}, map[faultKind]int{}, map[faultKind]int{}
	moved := map[faultKind]map[string]bool{killWorker: {}, killDaemon: {}, stopDaemon: {}}
	for _, x := range r.faults {
		f.faults[x.kind]++
		if len(x.hits) > 0 {
			f.midStream[x.kind]++
		}
		for _, id := range x.hits {
			if moved[x.kind] != nil {
				moved[x.kind][id] = true
			}
		}
	}
	for _, t := range r.tasks {
		admitted := 0
		for _, s := range t.submits {
			switch {
			case s.admission != nil:
				admitted++
			case s.code == "":
				f.lost++
			default:
				f.refused++
			}
		}
		if admitted > 0 {
			f.accepted++
			f.repeated += admitted - 1
		}
		for _, c := range t.cancels {
			if c.answer != nil {
				f.cancels++
			}
		}
		f.views(t)
		if t.final == nil {
			continue
		}
		outcome := t.final.State
		if e := t.final.Error; e != nil {
			outcome = e.Code
		}
		f.outcomes[outcome]++
		switch {
		case outcome == "CANCELED":
			f.canceled++
		case outcome == "WORKER_RESET" && t.plan.strict:
			f.strictResets++
		case outcome == "WORKER_RESET":
			f.bestReset++
		case outcome == "completed" && t.plan.strict:
			if moved[killWorker][t.plan.id] {
				f.hitByWorker++
			}
			if moved[killDaemon][t.plan.id] || moved[stopDaemon][t.plan.id] {
				f.hitByDaemon++
			}
		}
	}
	return f
}

func (f *figures) views(t *taskRecord) {
	told, across := false, false
	for _, v := range t.views {
		f.readers++
		f.connections += len(v.conns)
		if v.discarded != "" {
			f.discarded++
		}
		lives := map[int]bool{}
		for i, c := range v.conns {
			if i > 0 {
				f.reconnects++
			}
			if c.resumed {
				f.resumed++
			}
		}
		for _, e := range v.seen {
			if e.Name == "token" {
				lives[v.conns[e.conn].life] = true
			}
		}
		told = told || v.failover > 0
		across = across || len(lives) > 1
	}
	if told {
		f.movedSeen++
	}
	if across && t.final != nil && t.final.State == "completed" {
		f.acrossLives++
	}
}

// absent is how long no daemon served, between its lives.
func (h *history) absent() (d time.Duration) {
	for i := 1; i < len(h.lives); i++ {
		d += h.lives[i].serving.Sub(h.lives[i-1].over)
	}
	return d
}

// table returns the report.
func (r *result) table(findings []*finding) string {
	f := r.figures()
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-34s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "chaos, %s run, seed %d, %s\n", r.plan.scale.name, r.plan.seed, r.took.Round(100*time.Millisecond))
	row("tasks sent, accepted", "%d, %d (repeated 202s: %d)", len(r.tasks), f.accepted, f.repeated)
	row("submits refused, answers lost", "%d, %d", f.refused, f.lost)
	var outcomes []string
	for _, name := range slices.Sorted(maps.Keys(f.outcomes)) {
		outcomes = append(outcomes, fmt.Sprintf("%s %d", name, f.outcomes[name]))
	}
	row("outcomes", "%s", strings.Join(outcomes, ", "))
	for _, kind := range []faultKind{killWorker, killDaemon, stopDaemon} {
		row(string(kind), "%d, of which %d hit a task within its stream", f.faults[kind], f.midStream[kind])
	}
	row("disk filled", "%d times; %d submits refused, %d starts refused", f.faults[fillDisk], r.full, r.refusedStarts)
	row("readers, connections, reconnects", "%d, %d, %d", f.readers, f.connections, f.reconnects)
	row("streams resumed by event id", "%d; discarded: %d", f.resumed, f.discarded)
	row("strict, hit by a worker's death", "%d completed byte for byte (LO-203); %d tasks told of a failover", f.hitByWorker, f.movedSeen)
	row("strict, hit by the daemon's end", "%d completed byte for byte (LO-202); %d streams have tokens of more than one life", f.hitByDaemon, f.acrossLives)
	row("ended with WORKER_RESET", "strict %d, best-effort %d", f.strictResets, f.bestReset)
	row("cancels answered", "%d, of %d canceled tasks", f.cancels, f.canceled)
	r.frontRows(row)
	row("descriptors, goroutines at rest", "%d, %d at first; %d, %d at last", r.after.idleFDs, r.after.idleGoroutines, r.after.lastFDs, r.after.lastGoroutines)
	row("time without a daemon that serves", "%s of %s", r.absent().Round(100*time.Millisecond), r.plan.scale.span)
	row("longest stall of the harness", "%s", r.stall.Round(time.Millisecond))
	b.WriteString("checks\n")
	for _, x := range findings {
		verdict := "held"
		if len(x.breaches) > 0 {
			verdict = fmt.Sprintf("BROKEN %d times", len(x.breaches))
		}
		fmt.Fprintf(&b, "  %-74s %6d judged, %s\n", x.property, x.judged, verdict)
	}
	return b.String()
}
