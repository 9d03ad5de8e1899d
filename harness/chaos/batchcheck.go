// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// row is a line of a file of results.
type row struct {
	CustomID string     `json:"custom_id"`
	Response *rowAnswer `json:"response"`
	Error    *told      `json:"error"`

	output bool // it stands in the output file, and not in that of the errors
}

// rowAnswer is what a line's client would have got.
type rowAnswer struct {
	Status    int             `json:"status_code"`
	RequestID string          `json:"request_id"`
	Body      json.RawMessage `json:"body"`
}

// last is the batch as its client saw it last.
func (b *batchRecord) last() (v batchView) {
	for _, p := range slices.Backward(b.polls) {
		if v, is := b.view(p); is {
			return v
		}
	}
	return v
}

// rows are the results, as they were when the batch had ended. What is no such line has no custom_id, response or error.
func (b *batchRecord) rows() (all []row) {
	output := b.last().OutputFile
	for _, id := range slices.Sorted(maps.Keys(b.results)) {
		for line := range strings.Lines(b.results[id]) {
			r := row{}
			if b.plan.kind == message {
				r = messageRow(line)
			} else {
				_ = into([]byte(line), &r) // it is judged by what it lacks
				r.output = id == output
			}
			all = append(all, r)
		}
	}
	return all
}

// rowOf is the first result of a line among some; nil: there is none.
func rowOf(rows []row, customID string) *row {
	at := slices.IndexFunc(rows, func(r row) bool { return r.CustomID == customID && customID != "" })
	if at < 0 {
		return nil
	}
	return &rows[at]
}

// ranks say which status of a batch comes before which.
var ranks = map[string]int{"validating": 1, statusInProgress: 2, "cancelling": 3, "finalizing": 4, statusCompleted: 5, statusCancelled: 5}

func batchCounts(h *history, f *finding) {
	for _, b := range h.batches {
		if b.id == "" {
			continue
		}
		var before batchView
		for _, p := range b.polls {
			v, is := b.view(p)
			if !is {
				if p.status == 404 {
					f.breach("%s: batch %s was not found: %s", b.plan.id, b.id, p.body)
				}
				continue
			}
			f.judged++
			now, was := v.Counts, before.Counts
			switch {
			case ranks[v.Status] == 0:
				f.breach("%s is %q", b.plan.id, v.Status)
			case ranks[v.Status] < ranks[before.Status], batchOver(before.Status) && v.Status != before.Status:
				f.breach("%s was %s, and then %s", b.plan.id, before.Status, v.Status)
			case now.Total < was.Total, now.Completed < was.Completed, now.Failed < was.Failed:
				f.breach("%s: its counts were %+v, and then %+v", b.plan.id, was, now)
			case now.Total != 0 && now.Total != len(b.plan.lines), now.Completed+now.Failed > now.Total:
				f.breach("%s has %d lines, and its counts are %+v", b.plan.id, len(b.plan.lines), now)
			case batchOver(v.Status) && now.Completed+now.Failed != now.Total:
				f.breach("%s has ended, and its counts are %+v", b.plan.id, now)
			}
			before = v
		}
		if before.Status == statusCancelled && len(b.cancels) == 0 {
			f.breach("%s is %s, and nobody has asked for that", b.plan.id, before.Status)
		}
	}
}

func batchResults(h *history, f *finding) {
	for _, b := range h.batches {
		if b.results == nil {
			continue
		}
		counts, rows := b.last().Counts, b.rows()
		if !maps.Equal(b.results, b.again) {
			f.breach("%s: its results were %.300q, and at the end they are %.300q", b.plan.id, b.results, b.again)
		}
		order, places, tasks, outputs := map[string]int{}, map[bool]int{}, map[string]bool{}, 0
		for i, l := range b.plan.lines {
			if l.customID != "" {
				order[l.customID] = i + 1
			}
		}
		found := map[string]int{}
		for _, r := range rows {
			f.judged++
			if r.output {
				outputs++
			}
			if r.CustomID != "" {
				found[r.CustomID]++
				if at := order[r.CustomID]; at < places[r.output] {
					f.breach("%s: %s stands behind a line that comes later in the file", b.plan.id, r.CustomID)
				} else {
					places[r.output] = at
				}
			}
			switch {
			case (r.Response == nil) == (r.Error == nil):
				f.breach("%s: the result %+v has not either a response or an error", b.plan.id, r)
			case r.output && (r.Response == nil || r.Response.Status != 200):
				f.breach("%s: %s is in the output file without an answer", b.plan.id, r.CustomID)
			case !r.output && r.Response != nil && r.Response.Status == 200:
				f.breach("%s: %s is in the error file with an answer", b.plan.id, r.CustomID)
			case r.Response != nil && r.Response.RequestID != "" && tasks[r.Response.RequestID]:
				f.breach("%s: two lines have the task %s", b.plan.id, r.Response.RequestID)
			}
			if r.Response != nil {
				tasks[r.Response.RequestID] = true
			}
		}
		for _, l := range b.plan.lines {
			if l.customID == "" {
				continue
			}
			if n := found[l.customID]; n != 1 {
				f.breach("%s: %s has %d results", b.plan.id, l.customID, n)
			}
			r := rowOf(rows, l.customID)
			if r == nil || r.output == (l.broken == "") || l.broken == "" && h.spared(b, l, r) {
				continue
			}
			f.breach("%s: %s (it can be run: %t) has the result %s", b.plan.id, l.customID, l.broken == "", encode(r))
		}
		if len(rows) != counts.Total || outputs != counts.Completed {
			f.breach("%s: its counts are %+v, and there are %d results, %d of them answers", b.plan.id, counts, len(rows), outputs)
		}
	}
}

// spared reports whether a line that can be run may have no answer: its batch was canceled, or each of its tasks was lost. A task is lost with the engines
// that it is tried on, and a best-effort one with its daemon, or where its dispatch cannot be recorded.
func (h *history) spared(b *batchRecord, l linePlan, r *row) bool {
	if r.Error != nil {
		return r.Error.Code == "batch_cancelled" && len(b.cancels) > 0
	}
	from, to := b.polls[0].sent.Add(-again), b.polls[len(b.polls)-1].at
	losses := h.count(from, to, killWorker, killDaemon, stopDaemon)
	if !l.strict {
		losses = h.count(from, to, cutEngine) + tries*h.count(from, to, killDaemon, stopDaemon, fillDisk)
	}
	return r.Response.Status == 503 && losses >= tries*tries
}

func batchCancels(h *history, f *finding) {
	for _, b := range h.batches {
		last := b.last()
		for i, p := range b.cancels {
			v, is := b.view(p)
			f.judged += count(is || p.status == 409)
			switch {
			case p.status == 409 && last.Status != statusCompleted:
				f.breach("%s: a cancel was a conflict, and the batch is %s", b.plan.id, last.Status)
			case !is && !slices.Contains([]int{0, 409, 429, 503}, p.status):
				f.breach("%s: a cancel was answered with %d: %s", b.plan.id, p.status, p.body)
			case !is:
				continue
			}
			if v.Status != "cancelling" && v.Status != statusCancelled || last.Status != statusCancelled {
				f.breach("%s: a cancel answered that it is %s, and it is %s", b.plan.id, v.Status, last.Status)
			}
			if last.Counts.Completed < v.Counts.Completed {
				f.breach("%s: %d lines had an answer when it was canceled, and %d have one", b.plan.id, v.Counts.Completed, last.Counts.Completed)
			}
			for _, r := range b.rows() {
				if r.Response == nil {
					continue
				}
				if s := h.states[r.Response.RequestID]; s != nil && s.StartedAt.After(p.at) {
					f.breach("%s: %s was started %s behind cancel %d", b.plan.id, r.CustomID, s.StartedAt.Sub(p.at), i)
				}
			}
		}
	}
}
