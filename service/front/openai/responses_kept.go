// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// keptCalls are the calls of a response that is kept, by what stands behind its id, and by method.
func (f *Front) keptCalls() map[string]map[string]func(http.ResponseWriter, *http.Request, *kept) error {
	return map[string]map[string]func(http.ResponseWriter, *http.Request, *kept) error{
		"":            {http.MethodGet: f.retrieve, http.MethodDelete: f.remove},
		"cancel":      {http.MethodPost: f.cancel},
		"input_items": {http.MethodGet: f.inputItems},
	}
}

// later serves what lies under /v1/responses/.
func (f *Front) later(w http.ResponseWriter, r *http.Request) error {
	id, call, _ := strings.Cut(exchange.Under(r, keptPath), "/")
	methods := f.keptCalls()[call]
	serve := methods[r.Method]
	switch {
	case methods == nil || !strings.HasPrefix(id, responsePrefix) && serve == nil:
		return exchange.NoPath(r)
	case serve == nil:
		return exchange.NoMethod(w, r, methods)
	}
	k, err := f.kept(r.Context(), id)
	if err != nil {
		return err
	}
	return serve(w, r, k)
}

// retrieve serves GET /v1/responses/{id}.
func (f *Front) retrieve(w http.ResponseWriter, r *http.Request, k *kept) error {
	query := r.URL.Query()
	streamed, err := flag(query, "stream")
	if err != nil {
		return err
	}
	if r.ContentLength != 0 { // the SDK for Go asks for a stream so
		var in struct {
			Stream bool `json:"stream"`
		}
		if _, err := lenient.Decode(r, &in); err != nil {
			return err
		}
		streamed = streamed || in.Stream
	}
	after, err := startingAfter(query)
	if err != nil {
		return err
	}
	if !streamed {
		f.x.Show(w, k.Record, k.response().show(k.Record))
		return nil
	}
	events := k.events(after)
	rest := events.pass(k.Events())
	if last := events.last(rest); after > last && !k.again {
		return lenient.Bad(afterParam, "%s", beyond(after, last))
	}
	if !k.State.Final() { // it says more by now, or says it again
		rest.From, events = 0, k.events(after)
	}
	return f.x.Again(w, r, k.Record, rest.From, events, responseSSE{events: events})
}

// events encodes a response anew for a client who has its events up to number after.
func (k *kept) events(after int) *responseEvents {
	events := newResponseEvents(k.response(), k.told.Background)
	events.returns, events.after = true, after
	return events
}

// flag is a parameter of a query that is true or false, and false where it is missing.
func flag(query url.Values, name string) (bool, error) {
	text := query.Get(name)
	if text == "" {
		return false, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, lenient.Bad(name, "it must be true or false, not %q", task.Clip(text, maxQuote))
	}
	return v, nil
}

const afterParam = "starting_after"

// startingAfter is the number of the last event that the client has; -1: none.
func startingAfter(query url.Values) (int, error) {
	if !query.Has(afterParam) {
		return -1, nil
	}
	text := query.Get(afterParam)
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 {
		return 0, lenient.Bad(afterParam, "it must be the `sequence_number` of an event, a whole number from 0, not %q", task.Clip(text, maxQuote))
	}
	return int(n), nil
}

// beyond says that a response has fewer events than its client.
func beyond(after, last int) string {
	return fmt.Sprintf("this response has no event %d: its last one is number %d. Leave `%s` out to read it from the start", after, last, afterParam)
}

// cancel serves POST /v1/responses/{id}/cancel.
func (f *Front) cancel(w http.ResponseWriter, r *http.Request, k *kept) error {
	if batch := k.Task.Request.BatchID; batch != "" {
		return task.Errorf(task.InvalidParams, "This response is of a line of a batch, and ends with it: cancel %s", batch)
	}
	if !k.told.Background {
		return task.Errorf(task.InvalidParams, "Cannot cancel a synchronous response: it ends when its client closes the connection. Only one with `background: true` is canceled so")
	}
	if err := f.x.Cancel(r.Context(), k.Task.ID); err != nil {
		return err
	}
	k, err := f.kept(r.Context(), responsePrefix+k.Task.ID)
	if err != nil {
		return err
	}
	f.x.Show(w, k.Record, k.response().show(k.Record))
	return nil
}

type deletion struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Deleted bool   `json:"deleted"`
}

// remove serves DELETE /v1/responses/{id}.
func (f *Front) remove(w http.ResponseWriter, r *http.Request, k *kept) error {
	if !k.State.Final() {
		if err := f.x.Cancel(r.Context(), k.Task.ID); err != nil {
			return err
		}
	}
	if err := f.x.Delete(r.Context(), k.Task.ID); err != nil {
		return err
	}
	f.x.Write(w, http.StatusOK, deletion{responsePrefix + k.Task.ID, "response", true})
	return nil
}
