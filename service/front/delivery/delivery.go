// SPDX-License-Identifier: GPL-3.0-or-later

// Package delivery sends streams to their clients. Every front uses it. It takes a request's connection over, writes what the
// stream yields, says now and then that the stream is alive, and lets go of clients that are gone or do not read.
package delivery

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

// stopping is how long a client that comes during a stop should wait before it comes again.
const stopping = 5 * time.Second

// keepAliveTicks is how many ticks may pass without a write before the client gets a sign of life.
const keepAliveTicks = 15

var errStopping = errors.New("the orchestrator is stopping")

// Stream is one subscription to a task's events, encoded as its front's dialect wants them. One goroutine uses it.
type Stream interface {
	// Next blocks until there are events, and returns their whole frames, which are valid until the next call. Events that are
	// there come before a tick. It returns (nil, nil) when tick fires first, io.EOF after the terminal event, a *task.Error
	// that ends this stream alone, and any other error, such as ctx's, where the stream breaks off.
	Next(ctx context.Context, tick <-chan time.Time) ([]byte, error)
	// Written says that the frames of the last Next are on the wire, or that writing them failed.
	Written()
	// Direct gives tokens a second way to the client while Next waits: another goroutine calls write. Write does not wait.
	// Where it reports false, Next returns frames of no bytes, and the reader finishes the write.
	Direct(write func(frames []byte) bool)
	// Last reports whether the frames of the last Next end the stream.
	Last() bool
	// Metrics returns the current figures, and false once the task has ended.
	Metrics() (task.Metrics, bool)
	Close()
}

// Dialect words what a front's client is told beside the events of the task's log. Its methods append to b.
type Dialect interface {
	ContentType() string
	// Every is from how many ticks to how many the figures are looked at, at least 1. Of many streams that wait, each look takes its share.
	Every() int
	// Metrics appends the moving figures. A dialect that does not have them appends nothing.
	Metrics(b []byte, m task.Metrics) ([]byte, error)
	// Error appends the error that ends this stream alone, and not its task.
	Error(b []byte, e *task.Error) ([]byte, error)
	// KeepAlive appends a sign of life.
	KeepAlive(b []byte) []byte
}

// Options are what Streams are made from.
type Options struct {
	Log *zap.Logger // default none
	// WriteTimeout bounds each write, so that a dead client frees its goroutine. Default 30 s.
	WriteTimeout time.Duration
	// Ticker drives metrics and signs of life. It ticks once a second. Default the wall clock's.
	Ticker func() (tick <-chan time.Time, stop func())
}

const defaultTimeout = 30 * time.Second

// Streams are the streams that are being sent. The HTTP server does not know of them any more, so whoever stops the server
// stops them too.
type Streams struct {
	o    Options
	life lifecycle.Life
	next *again
	mu   sync.Mutex
	open map[*delivery]struct{}
}

// New returns Streams that take their first one after Start.
func New(o Options) *Streams {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.Named("delivery")
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = defaultTimeout
	}
	if o.Ticker == nil {
		o.Ticker = func() (<-chan time.Time, func()) {
			t := time.NewTicker(time.Second)
			return t.C, t.Stop
		}
	}
	return &Streams{o: o, next: newAgain(), open: map[*delivery]struct{}{}}
}

// Start lets streams be sent.
func (s *Streams) Start(context.Context) error {
	s.life.Begin()
	return nil
}

// Listener yields the connections on which a stream has ended and the client has begun another request. The server that took
// the first one is to serve them too. Where nobody does, a connection ends with its stream.
func (s *Streams) Listener() net.Listener { return s.next }

// Stop takes no more streams and waits until those that are open have ended. When ctx ends first, it breaks the others off.
func (s *Streams) Stop(ctx context.Context) error {
	_ = s.next.Close() // never fails
	if s.life.End(ctx, errStopping) == nil {
		return nil
	}
	s.mu.Lock()
	for d := range s.open {
		d.wire.close(false)
	}
	s.mu.Unlock()
	return s.life.End(context.WithoutCancel(ctx), errStopping) // soon, since each of them finds its connection closed
}

// Deliver takes the request's connection over and sends the stream from a goroutine of its own. It closes the stream in the
// end, also where it returns an error: then the response has not begun.
func (s *Streams) Deliver(w http.ResponseWriter, r *http.Request, stream Stream, dialect Dialect) error {
	began := time.Now()
	if s.life.Stopping() {
		stream.Close()
		return task.Errorf(task.ShuttingDown, "the orchestrator is stopping").Retry(stopping)
	}
	wire, err := takeOver(w, r, s.o.WriteTimeout)
	if err != nil {
		stream.Close()
		return err
	}
	header := w.Header()
	describe(header, dialect)
	wire.again = wire.again && s.next.heard.Load()
	wire.begin(header)
	call := gate.CallFrom(r.Context())
	d := &delivery{
		streams: s, stream: stream, dialect: dialect, wire: wire,
		correlationID: call.CorrelationID, identity: call.Identity, session: call.Session, began: began,
	}
	s.add(d)
	if !s.life.Go(d.run) { // stopped just now
		s.remove(d)
		stream.Close()
		wire.close(false)
	}
	return nil
}

// Head answers a request for the headers of a stream alone.
func Head(w http.ResponseWriter, dialect Dialect) {
	describe(w.Header(), dialect)
	w.WriteHeader(http.StatusOK)
}

func describe(h http.Header, dialect Dialect) {
	h.Set("Content-Type", dialect.ContentType())
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
}

func (s *Streams) add(d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[d] = struct{}{}
}

func (s *Streams) remove(d *delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, d)
}

// delivery is a stream on its way to one client. It lives longer than its request's handler and keeps nothing of it: what
// stands here is all that a stream costs beside its log (.docs/perf.md).
type delivery struct {
	streams       *Streams
	stream        Stream
	dialect       Dialect
	wire          *wire
	correlationID string
	identity      string
	session       func() bool // as gate.Call has it
	began         time.Time
}

// run sends the stream until it or its client ends. A stop lets it come to its end. Then the connection may carry another request.
func (d *delivery) run(ctx context.Context) {
	defer d.recovered()
	defer d.streams.remove(d)
	var sending sync.WaitGroup
	defer sending.Wait()
	pumping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		defer d.recovered()
		d.wire.dismiss()
	})()
	sending.Go(func() { d.send(pumping) })
	if next := d.wire.watch(); next != nil {
		sending.Wait()
		d.streams.next.give(next)
	}
}

// send sends the stream. It closes the connection, or leaves it to watch.
func (d *delivery) send(ctx context.Context) {
	defer d.recovered()
	defer func() {
		d.stream.Close()
		d.stream = nil // so that a connection that waits for a request keeps no task's log
	}()
	err := errors.New("a panic")
	defer func() { d.close(err) }()
	defer d.recovered()
	d.stream.Direct(d.wire.try)
	err = d.pump(ctx)
}

// close ends the response. A stream that did not come to its end must not look to the client as if it had.
func (d *delivery) close(err error) {
	if errors.Is(err, io.EOF) {
		err = d.wire.end()
	} else {
		d.wire.breakOff()
	}
	d.wire.finish(err == nil)
	log := d.streams.o.Log
	if err != nil {
		log.Debug("a stream broke off", zap.String("correlation_id", d.correlationID), zap.Error(err))
	}
	log.Debug("sent a stream", zap.String("correlation_id", d.correlationID), zap.String("identity", d.identity),
		zap.Duration("took_ms", time.Since(d.began)))
}

func (d *delivery) recovered() {
	if p := recover(); p != nil {
		gate.LogPanic(d.streams.o.Log, d.correlationID, p)
	}
}

// passed is a tick that has come already. With it Next returns at once.
var passed = func() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}()

// pump moves a subscription's frames to the client until one of them ends. A token costs one write and no allocation. What is there
// at the beginning goes out with the head of the response. Metrics go out with the first events, and then as often as the dialect wants them, when
// a figure has changed.
func (d *delivery) pump(ctx context.Context) error {
	frames, err := d.stream.Next(ctx, passed)
	if frames == nil && err == nil { // such as a stream that is resumed behind its last event: the client need not wait for its head
		err = d.wire.write(nil, nil, false)
	}
	tick, stop := d.streams.o.Ticker()
	defer stop()
	var shown task.Metrics
	first, idle, look := true, 0, 1 // look is in how many ticks to look at the figures
	for {
		if frames == nil && err == nil {
			frames, err = d.stream.Next(ctx, tick)
			if frames == nil && err == nil && d.session != nil && !d.session() {
				err = task.Errorf(task.MissingToken, "the browser's session has ended: log in again. The task goes on")
			}
		}
		if ended, ok := errors.AsType[*task.Error](err); ok { // of this stream, not of the task's log
			b, err := d.dialect.Error(nil, ended)
			if err == nil {
				err = d.wire.write(b, nil, true)
			}
			return cmp.Or(err, io.EOF)
		}
		if err != nil {
			return err
		}
		var aside []byte
		if frames == nil {
			look--
		}
		if look == 0 || first && frames != nil {
			look = d.dialect.Every()
			if aside, err = d.aside(&shown); err != nil {
				return err
			}
		}
		if len(aside) == 0 && frames == nil {
			if idle++; idle < keepAliveTicks && !d.wire.doubtful() {
				continue
			}
			aside = d.dialect.KeepAlive(nil)
		}
		idle, first = 0, first && frames == nil
		last := frames != nil && d.stream.Last()
		err = d.wire.write(frames, aside, last)
		if frames != nil {
			d.stream.Written()
			frames = nil
		}
		if err != nil {
			return err
		}
		if last {
			return io.EOF
		}
	}
}

// aside returns the task's figures as the dialect shows them, if they have changed since the client was shown them.
func (d *delivery) aside(shown *task.Metrics) ([]byte, error) {
	figures, going := d.stream.Metrics()
	if !going || figures == *shown {
		return nil, nil
	}
	*shown = figures
	return d.dialect.Metrics(nil, figures)
}

// Refusal is the stream of a client that gets none of the task's events, but one error.
func Refusal(e *task.Error) Stream { return refusal{e} }

type refusal struct{ err *task.Error }

func (r refusal) Next(context.Context, <-chan time.Time) ([]byte, error) { return nil, r.err }
func (r refusal) Direct(func([]byte) bool)                               {}
func (r refusal) Written()                                               {}
func (r refusal) Last() bool                                             { return false }
func (r refusal) Metrics() (task.Metrics, bool)                          { return task.Metrics{}, false }
func (r refusal) Close()                                                 {}
