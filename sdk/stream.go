// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/ogen-go/ogen/sse"

	"github.com/llama-orch/llama-orch/gen"
)

const eventStream = "text/event-stream"

// maxRetryAfter is the longest Retry-After that a reconnect waits for. If a server asks for more, its error is returned.
const maxRetryAfter = time.Minute

// errIdle ends a connection that was silent for too long.
var errIdle = errors.New("the stream was silent for too long")

// Stream reads a task's events, live or again. It begins after the event with the id after, or with event 0 if after is empty. The sequence ends
// after End or ErrorEvent. An error is its last element, and means that the stream could not be read to its end. The caller may stop at
// any time. Each range over the sequence reads the stream anew.
//
// A connection that breaks is made again with Last-Event-ID (LO-201), so the caller sees every event once and in order.
// The first connection is not retried. Sequence numbers are always checked. The running hash in the ids, and the receipt's transcript hash
// (LO-204), are only checked when reading from event 0, since both need all earlier events. If a check fails, the error is a *VerifyError.
func (c *Client) Stream(ctx context.Context, id, after string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := cmp.Or(hold[gen.TaskID]("id", id), holdSome[gen.EventID]("after", after)); err != nil {
			yield(nil, err)
			return
		}
		if err := c.follow(ctx, newReader(id, after), yield); err != nil {
			yield(nil, err)
		}
	}
}

// Replay gives the events of a stream that was kept as its frames, without a server. They are checked as Stream checks them from event 0 on: a frame that was
// changed, left out or added is a *VerifyError, and so is an answer that is not the receipt's.
func Replay(taskID string, frames []Frame) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		r := newReader(taskID, "")
		for _, f := range frames {
			event, last, err := r.read(sse.Event{ID: f.ID, Type: f.Name, Data: string(f.Data)})
			if err != nil {
				yield(nil, err)
				return
			}
			if event != nil && !yield(event, nil) || last {
				return
			}
		}
		yield(nil, &ProtocolError{Err: fmt.Errorf("the kept stream of task %s has no last event", taskID)})
	}
}

// follow returns nil when the stream is at its end or the caller stopped.
func (c *Client) follow(ctx context.Context, r *reader, yield func(Event, error) bool) error {
	fresh := delays{mean: c.opts.ReconnectDelay, most: 30 * c.opts.ReconnectDelay}
	waits := fresh
	connected := false
	for tries := 0; ; tries++ {
		before := r.next
		accepted, err := c.connect(ctx, r, yield)
		connected = connected || accepted
		if r.next != before { // only the log's events count as progress: a server that only sends metrics is not well
			tries = 0
			waits = fresh
		}
		if err == nil {
			return nil
		}
		after, ok := passing(err)
		if !connected || !ok || ctx.Err() != nil || after > maxRetryAfter {
			return err
		}
		if tries >= c.opts.Reconnects {
			return fmt.Errorf("the stream of task %s broke after event %q and was not back after %d attempts: %w", r.taskID, r.last,
				max(c.opts.Reconnects, 0), err)
		}
		wait := max(after, waits.next())
		if c.opts.OnReconnect != nil {
			c.opts.OnReconnect(err, wait)
		}
		if err := c.sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// connect reads one connection. accepted says that the server began to stream.
func (c *Client) connect(ctx context.Context, r *reader, yield func(Event, error) bool) (accepted bool, err error) {
	connection, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	o := get("v1", "tasks", r.taskID, "stream")
	o.header = http.Header{"Accept": {eventStream}}
	if r.last != "" {
		o.header.Set("Last-Event-ID", r.last)
	}
	response, err := c.send(connection, o)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNoContent {
		return true, nil // the caller holds the terminal event
	}
	if kind := mediaType(response); kind != eventStream {
		return false, &ProtocolError{Err: fmt.Errorf("the answer is of the type %.80q, no event stream", kind)}
	}

	source := &meter{r: response.Body, idle: c.opts.IdleTimeout, silent: func() { cancel(errIdle) }}
	decoder := sse.NewDecoder(source, 0, 0, "", nil)
	for {
		source.left = c.opts.MaxEventBytes
		frame, err := decoder.Decode()
		if err != nil {
			return true, c.broken(ctx, connection, r, err)
		}
		event, last, err := r.read(frame)
		if err != nil {
			return true, err
		}
		if event == nil {
			continue
		}
		if !yield(event, nil) || last {
			return true, nil
		}
	}
}

// broken returns the reason why a connection can be read no further.
func (c *Client) broken(ctx, connection context.Context, r *reader, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errTooLarge):
		return &ProtocolError{Err: fmt.Errorf("an event of task %s: %w", r.taskID, errTooLarge)}
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	case context.Cause(connection) != nil:
		err = context.Cause(connection)
	}
	return &UnreachableError{Addr: c.opts.Addr, Err: err}
}

// meter bounds the bytes of one event, and the time without any bytes. The decoder's own bound is not enough: beyond it the decoder still reads to
// the event's end, however far that is.
type meter struct {
	r      io.Reader
	left   int
	idle   time.Duration // negative: for ever
	silent func()        // ends the connection, from a timer's goroutine
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, errTooLarge
	}
	if m.idle > 0 {
		defer time.AfterFunc(m.idle, m.silent).Stop()
	}
	n, err := m.r.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
