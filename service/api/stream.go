// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// keepAliveTicks is how many ticks without a write are followed by a comment line.
const keepAliveTicks = 15

var keepAlive = []byte(": keep-alive\n\n")

// StreamTask serves a task's events (ORCH-2002, LO-201). After the first byte it returns nil whatever happens: an error
// would be written into the stream (OC-CTRL-2034).
func (h tasks) StreamTask(ctx context.Context, p gen.StreamTaskParams, w http.ResponseWriter) error {
	after, err := resumePoint(p)
	if err != nil {
		return err
	}
	s, err := h.Tasks.Subscribe(string(p.ID), after)
	if err != nil {
		e := task.AsError(err)
		if !rules[e.Code].streamOnly {
			return err
		}
		s = refusal{e}
	}
	callFrom(ctx).then = func(ctx context.Context) { h.serve(ctx, s, w) }
	return nil
}

// serve sends a subscription's events. It runs once gen's handler has returned: the stack of a stream lasts as long as the
// stream, and the frames of what only its begin needs would double it (.docs/perf.md).
func (h tasks) serve(ctx context.Context, s Stream, w http.ResponseWriter) {
	defer s.Close()
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no")
	out := &sse{w: w, control: http.NewResponseController(w), conn: connFrom(ctx), timeout: h.WriteTimeout}
	defer out.release()
	if err := out.begin(); err != nil {
		h.gone(ctx, err)
		return
	}
	if out.conn != nil {
		s.Direct(out.try)
	}
	if err := h.pump(ctx, s, out); !errors.Is(err, io.EOF) {
		h.gone(ctx, err)
		panic(http.ErrAbortHandler) // the connection must not end as if the stream had
	}
}

func (s *server) gone(ctx context.Context, err error) {
	s.Log.Debug("a stream broke off", zap.String("correlation_id", callFrom(ctx).correlationID), zap.Error(err))
}

func resumePoint(p gen.StreamTaskParams) (string, error) {
	header, inHeader := p.LastEventID.Get()
	query, inQuery := p.After.Get()
	if inHeader && inQuery && header != query {
		return "", task.Errorf(task.InvalidParams,
			"header Last-Event-ID %q and query parameter after %q differ: send one of them, the id of the last event received", header, query)
	}
	if inHeader {
		return string(header), nil
	}
	return string(query), nil
}

// pump moves a subscription's frames to the client until one of them ends. A token costs one write and no allocation;
// metrics frames go out with the first events and then at most once a tick, when a figure has changed.
func (h tasks) pump(ctx context.Context, s Stream, out *sse) error {
	tick, stop := h.Ticker()
	defer stop()
	var shown task.Metrics
	first, idle := true, 0
	for {
		frames, err := s.Next(ctx, tick)
		if ended, ok := errors.AsType[*task.Error](err); ok { // of this stream, not of the task's log: it has no id
			return errors.Join(out.failure(ended), io.EOF)
		}
		if err != nil {
			return err
		}
		if frames != nil {
			err := out.write(frames)
			s.Written()
			if err != nil {
				return err
			}
			idle = 0
			if !first {
				continue
			}
			first = false
		}
		figures, going := s.Metrics()
		switch {
		case going && figures != shown:
			shown = figures
			if err := out.metrics(figures); err != nil {
				return err
			}
			idle = 0
		case frames == nil:
			if idle++; idle < keepAliveTicks {
				continue
			}
			idle = 0
			if err := out.write(keepAlive); err != nil {
				return err
			}
		}
	}
}

// sse writes to one client, each write bounded, so that a client that is gone or stuck frees its goroutine.
type sse struct {
	w       http.ResponseWriter
	control *http.ResponseController
	conn    *conn // nil: nothing is known of it
	timeout time.Duration
	bounded time.Time // when the deadline was set last
}

// begin sends the headers at once: a stream resumed at its end may have no event for long.
func (o *sse) begin() error {
	if err := o.bound(); err != nil {
		return err
	}
	o.w.WriteHeader(http.StatusOK)
	return o.control.Flush()
}

func (o *sse) write(frames []byte) error {
	if err := o.bound(); err != nil {
		return err
	}
	if o.conn != nil {
		if err := o.conn.finish(); err != nil {
			return fmt.Errorf("write to the client: %w", err)
		}
	}
	if _, err := o.w.Write(frames); err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	if err := o.control.Flush(); err != nil {
		return fmt.Errorf("flush to the client: %w", err)
	}
	return nil
}

// try writes what can be written without waiting, and reports whether that was all. Write writes the rest.
func (o *sse) try(frames []byte) bool {
	o.conn.try = true
	err := o.write(frames)
	o.conn.try = false
	return err == nil && len(o.conn.rest) == 0
}

func (o *sse) metrics(m task.Metrics) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode a metrics frame: %w", err)
	}
	return o.write(frame("metrics", data))
}

func (o *sse) failure(e *task.Error) error {
	data, err := json.Marshal(e.Envelope())
	if err != nil {
		return fmt.Errorf("encode an error event: %w", err)
	}
	return o.write(frame("error", data))
}

// bound gives the next write its time. To move the deadline for each token would cost more than to encode it, so it may
// stand for a tenth of that time.
func (o *sse) bound() error {
	now := time.Now()
	if now.Sub(o.bounded) < o.timeout/10 {
		return nil
	}
	o.bounded = now
	err := o.control.SetWriteDeadline(now.Add(o.timeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("bound a write: %w", err)
	}
	return nil
}

// release lifts the deadline, which would else hit the connection's next request.
func (o *sse) release() {
	_ = o.control.SetWriteDeadline(time.Time{}) // the connection may be gone, and then needs none
}

func frame(event string, data []byte) []byte {
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", event, data)
}

// refusal is the stream of a client whose events are not the log's: one error.
type refusal struct{ err *task.Error }

func (r refusal) Next(context.Context, <-chan time.Time) ([]byte, error) { return nil, r.err }
func (r refusal) Direct(func([]byte) bool)                               {}
func (r refusal) Written()                                               {}
func (r refusal) Metrics() (task.Metrics, bool)                          { return task.Metrics{}, false }
func (r refusal) Close()                                                 {}
