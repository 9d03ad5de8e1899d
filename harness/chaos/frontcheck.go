// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
)

func frontsAccepted(h *history, f *finding) {
	for id, s := range h.states {
		f.judged++
		switch {
		case s == nil:
			f.breach("a front told that it has task %s, and the daemon does not know it", id)
		case !s.over():
			f.breach("task %s of a front is still %s", id, s.State)
		}
	}
	for _, c := range h.chats {
		for _, a := range c.heard {
			s := h.states[a.task]
			if !a.answers() || s == nil {
				continue
			}
			switch got := a.said(c.plan.kind); {
			case got.done && s.State != "completed":
				f.breach("%s: client %d has the whole answer of task %s, which is %s", c.plan.id, a.client, a.task, s.State)
			case got.fault != nil && s.State == "completed" && !h.stoppedWithin(a):
				f.breach("%s: client %d was told %q of task %s, which is completed", c.plan.id, a.client, got.fault.Message, a.task)
			}
		}
	}
	for _, r := range h.responses {
		if r.id == "" {
			continue
		}
		f.judged++
		if v, is := viewOf[responseView](poll{status: 200, body: r.last}); !is || !v.over() {
			f.breach("%s: response %s is at the end %.200s", r.plan.id, r.id, r.last)
		}
		for _, v := range r.views {
			if strings.HasPrefix(v.discarded, lost) {
				f.breach("%s: reader %d of response %s was told %s", r.plan.id, v.reader, r.id, v.discarded)
			}
		}
	}
	for _, b := range h.batches {
		if b.file != "" {
			f.judged++
			if b.content != b.plan.file() && b.id != "" {
				f.breach("%s: file %s is not what was sent: %.200q", b.plan.id, b.file, b.content)
			}
			if !slices.Contains(h.files, b.file) {
				f.breach("%s: file %s is not in the list", b.plan.id, b.file)
			}
		}
		if b.id != "" {
			f.judged++
			if b.unknown || !batchOver(b.last().Status) {
				f.breach("%s: batch %s is at the end %q", b.plan.id, b.id, b.last().Status)
			}
		}
	}
}

// stoppedWithin reports whether a stop of the daemon may have broken the answer off. Its client is told an error then, and the task goes on in the next life.
func (h *history) stoppedWithin(a *heard) bool {
	return h.count(a.sent.Add(-stopLasts), a.at, stopDaemon) > 0
}

// frontsAnswered judges that each client had its answer in the end. Those who left for good want none.
func frontsAnswered(h *history, f *finding) {
	for _, c := range h.chats {
		for n, p := range c.plan.clients {
			f.judged++
			at := -1
			for i, a := range c.heard {
				if a.client == n {
					at = i
				}
			}
			switch {
			case at < 0:
				f.breach("%s: client %d was not heard", c.plan.id, n)
			case !c.heard[at].said(c.plan.kind).done && (!p.leaves || !c.heard[at].left):
				f.breach("%s: client %d has no answer; the last it was told is %d %.200s", c.plan.id, n, c.heard[at].status, c.heard[at].bytes())
			}
		}
	}
	for _, r := range h.responses {
		f.judged++
		if r.id == "" {
			f.breach("%s: the response was never accepted", r.plan.id)
		}
	}
	for _, b := range h.batches {
		f.judged++
		if b.results == nil {
			f.breach("%s: its client did not see the end of batch %q; it was told %.300v", b.plan.id, b.id, b.asked)
		}
	}
}

func strictAnswers(h *history, f *finding) { answers(h, f, true) }

func looseAnswers(h *history, f *finding) { answers(h, f, false) }

// answers compares every text that clients have with the one that it must be, or must be the beginning of.
func answers(h *history, f *finding, strict bool) {
	compare := func(id string, s said, want *string) {
		if !strict {
			want = &looseText
		}
		switch {
		case s.text == "" && !s.done:
		case want == nil:
			f.breach("%s sent a text, and there is no undisturbed run of it", id)
		case s.done && s.text != *want, !strings.HasPrefix(*want, s.text):
			f.judged++
			f.breach("%s sent %q, undisturbed it is %q", id, s.text, *want)
		default:
			f.judged++
		}
	}
	for _, c := range h.chats {
		for _, a := range c.heard {
			if c.plan.strict == strict && a.answers() {
				compare(c.plan.id, a.said(c.plan.kind), c.calm)
			}
		}
	}
	for _, r := range h.responses {
		if r.plan.strict != strict {
			continue
		}
		for _, v := range r.views {
			compare(r.plan.id, dialects[response].read(v.frames), r.calm)
		}
		if v, is := viewOf[responseView](poll{status: 200, body: r.last}); is {
			compare(r.plan.id, said{text: v.text(), done: v.Status == statusCompleted || v.Status == statusIncomplete}, r.calm)
		}
	}
	for _, b := range h.batches {
		rows := b.rows()
		for _, l := range b.plan.lines {
			row := rowOf(rows, l.customID)
			if l.broken != "" || l.strict != strict || row == nil || row.Response == nil || row.Response.Status != 200 {
				continue
			}
			want, has := b.calm[l.customID]
			to := &want
			if !has {
				to = nil
			}
			compare(b.plan.id+", "+l.customID, dialects[b.plan.kind].readWhole(string(row.Response.Body)), to)
		}
	}
}

func receipts(h *history, f *finding) {
	judge := func(id string, s said) {
		if !s.done {
			return
		}
		f.judged++
		if sum := sha256.Sum256([]byte(s.text)); s.sum != hex.EncodeToString(sum[:]) {
			f.breach("%s is %q, and its receipt has the SHA-256 %q", id, s.text, s.sum)
		}
	}
	for _, c := range h.chats {
		for _, a := range c.heard {
			judge(c.plan.id, a.said(c.plan.kind))
		}
	}
	for _, r := range h.responses {
		if r.stream != nil {
			judge(r.plan.id, r.stream.said(response))
		}
	}
}

func keyed(h *history, f *finding) {
	for _, c := range h.chats {
		if c.plan.key == "" {
			continue
		}
		var answer *heard
		for _, a := range c.heard {
			if !a.answers() {
				continue
			}
			f.judged++
			s := h.states[a.task]
			switch {
			case a.task == "":
				f.breach("%s: client %d was not told the task of its answer", c.plan.id, a.client)
			case s == nil || s.State != "completed": // it ended without an answer, and the key went on to another task
			case answer == nil || len(answer.bytes()) < len(a.bytes()) && answer.task == a.task:
				answer = a
			case answer.task != a.task:
				f.breach("%s: the tasks %s and %s have its key, and both have an answer", c.plan.id, answer.task, a.task)
			}
		}
		for _, a := range c.heard {
			if answer == nil || !a.answers() || a.task != answer.task {
				continue
			}
			same := a.bytes() == answer.bytes()
			if got := a.said(c.plan.kind); got.fault != nil && h.stoppedWithin(a) {
				same = !a.streamed || strings.HasPrefix(answer.bytes(), strings.Join(a.frames[:len(a.frames)-1], "")) // but for the error event
			} else if !got.done {
				same = strings.HasPrefix(answer.bytes(), a.bytes())
			} else if !answer.said(c.plan.kind).done {
				continue
			}
			if a.streamed != answer.streamed && a.bytes() != "" || !same {
				f.breach("%s: under its key one client has %q, and client %d %q", c.plan.id, answer.bytes(), a.client, a.bytes())
			}
		}
	}
	for _, r := range h.responses {
		if r.plan.key == "" || r.id == "" {
			continue
		}
		last, _ := viewOf[responseView](poll{status: 200, body: r.last})
		for _, a := range r.asked {
			if !a.answers() || a.task == "" {
				continue
			}
			f.judged++
			if responsePrefix+a.task != r.id && last.Status != statusFailed && last.Status != statusCancelled {
				f.breach("%s: its key has the response %s, which is %s, and task %s", r.plan.id, r.id, last.Status, a.task)
			}
		}
	}
}

// events are the numbered frames of a stream: all but the receipt.
func events(frames []string) []string {
	return slices.DeleteFunc(slices.Clone(frames), func(frame string) bool { return strings.HasPrefix(frame, ":") })
}

func sameNumbers(h *history, f *finding) {
	for _, r := range h.responses {
		if r.id == "" || r.stream == nil {
			continue
		}
		whole := events(r.stream.frames)
		last, _ := viewOf[responseView](poll{status: 200, body: r.last})
		complete := last.Status == statusCompleted || last.Status == statusIncomplete
		for i, frame := range whole {
			if n := numberOf(frame); n != i {
				f.breach("%s: event %d of the stream has the number %d: %q", r.plan.id, i, n, frame)
			}
		}
		for _, v := range r.views {
			if len(v.frames) == 0 {
				continue
			}
			f.judged++
			// If a daemon ended, and its response then ended in another way, what that daemon had sent behind the record is lost, and so readers are told.
			cut := !complete && h.count(v.at[0], h.endOf(r), killDaemon, stopDaemon) > 0
			if v.discarded != "" && !strings.HasPrefix(v.discarded, lost) && !cut {
				f.breach("%s, which is %s: reader %d had to discard %d events: %s", r.plan.id, last.Status, v.reader, len(v.frames), v.discarded)
			}
			for i, frame := range v.frames {
				if cut && i >= len(whole)-1 {
					break
				}
				if n := numberOf(frame); n != i {
					f.breach("%s: reader %d has event %d at the place of %d", r.plan.id, v.reader, n, i)
					break
				}
				if i >= len(whole) || frame != whole[i] {
					f.breach("%s: reader %d has %q, where the stream has %q", r.plan.id, v.reader, frame, append(whole, "nothing")[min(i, len(whole))])
					break
				}
			}
			if v.over && !cut && len(v.frames) != len(whole) {
				f.breach("%s: reader %d has an end behind %d events, and the stream has %d", r.plan.id, v.reader, len(v.frames), len(whole))
			}
		}
	}
}

// endOf is when a response had ended, as the native API says.
func (h *history) endOf(r *responseRecord) time.Time {
	if s := h.states[strings.TrimPrefix(r.id, responsePrefix)]; s != nil {
		return s.Finished
	}
	return time.Time{}
}

// numberOf is the number of an event of a response; -1: it has none.
func numberOf(frame string) int {
	var e numbered
	if _, data, ok := parts(frame); !ok || into([]byte(data), &e) != nil || e.Number == nil {
		return -1
	}
	return *e.Number
}

func responseLooks(h *history, f *finding) {
	for _, r := range h.responses {
		if r.id == "" || r.stream == nil {
			continue
		}
		f.judged++
		want := strings.TrimSpace(r.last)
		last, _ := viewOf[responseView](poll{status: 200, body: want})
		if got := finalOf(r.stream.frames); got != want {
			f.breach("%s: its stream ended with %.300q, and it is %.300q", r.plan.id, got, want)
		}
		if s := dialects[response].read(r.stream.frames); s.done && s.parts != s.text {
			f.breach("%s: its pieces are %q, and its text is %q", r.plan.id, s.parts, s.text)
		}
		for _, v := range r.views {
			if got := finalOf(v.frames); got != "" && got != want {
				f.breach("%s: for reader %d it ended with %.300q, and it is %.300q", r.plan.id, v.reader, got, want)
			}
		}
		for _, p := range append(slices.Clone(r.polls), r.cancels...) {
			v, is := viewOf[responseView](p)
			switch {
			case !is && (p.status < 400 || slices.Contains([]int{429, 503}, p.status)):
			case !is:
				f.breach("%s: a call was answered with %d: %s", r.plan.id, p.status, p.body)
			case v.over() && strings.TrimSpace(p.body) != want:
				f.breach("%s was once %.300q, and is %.300q", r.plan.id, p.body, want)
			case last.Status == statusCompleted && !strings.HasPrefix(last.text(), v.text()):
				f.breach("%s had said %q, and it says %q", r.plan.id, v.text(), last.text())
			}
		}
		for _, p := range r.cancels {
			if v, is := viewOf[responseView](p); is && !v.over() {
				f.breach("%s: a cancel answered that it is %s", r.plan.id, v.Status)
			}
		}
	}
}

// finalOf is the response in the last event of a stream; empty: it has no last event, or that has no response.
func finalOf(frames []string) string {
	all := events(frames)
	if len(all) == 0 || !terminal(all[len(all)-1]) {
		return ""
	}
	var e numbered
	if _, data, _ := parts(all[len(all)-1]); into([]byte(data), &e) != nil {
		return ""
	}
	return string(e.Response)
}

func frontShapes(h *history, f *finding) {
	judge := func(id, kind string, a *heard) {
		if a.status == 0 {
			return
		}
		f.judged++
		s := a.said(kind)
		switch {
		case a.garbled != "":
			f.breach("%s: %s", id, a.garbled)
		case s.wrong != nil:
			f.breach("%s, answered with %d: %v", id, a.status, s.wrong)
		case s.after:
			f.breach("%s: something stands behind the end of %q", id, a.bytes())
		case a.status >= 400 && a.whole && s.fault == nil:
			f.breach("%s: the refusal %d is no error of its dialect: %s", id, a.status, a.body)
		case a.streamed && a.whole && !s.done && kind != response:
			f.breach("%s: the stream of task %s ends as if it was whole, with %q", id, a.task, a.frames[max(0, len(a.frames)-1):])
		}
	}
	for _, c := range h.chats {
		for _, a := range c.heard {
			judge(c.plan.id, c.plan.kind, a)
		}
	}
	for _, r := range h.responses {
		for _, a := range r.asked {
			judge(r.plan.id, response, a)
		}
		if r.stream != nil {
			judge(r.plan.id, response, r.stream)
		}
		for _, v := range r.views {
			f.judged++
			if s := dialects[response].read(v.frames); s.wrong != nil || s.after {
				f.breach("%s, reader %d: something stands behind the end (%t), or %v", r.plan.id, v.reader, s.after, s.wrong)
			}
			if v.clean {
				f.breach("%s: a stream of reader %d ended as if it was whole, behind %d events", r.plan.id, v.reader, len(v.frames))
			}
		}
	}
}

func frontCauses(h *history, f *finding) {
	refusal := func(id, kind string, a *heard) {
		if a.status < 400 || !a.whole {
			return
		}
		f.judged++
		fault := a.said(kind).fault
		wait, err := strconv.Atoi(a.wait)
		switch {
		case a.again && (a.status != 429 && a.status != 503 || err != nil || wait < 1 || wait > 60):
			f.breach("%s: the refusal %d, which may be repeated, says to wait for %q s: %s", id, a.status, a.wait, a.body)
		case a.again && (fault == nil || !fault.again):
			f.breach("%s: the refusal %d, which may be repeated, does not say so to clients of its dialect: %s", id, a.status, a.body)
		case !a.again && !unanswered(a, kind):
			f.breach("%s was refused for good, with %d: %s", id, a.status, a.body)
		}
	}
	explain := func(id, task string, strict, canceled bool, from time.Time) {
		s := h.states[task]
		if s == nil || s.Error == nil {
			return
		}
		f.judged++
		if why := h.unexplained(s, s.PoolID, strict, canceled, false, from); why != "" {
			f.breach("%s, task %s %s", id, task, why)
		}
	}
	for _, c := range h.chats {
		gone, from := map[string]bool{}, map[string]time.Time{}
		for _, a := range c.heard {
			refusal(c.plan.id, c.plan.kind, a)
			if s := a.said(c.plan.kind); a.answers() && !s.done && s.fault == nil {
				gone[a.task] = true // this client had gone, or its daemon
			}
			if first, has := from[a.task]; !has || a.sent.Before(first) {
				from[a.task] = a.sent
			}
			if s := a.said(c.plan.kind); a.streamed && s.fault != nil && !s.fault.again && !unanswered(a, c.plan.kind) {
				f.breach("%s: a stream failed with %+v, which its client cannot repeat", c.plan.id, *s.fault)
			}
		}
		for task := range gone {
			explain(c.plan.id, task, c.plan.strict, true, from[task])
		}
		for task := range from {
			if !gone[task] {
				explain(c.plan.id, task, c.plan.strict, false, from[task])
			}
		}
	}
	for _, b := range h.batches {
		for _, p := range b.asked {
			f.judged++
			if !slices.Contains([]int{0, 200, 429, 503}, p.status) {
				f.breach("%s was refused with %d: %s", b.plan.id, p.status, p.body)
			}
		}
	}
	for _, r := range h.responses {
		for _, a := range r.asked {
			refusal(r.plan.id, response, a)
			if a.answers() {
				first := slices.MinFunc(r.asked, func(a, b *heard) int { return a.sent.Compare(b.sent) }) // they stand in the order of their ends
				explain(r.plan.id, a.task, r.plan.strict, len(r.cancels) > 0, first.sent)
			}
		}
	}
}
