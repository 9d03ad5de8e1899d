// SPDX-License-Identifier: GPL-3.0-or-later

package delivery

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Events is one subscription to a task's events, for a dialect that encodes them itself. One goroutine uses it.
type Events interface {
	// NextEvents waits for events, and reports false when tick fires first. It returns io.EOF after the terminal event. Written
	// must follow where it reports true, also where there are no events (see DirectEvents).
	NextEvents(ctx context.Context, tick <-chan time.Time) (e task.Events, news bool, err error)
	// DirectEvents is Stream's Direct: where write reports false, NextEvents reports news without events.
	DirectEvents(write func(e task.Events) bool)
	Written()
	Last() bool
	Metrics() (task.Metrics, bool)
	Close()
}

// Aside is the index of an error that ends one stream, and not its task. No log has it.
const Aside = -1

// Encoder appends one event as its dialect has it: nothing, where the dialect has no such event. The bytes of the error event end the
// stream, and its connection breaks behind them. So it does behind those of an error with the index Aside, also in a stream of Again.
type Encoder interface {
	Append(b []byte, e task.Event) []byte
}

// errToldError breaks a stream off behind its error event: a client must not take it for whole (LO-407).
var errToldError = errors.New("the task failed, and its client was told")

// Encoded is the stream of a dialect. Before are events that were taken already. Closed is called in the end, and says whether the
// terminal event was sent.
func Encoded(events Events, encoder Encoder, before []task.Events, closed func(whole bool)) Stream {
	return &encoded{events: events, encoder: encoder, before: before, closed: closed}
}

// Again is the stream of a dialect that sends a task's events anew, to a client who knows the task. It ends cleanly behind an error event: clients
// lose what they have not read of a stream that breaks.
func Again(events Events, encoder Encoder) Stream {
	return &encoded{events: events, encoder: encoder, closed: func(bool) {}, again: true}
}

type encoded struct {
	events  Events
	encoder Encoder
	before  []task.Events
	closed  func(whole bool)
	frames  []byte
	again   bool // see Again
	told    bool // the error event is among the frames of the last Next
	aside   bool // that is of this stream alone
	whole   bool // the terminal event is
	sent    bool // and they are on the wire
}

// BrokenOff is the error that ended a reader's events before their end, as its client is told it: the orchestrator stops, or the
// reader was too slow. Where the client is gone, which ended ctx, and where err says all itself, it is err.
func BrokenOff(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*task.Error](err); ok || ctx.Err() != nil {
		return err
	}
	return task.Errorf(task.ShuttingDown, "the stream broke off: send the request again").Retry(stopping).Because(err)
}

// Next is Stream's.
func (s *encoded) Next(ctx context.Context, tick <-chan time.Time) ([]byte, error) {
	switch {
	case s.aside, s.told && !s.again:
		return nil, errToldError
	case s.told:
		return nil, io.EOF
	}
	for {
		e, err := s.take(ctx, tick)
		if err != nil && !errors.Is(err, io.EOF) {
			err = BrokenOff(ctx, err)
		}
		switch ended, ok := errors.AsType[*task.Error](err); {
		case ok: // of this stream alone
			s.told, s.aside = true, true
			s.frames = s.encoder.Append(s.frames[:0], task.Event{Kind: task.EventError, Index: Aside, Err: ended})
			return s.frames, nil
		case err != nil || e == nil:
			return nil, err
		}
		if e.Len() == 0 {
			return []byte{}, nil // what was written directly is to be finished
		}
		if s.append(*e); len(s.frames) > 0 {
			return s.frames, nil
		}
		s.events.Written() // the dialect has no such event
	}
}

// take returns the next events, or nil where tick fires first.
func (s *encoded) take(ctx context.Context, tick <-chan time.Time) (*task.Events, error) {
	if len(s.before) > 0 {
		e := s.before[0]
		s.before = s.before[1:]
		return &e, nil
	}
	e, news, err := s.events.NextEvents(ctx, tick)
	if err != nil || !news {
		return nil, err
	}
	return &e, nil
}

func (s *encoded) append(events task.Events) {
	s.frames = s.frames[:0]
	for e := range events.All() {
		s.frames = s.encoder.Append(s.frames, e)
		s.told = s.told || e.Kind == task.EventError
		s.whole = s.whole || e.Kind == task.EventEnd || e.Kind == task.EventError
	}
}

// Written is Stream's.
func (s *encoded) Written() {
	s.sent = s.whole
	s.events.Written()
}

// Direct is Stream's.
func (s *encoded) Direct(write func(frames []byte) bool) {
	s.events.DirectEvents(func(e task.Events) bool {
		s.append(e)
		return len(s.frames) == 0 || write(s.frames)
	})
}

// Last is Stream's. Behind an error event the stream is broken off instead, as a rule.
func (s *encoded) Last() bool {
	return !s.aside && (!s.told || s.again) && len(s.before) == 0 && s.events.Last()
}

// Metrics is Stream's. Behind an error event, which is a client's last, nothing comes.
func (s *encoded) Metrics() (task.Metrics, bool) {
	if s.told {
		return task.Metrics{}, false
	}
	return s.events.Metrics()
}

// Close is Stream's.
func (s *encoded) Close() {
	s.events.Close()
	s.closed(s.sent)
}
