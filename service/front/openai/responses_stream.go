// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"math"
	"net/http"
	"slices"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// response serves /v1/responses.
func (f *Front) response(w http.ResponseWriter, r *http.Request) error {
	var in responseRequest
	body, err := lenient.Decode(r, &in)
	if err != nil {
		return err
	}
	earlier := f.earlier(r.Context())
	q, err := in.request(earlier)
	if err != nil { // what it goes on from may have been deleted since it came first
		asked, ok := f.x.Asked(r, body)
		if !ok {
			return err
		}
		q = asked
	}
	head := in.head(q)
	var terms exchange.Terms
	if in.kept() {
		terms = exchange.Terms{Kept: true, Alone: in.Background, Reply: exchange.JSON(reply{Head: head, Chain: earlier.chain})}
	}
	a, err := f.x.SubmitOn(w, r, q, body, terms)
	if err != nil {
		return in.names.Err(err)
	}
	made := newResponse(a.ID, a.Created, head)
	switch {
	case in.Stream:
		events := newResponseEvents(made, in.Background)
		events.returns = in.Background
		return a.Stream(w, r, events, responseSSE{events: events})
	case in.Background:
		a.Leave()
		return f.begun(w, r, a, made)
	}
	return a.Whole(w, r, f.took(w, func(t task.Transcript, end *task.End) any {
		return made.show(task.Record{State: task.Completed, Transcript: t, End: end, FinishedAt: a.Ended})
	}))
}

// begun answers that a response has begun. A client that repeats its request hears how far it is.
func (f *Front) begun(w http.ResponseWriter, r *http.Request, a *exchange.Answer, made *response) error {
	of := task.Record{State: task.Queued}
	if a.Joins {
		var err error
		if of, _, err = f.x.Record(r.Context(), a.ID); err != nil {
			return err
		}
	}
	f.x.Write(w, http.StatusOK, made.show(of))
	return nil
}

// responseEvents encodes a task's events as those of a response. A token costs no allocation but the room for the text, which later events
// repeat. Their numbers and bytes depend on what the task's record has of it alone, so that they can be sent anew.
type responseEvents struct {
	*response

	background bool   // it is queued first
	returns    bool   // the client can read on by another request
	after      int    // the number of the last event that the client has; -1: none
	next       int    // the number of the next event
	running    bool   // the client was told so
	told       bool   // the client was told its place in line
	open       string // what each event of the open item's text begins with
	w          jx.Writer
}

func newResponseEvents(of *response, background bool) *responseEvents {
	return &responseEvents{response: of, background: background, after: -1}
}

// Append implements delivery.Encoder.
func (s *responseEvents) Append(b []byte, e task.Event) []byte {
	if e.Index == delivery.Aside && s.returns { // the response goes on, and its client comes back
		return b
	}
	s.w.Buf = b
	s.tell(e)
	if e.Kind == task.EventEnd || e.Kind == task.EventError {
		s.missing()
	}
	b, s.w.Buf = s.w.Buf, nil
	return b
}

// tell sends what a task's event is in the dialect.
func (s *responseEvents) tell(e task.Event) {
	switch e.Kind {
	case task.EventStarted:
		s.begin()
	case task.EventText, task.EventReasoning, task.EventToolCall:
		s.runs()
		s.piece(e)
	case task.EventEnd:
		s.runs()
		s.end(e)
	case task.EventError:
		status, failure := errorOfEnd(e.Err)
		s.snapshot("response.failed", status, e, failure)
	}
}

// begin sends what every response begins with.
func (s *responseEvents) begin() {
	if s.background {
		s.snapshot("response.created", statusQueued, task.Event{}, nil)
		s.snapshot("response.queued", statusQueued, task.Event{}, nil)
		return
	}
	s.snapshot("response.created", statusInProgress, task.Event{}, nil)
	s.runs()
}

// runs sends that the response is in progress, once.
func (s *responseEvents) runs() {
	if !s.running {
		s.running = true
		s.snapshot("response.in_progress", statusInProgress, task.Event{}, nil)
	}
}

// missing tells a client that it has more events than the response came to: a run of the orchestrator that is lost had sent them.
func (s *responseEvents) missing() {
	last := s.next - 1
	if s.after <= last {
		return
	}
	s.next = s.after + 1
	s.event("error")
	s.w.RawStr(`,"code":"invalid_value","message":`)
	s.w.Str(beyond(s.after, last))
	s.w.RawStr(`,"param":"starting_after"`)
	s.close()
}

// most is more than one of a task's events becomes, but for the terminal one.
const most = 8

// pass counts the events that the client has. It stops where one may be missing, and returns what follows.
func (s *responseEvents) pass(all task.Events) task.Events {
	for ; s.next+most <= s.after && all.Len() > 0; all.From++ {
		e := all.At(0)
		if e.Kind == task.EventEnd || e.Kind == task.EventError {
			break
		}
		s.tell(e)
		if e.Kind == task.EventText && len(all.Marks) == 0 && all.Logprobs == nil {
			s.passText(&all)
		}
	}
	return all
}

// passText passes what follows a piece of the answer in a transcript that is nothing but text, at once: a long answer has thousands of pieces.
func (s *responseEvents) passText(all *task.Events) {
	begin := all.Ends[all.From-1]
	end := begin
	for ; s.next+most <= s.after && all.From < len(all.Ends); all.From++ {
		if to := all.Ends[all.From]; to > end { // an empty piece becomes no event
			s.next++
			end = to
		}
	}
	i := &s.items[s.at]
	i.text = append(i.text, all.Text[begin:end]...)
}

// last is the number of the last event, where rest is what pass returned; -1: there is none. If the client lacks more than it has, it is that of an earlier one.
func (s *responseEvents) last(rest task.Events) int {
	probe, of := *s, *s.response
	of.items = slices.Clone(of.items)
	probe.response, probe.after = &of, math.MaxInt // none is sent
	for e := range rest.All() {
		if probe.next > s.after {
			break
		}
		e.Text = e.Text[:min(len(e.Text), 1)] // only whether there is any matters
		probe.tell(e)
	}
	return probe.next - 1
}

// event begins an event, up to the fields that are its own.
func (s *responseEvents) event(name string) {
	s.w.RawStr("event: ")
	s.w.RawStr(name)
	s.w.RawStr("\ndata: {\"type\":\"")
	s.w.RawStr(name)
	s.w.RawStr("\"")
}

// close ends an event with its number.
func (s *responseEvents) close() {
	s.number(s.next)
	s.next++
}

// has reports whether the client has the next event. Then that is counted, and need not be written: some have the whole text.
func (s *responseEvents) has() bool {
	has := s.next <= s.after
	if has {
		s.next++
	}
	return has
}

func (s *responseEvents) number(n int) {
	s.w.RawStr(`,"sequence_number":`)
	s.w.Int(n)
	s.w.RawStr("}\n\n")
}

// snapshot sends an event that has the response in it. E is the event of the task that ended it, where there is one.
func (s *responseEvents) snapshot(name, status string, e task.Event, failure *errorView) {
	if s.has() {
		return
	}
	s.event(name)
	s.w.RawStr(`,"response":`)
	s.write(&s.w, status, e.At, e.End, failure)
	s.close()
}

// piece sends what a piece adds. An empty one may only begin an item.
func (s *responseEvents) piece(e task.Event) {
	before := s.at
	begun := s.take(e.Kind, e.Call, e.Text, e.Logprobs)
	if begun {
		if before != s.at && s.items[before].kind != task.EventToolCall {
			s.done(before, statusCompleted)
		}
		s.added()
	}
	if begun || before != s.at {
		s.prepare()
	}
	if len(e.Text) == 0 || s.has() {
		return
	}
	s.w.RawStr(s.open)
	s.w.ByteStr(e.Text)
	if e.Kind == task.EventText {
		s.logprobs(e.Logprobs)
	}
	s.close()
}

// logprobs writes those of a delta, or of all.
func (s *responseEvents) logprobs(list string) {
	s.w.RawStr(`,"logprobs":`)
	if list == "" {
		s.w.RawStr("[]")
		return
	}
	s.w.Buf = append(s.w.Buf, deltaLogprobs(list)...)
}

// added sends that the item at hand has begun.
func (s *responseEvents) added() {
	i := &s.items[s.at]
	if !s.has() {
		s.event("response.output_item.added")
		s.w.RawStr(`,"output_index":`)
		s.w.Int(s.at)
		s.w.RawStr(`,"item":`)
		fresh := item{kind: i.kind, call: i.call, id: i.id}
		fresh.write(&s.w, statusInProgress)
		s.close()
	}
	if i.kind != task.EventToolCall && !s.has() {
		s.event("response.content_part.added")
		s.in(s.at)
		s.w.RawStr(`,"part":`)
		i.part(&s.w, nil)
		s.close()
	}
}

// in names the item, and the part of it, that an event is about.
func (s *responseEvents) in(at int) {
	i := &s.items[at]
	s.w.RawStr(`,"item_id":`)
	s.w.Str(i.id)
	s.w.RawStr(`,"output_index":`)
	s.w.Int(at)
	if i.kind != task.EventToolCall {
		s.w.RawStr(`,"content_index":0`)
	}
}

// texts names the events of each kind of item's text.
var texts = map[task.EventKind]string{
	task.EventText: "response.output_text", task.EventReasoning: "response.reasoning_text", task.EventToolCall: "response.function_call_arguments",
}

// prepare makes the beginning that all events of the item's text have.
func (s *responseEvents) prepare() {
	b := s.w.Buf
	s.w.Buf = nil
	s.event(texts[s.items[s.at].kind] + ".delta")
	s.in(s.at)
	s.w.RawStr(`,"delta":`)
	s.open, s.w.Buf = string(s.w.Buf), b
}

// done sends that an item has ended, with all of its text.
func (s *responseEvents) done(at int, status string) {
	i := &s.items[at]
	i.closed = true
	if !s.has() {
		s.said(at)
	}
	if i.kind != task.EventToolCall && !s.has() {
		s.event("response.content_part.done")
		s.in(at)
		s.w.RawStr(`,"part":`)
		i.part(&s.w, i.text)
		s.close()
	}
	if !s.has() {
		s.event("response.output_item.done")
		s.w.RawStr(`,"output_index":`)
		s.w.Int(at)
		s.w.RawStr(`,"item":`)
		i.write(&s.w, status)
		s.close()
	}
}

// said sends all of an item's text.
func (s *responseEvents) said(at int) {
	i := &s.items[at]
	s.event(texts[i.kind] + ".done")
	s.in(at)
	if i.kind == task.EventToolCall {
		s.w.RawStr(`,"name":`)
		s.w.Str(i.call.Name)
		s.w.RawStr(`,"arguments":`)
	} else {
		s.w.RawStr(`,"text":`)
	}
	s.w.ByteStr(i.text)
	if i.kind == task.EventText {
		s.logprobs(task.JoinLogprobs(i.lists))
	}
	s.close()
}

// end sends that what is open has ended, the whole response, and the receipt.
func (s *responseEvents) end(e task.Event) {
	if s.speak() {
		s.added()
	}
	status := ended(e.End)
	for at := range s.items {
		if !s.items[at].closed {
			s.done(at, s.output.status(at, status))
		}
	}
	if s.snapshot("response."+status, status, e, nil); s.next-1 > s.after {
		s.w.Buf = exchange.AppendReceipt(s.w.Buf, &e.End.Receipt)
	}
}

// failureOf is an error in the words that a response has for it.
func failureOf(err *task.Error) errorView {
	v := errorOf(err).Error
	switch {
	case v.Code == tooLong || v.Code == "rate_limit_exceeded":
	case v.Type == badRequest:
		v.Code = "invalid_prompt"
	default:
		v.Code = "server_error"
	}
	return v
}

// responseSSE implements delivery.Dialect. A client that waits gets comments, and now and then an event: some clients give up after five
// minutes without one, and take no comment for one. OpenAI's API has that event too.
type responseSSE struct {
	sse

	events *responseEvents
}

// Metrics is delivery.Dialect's.
func (d responseSSE) Metrics(b []byte, m task.Metrics) ([]byte, error) {
	before := len(b)
	b, err := d.sse.Metrics(b, m)
	if err != nil || len(b) == before {
		return b, err
	}
	if d.events.told { // the first time is soon
		b = d.KeepAlive(b)
	}
	d.events.told = true
	return b, nil
}

// KeepAlive is delivery.Dialect's. It repeats the number of the last event: it has none of its own, since nobody can say later when it was sent.
func (d responseSSE) KeepAlive(b []byte) []byte {
	s := d.events
	s.w.Buf = b
	s.event("keepalive")
	s.number(max(s.next-1, s.after, 0))
	b, s.w.Buf = s.w.Buf, nil
	return b
}

// Error is delivery.Dialect's.
func (d responseSSE) Error(b []byte, e *task.Error) ([]byte, error) {
	return d.events.Append(b, task.Event{Kind: task.EventError, Index: delivery.Aside, Err: e}), nil
}
