// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"fmt"
	"slices"
	"strings"
)

// frontFigures has a run's counts on the fronts.
type frontFigures struct {
	requests, answers, refusals, broken int // of chats and messages
	joined                              int // answers that another client of the same key had too
	responses, streams, resumed         int
	acrossLives                         int // streams of responses that completed, and have events of more than one life
	ended                               map[string]int
	hitByWorker, hitByDaemon            int // tasks of strict answers that were hit in mid-stream and completed all the same
	continued                           int // best-effort answers that went on behind the loss of an engine
	batches, canceled, rows, results    int
}

func (r *result) frontFigures() (f frontFigures) {
	f.ended = map[string]int{}
	hit := map[faultKind]map[string]bool{killWorker: {}, killDaemon: {}, stopDaemon: {}}
	for _, x := range r.faults {
		for _, id := range x.hits {
			if hit[x.kind] != nil {
				hit[x.kind][id] = true
			}
		}
	}
	for id, s := range r.states {
		if s != nil && s.State == "completed" && s.PoolID != loose.id {
			f.hitByWorker += count(hit[killWorker][id])
			f.hitByDaemon += count(hit[killDaemon][id] || hit[stopDaemon][id])
		}
	}
	continued := map[string]bool{}
	for _, c := range r.chats {
		whole := 0
		for _, a := range c.heard {
			f.requests++
			s := a.said(c.plan.kind)
			switch {
			case s.done:
				f.answers++
				whole++
			case a.status >= 400:
				f.refusals++
			default:
				f.broken++
			}
			if strings.Contains(a.bytes(), "Continued-At=") {
				continued[a.task] = true
			}
		}
		f.joined += max(whole-1, 0)
	}
	for _, x := range r.responses {
		f.responses += count(x.id != "")
		last, _ := viewOf[responseView](poll{status: 200, body: x.last})
		f.ended[last.Status]++
		if x.stream != nil && strings.Contains(x.stream.bytes(), "Continued-At=") {
			continued[x.id] = true
		}
		for _, v := range x.views {
			f.streams += count(len(v.frames) > 0)
			f.resumed += max(v.breaks-1, 0)
			f.acrossLives += count(v.over && last.Status == statusCompleted && len(slices.Compact(slices.Clone(v.lives))) > 1)
		}
	}
	f.continued = len(continued)
	for _, b := range r.batches {
		f.batches += count(b.id != "")
		f.canceled += count(b.last().Status == statusCancelled)
		for _, row := range b.rows() {
			f.rows++
			f.results += count(row.output)
		}
	}
	return f
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}

// frontRows are those of the report.
func (r *result) frontRows(row func(name, format string, args ...any)) {
	f := r.frontFigures()
	row("chats and messages: requests", "%d: %d answered, %d refused, %d broken or left", f.requests, f.answers, f.refusals, f.broken)
	row("answers had by joining", "%d", f.joined)
	row("best-effort, went on elsewhere", "%d answers, at %d cuts of an engine, of which %d hit one within its stream (LO-209)", f.continued, r.figures().faults[cutEngine],
		r.figures().midStream[cutEngine])
	row("strict on fronts, hit in a stream", "%d by a worker's death, %d by the daemon's end, completed", f.hitByWorker, f.hitByDaemon)
	var ended []string
	for _, name := range []string{statusCompleted, statusIncomplete, statusFailed, statusCancelled} {
		ended = append(ended, fmt.Sprintf("%s %d", name, f.ended[name]))
	}
	row("responses in the background", "%d: %s", f.responses, strings.Join(ended, ", "))
	row("their streams", "%d, gone on with %d times; %d completed ones have events of more than one life", f.streams, f.resumed, f.acrossLives)
	row("batches", "%d, %d of them canceled; %d results, %d of them answers", f.batches, f.canceled, f.rows, f.results)
}
