// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"net/http"
	"strings"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/task"
)

// response serves /v1/responses.
func (f *Front) response(w http.ResponseWriter, r *http.Request) error {
	var in responseRequest
	a, q, err := f.submit(w, r, &in, &in.names)
	if err != nil {
		return err
	}
	made := newResponse(a.ID, f.x.Now().Unix(), &in, q)
	if in.Stream {
		events := &responseEvents{response: made, now: func() int64 { return f.x.Now().Unix() }}
		return a.Stream(w, r, events, responseSSE{events: events})
	}
	return a.Whole(w, r, f.took(w, func(t task.Transcript, end *task.End) any { return made.whole(t, end, f.x.Now().Unix()) }))
}

// kept refuses what only a server that keeps responses can do.
func (f *Front) kept(_ http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost && !strings.HasSuffix(r.URL.Path, "/cancel") {
		return task.Errorf(task.NotFound, "there is no path %q", task.Clip(r.URL.Path, 100))
	}
	return task.Errorf(task.NotFound, "no response is kept here for a later request: take it from the answer in which it came")
}

// responseEvents encodes a task's events as those of a response. A token costs no allocation but the room for the text, which later events
// repeat.
type responseEvents struct {
	*response

	now  func() int64
	next int    // the sequence number of the next event
	told bool   // the client was told its place in line
	open string // what each event of the open item's text begins with
	w    jx.Writer
}

// Append implements delivery.Encoder.
func (s *responseEvents) Append(b []byte, e task.Event) []byte {
	s.w.Buf = b
	switch e.Kind {
	case task.EventStarted:
		s.snapshot("response.created", statusInProgress, nil, nil)
		s.snapshot("response.in_progress", statusInProgress, nil, nil)
	case task.EventText, task.EventReasoning, task.EventToolCall:
		s.piece(e)
	case task.EventEnd:
		s.end(e.End)
	case task.EventError:
		failure := failureOf(e.Err)
		s.snapshot("response.failed", statusFailed, nil, &failure)
	}
	b, s.w.Buf = s.w.Buf, nil
	return b
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
	s.w.RawStr(`,"sequence_number":`)
	s.w.Int(s.next)
	s.next++
	s.w.RawStr("}\n\n")
}

// snapshot sends an event that has the response in it.
func (s *responseEvents) snapshot(name, status string, end *task.End, failure *errorView) {
	s.event(name)
	s.w.RawStr(`,"response":`)
	s.write(&s.w, status, s.now(), end, failure)
	s.close()
}

// piece sends what a piece adds. An empty one may only begin an item.
func (s *responseEvents) piece(e task.Event) {
	before := s.at
	begun := s.take(e.Kind, e.Call, e.Text)
	if begun {
		if before != s.at && s.items[before].kind != task.EventToolCall {
			s.done(before, statusCompleted)
		}
		s.added()
	}
	if begun || before != s.at {
		s.prepare()
	}
	if len(e.Text) == 0 {
		return
	}
	s.w.RawStr(s.open)
	s.w.ByteStr(e.Text)
	if e.Kind == task.EventText {
		s.w.RawStr(`,"logprobs":[]`)
	}
	s.close()
}

// added sends that the item at hand has begun.
func (s *responseEvents) added() {
	i := &s.items[s.at]
	s.event("response.output_item.added")
	s.w.RawStr(`,"output_index":`)
	s.w.Int(s.at)
	s.w.RawStr(`,"item":`)
	fresh := item{kind: i.kind, call: i.call, id: i.id}
	fresh.write(&s.w, statusInProgress)
	s.close()
	if i.kind != task.EventToolCall {
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
		s.w.RawStr(`,"logprobs":[]`)
	}
	s.close()
	if i.kind != task.EventToolCall {
		s.event("response.content_part.done")
		s.in(at)
		s.w.RawStr(`,"part":`)
		i.part(&s.w, i.text)
		s.close()
	}
	s.event("response.output_item.done")
	s.w.RawStr(`,"output_index":`)
	s.w.Int(at)
	s.w.RawStr(`,"item":`)
	i.write(&s.w, status)
	s.close()
}

// end sends that what is open has ended, the whole response, and the receipt.
func (s *responseEvents) end(end *task.End) {
	if s.speak() {
		s.added()
	}
	status := ended(end)
	for at := range s.items {
		if !s.items[at].closed {
			s.done(at, s.output.status(at, status))
		}
	}
	s.snapshot("response."+status, status, end, nil)
	s.w.Buf = exchange.AppendReceipt(s.w.Buf, &end.Receipt)
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

// KeepAlive is delivery.Dialect's.
func (d responseSSE) KeepAlive(b []byte) []byte {
	s := d.events
	s.w.Buf = b
	s.event("keepalive")
	s.close()
	b, s.w.Buf = s.w.Buf, nil
	return b
}

// Error is delivery.Dialect's.
func (d responseSSE) Error(b []byte, e *task.Error) ([]byte, error) {
	return d.events.Append(b, task.Event{Kind: task.EventError, Err: e}), nil
}
