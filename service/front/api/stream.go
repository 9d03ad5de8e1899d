// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// StreamTask serves a task's events (ORCH-2002, LO-201). An error that it returns is told with a status. What goes wrong later is
// told in the stream (OC-CTRL-2034).
func (h tasks) StreamTask(ctx context.Context, p gen.StreamTaskParams, w http.ResponseWriter) error {
	after := string(p.LastEventID.Or(p.After.Or("")))
	if strings.HasPrefix(after, asideID) { // the client was told to come back from the start, or not at all
		if _, err := h.Tasks.Get(ctx, string(p.ID)); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if after != "" && h.over(ctx, string(p.ID), after) {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if gate.CallFrom(ctx).Head { // who subscribes and leaves may cancel the task
		if _, err := h.Tasks.Get(ctx, string(p.ID)); err != nil {
			return err
		}
		delivery.Head(w, native{})
		return nil
	}
	s, err := h.Tasks.Subscribe(ctx, string(p.ID), after)
	if err != nil {
		e := task.AsError(err)
		if !gate.StreamOnly(e.Code) {
			return err
		}
		s = delivery.Refusal(e)
	}
	return h.Streams.Deliver(w, callFrom(ctx).request, s, native{})
}

// over reports whether an event is a task's last, so that there is nothing behind it (LO-827).
func (h tasks) over(ctx context.Context, id, event string) bool {
	s, err := h.Tasks.Get(ctx, id) // who subscribes hears what is wrong
	return err == nil && (s.End != nil || s.Err != nil) && s.LastEventID == event
}

// resume settles which event a stream's client saw last. A browser that comes back adds the header Last-Event-ID to the address it
// was given, `?after=` included, so the header wins. An empty one is none (LO-826).
func resume(r *http.Request) {
	query := r.URL.Query()
	if query.Get("after") == "" || r.Header.Get("Last-Event-ID") != "" {
		if query.Has("after") {
			query.Del("after")
			r.URL.RawQuery = query.Encode()
		}
	}
	if r.Header.Get("Last-Event-ID") == "" {
		r.Header.Del("Last-Event-ID")
	}
}

// asideID begins the id of an error that ends one stream, and not its task. No log has so many events. A browser names it when it comes
// back, and is told that there is nothing more (LO-827).
const asideID = "999999999999999999-"

// native words what a native stream has beside the events of its log.
type native struct{}

// ContentType is delivery.Dialect's.
func (native) ContentType() string { return "text/event-stream" }

// Every is delivery.Dialect's.
func (native) Every() int { return 1 }

// Metrics is delivery.Dialect's (OC-CTRL-2023).
func (native) Metrics(b []byte, m task.Metrics) ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode figures: %w", err)
	}
	return fmt.Appendf(b, "event: metrics\ndata: %s\n\n", data), nil
}

// Error is delivery.Dialect's. The hash of the id is over this one event.
func (native) Error(b []byte, e *task.Error) ([]byte, error) {
	data, err := json.Marshal(e.Envelope())
	if err != nil {
		return nil, fmt.Errorf("encode an error: %w", err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "error\n%s\n", data))
	return fmt.Appendf(b, "id: %s%x\nevent: error\ndata: %s\n\n", asideID, sum[:4], data), nil
}

// KeepAlive is delivery.Dialect's.
func (native) KeepAlive(b []byte) []byte { return append(b, ": keep-alive\n\n"...) }
