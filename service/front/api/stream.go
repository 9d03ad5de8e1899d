// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// stopping is when a client that comes during a stop may come again.
const stopping = 5 * time.Second

// keepAliveTicks is how many ticks without a write are followed by a comment line.
const keepAliveTicks = 15

var keepAlive = []byte(": keep-alive\n\n")

// StreamTask serves a task's events (ORCH-2002, LO-201). What it returns is said with a status; what goes wrong later is not
// (OC-CTRL-2034).
func (h tasks) StreamTask(ctx context.Context, p gen.StreamTaskParams, w http.ResponseWriter) error {
	after, err := resumePoint(p)
	if err != nil {
		return err
	}
	s, err := h.Tasks.Subscribe(ctx, string(p.ID), after)
	if err != nil {
		e := task.AsError(err)
		if !rules[e.Code].streamOnly {
			return err
		}
		s = refusal{e}
	}
	callFrom(ctx).stream = s
	return nil
}

// delivery is a stream on its way to one client. It outlives its request's handler and holds nothing of it: what it needs is
// all that a stream costs beside its log (.docs/perf.md).
type delivery struct {
	*server
	stream        Stream
	wire          *wire
	correlationID string
	identity      string
	began         time.Time
}

// deliver takes the request's connection over and sends the stream in a goroutine of its own, once gen's handler has returned.
func (s *server) deliver(w http.ResponseWriter, r *http.Request, c *call, began time.Time) error {
	d := &delivery{server: s, stream: c.stream, correlationID: c.correlationID, identity: c.identity, began: began}
	if !s.deliveries.add(d) {
		d.stream.Close()
		return task.Errorf(task.ShuttingDown, "the orchestrator is stopping").Retry(stopping)
	}
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no")
	wire, err := takeOver(w, r, s.WriteTimeout)
	if err != nil {
		s.deliveries.remove(d)
		d.stream.Close()
		return err
	}
	s.deliveries.connect(d, wire)
	head := wire.head(w.Header())
	go d.run(head) // joined by deliveries
	return nil
}

// run sends the stream until it or its client ends.
func (d *delivery) run(head []byte) {
	defer d.deliveries.remove(d)
	defer d.recovered()
	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer d.stream.Close()
	err := errors.New("a panic")
	defer func() { d.close(err) }()
	defer d.recovered()
	watch.Go(func() {
		d.wire.gone()
		cancel()
	})
	if err = d.wire.begin(head); err == nil {
		d.stream.Direct(d.wire.try)
		err = d.pump(ctx)
	}
}

// close ends the connection. A stream that did not come to its end must not look to the client as if it had.
func (d *delivery) close(err error) {
	if errors.Is(err, io.EOF) {
		err = d.wire.end()
	}
	d.wire.close(err == nil)
	if err != nil {
		d.Log.Debug("a stream broke off", zap.String("correlation_id", d.correlationID), zap.Error(err))
	}
	d.Log.Debug("sent a stream", zap.String("correlation_id", d.correlationID), zap.String("identity", d.identity),
		zap.Duration("took_ms", time.Since(d.began)))
}

func (d *delivery) recovered() {
	if p := recover(); p != nil {
		d.panicked(d.correlationID, p)
	}
}

// deliveries are those that are under way.
type deliveries struct {
	mu     sync.Mutex
	all    map[*delivery]struct{}
	ended  bool // no more are taken
	broken bool // nor waited for
	wg     sync.WaitGroup
}

// add reports false when no more are taken.
func (a *deliveries) add(d *delivery) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return false
	}
	if a.all == nil {
		a.all = map[*delivery]struct{}{}
	}
	a.all[d] = struct{}{}
	a.wg.Add(1)
	return true
}

// connect gives a delivery its connection.
func (a *deliveries) connect(d *delivery, w *wire) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d.wire = w
	if a.broken {
		w.close(false)
	}
}

func (a *deliveries) remove(d *delivery) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all, d)
	a.wg.Done()
}

// end takes no more, and waits until all have ended; those that have not when ctx ends are broken off.
func (a *deliveries) end(ctx context.Context) {
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.broken = true
		for d := range a.all {
			if d.wire != nil {
				d.wire.close(false)
			}
		}
	})
	defer stop()
	a.wg.Wait()
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
func (d *delivery) pump(ctx context.Context) error {
	tick, stop := d.Ticker()
	defer stop()
	var shown task.Metrics
	first, idle := true, 0
	for {
		frames, err := d.stream.Next(ctx, tick)
		if ended, ok := errors.AsType[*task.Error](err); ok { // of this stream, not of the task's log: it has no id
			if err := d.send("error", ended.Envelope()); err != nil {
				return err
			}
			return io.EOF
		}
		if err != nil {
			return err
		}
		if frames != nil {
			err := d.wire.write(frames)
			d.stream.Written()
			if err != nil {
				return err
			}
			idle = 0
			if !first {
				continue
			}
			first = false
		}
		figures, going := d.stream.Metrics()
		switch {
		case going && figures != shown:
			shown = figures
			if err := d.send("metrics", figures); err != nil {
				return err
			}
			idle = 0
		case frames == nil:
			if idle++; idle < keepAliveTicks {
				continue
			}
			idle = 0
			if err := d.wire.write(keepAlive); err != nil {
				return err
			}
		}
	}
}

// send writes an event that is not the log's.
func (d *delivery) send(event string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode an event: %w", err)
	}
	return d.wire.write(fmt.Appendf(nil, "event: %s\ndata: %s\n\n", event, data))
}

// refusal is the stream of a client whose events are not the log's: one error.
type refusal struct{ err *task.Error }

func (r refusal) Next(context.Context, <-chan time.Time) ([]byte, error) { return nil, r.err }
func (r refusal) Direct(func([]byte) bool)                               {}
func (r refusal) Written()                                               {}
func (r refusal) Metrics() (task.Metrics, bool)                          { return task.Metrics{}, false }
func (r refusal) Close()                                                 {}
