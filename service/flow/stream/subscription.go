// SPDX-License-Identifier: GPL-3.0-or-later

package stream

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// ErrCutOff ends a subscription that did not take its events in time when its task was canceled (ORCH-3026). The client may
// reconnect and read the sealed log.
var ErrCutOff = errors.New("the stream was too slow to take its events before a cancel returned")

// ErrDetached ends a subscription whose task goes on after a restart of the orchestrator. The client reconnects.
var ErrDetached = errors.New("the orchestrator stops; the task goes on when it is back")

// maxWrite bounds the bytes of one write, so that a subscriber far behind is sent its events piece by piece.
const maxWrite = 16 << 10

// Subscription is one reader of a log. One goroutine calls its methods; a reader that stalls holds up nobody else.
type Subscription struct {
	log     *Log
	woken   chan struct{} // capacity 1: "there may be news"
	next    int           // the next event to hand out; log.mu guards this and the fields below
	held    tag           // the hash of the event before next, as the client has it
	ahead   bool          // that event is still to be decoded again
	batch   time.Duration // at least so long between two writes of tokens; 0: none
	due     time.Time     // of the next write
	writing bool          // tokens were handed out and Written has not followed
	cut     bool
	parked  bool                 // Next waits, and there is nothing to hand out
	begun   bool                 // direct could not write all: the reader is to finish it
	atEnd   bool                 // nothing is handed out before the terminal event
	direct  func(event int) bool // hands one event to the reader's own write; nil: it has none
}

// Subscribe opens a subscription that begins after the event with the given id, or at event 0 if it is empty. An id that
// the log never gave is INVALID_PARAMS. An id whose hash differs is WORKER_RESET, since what the client holds is not what the
// log holds (LO-201).
//
// With a batch time, tokens that come within that time are written together (OC-CTRL-2026). This joins writes, not events. The
// terminal event never waits.
func (l *Log) Subscribe(after string, batch time.Duration) (*Subscription, error) {
	s := &Subscription{log: l, woken: make(chan struct{}, 1), batch: batch}
	l.mu.Lock()
	defer l.mu.Unlock()
	if after != "" {
		seq, t, ok := parseID(after)
		last := l.visible() - 1
		switch {
		case !ok:
			return nil, task.Errorf(task.InvalidParams,
				"the event id %.40q is malformed: send the `id` of the last event received, such as %q, or leave it out", after, appendID(nil, last, l.tags[last]))
		case seq > last && (l.recovering && !l.ended || l.lost()):
			s.held, s.ahead = t, true
		case seq > last:
			return nil, task.Errorf(task.InvalidParams,
				"this stream has no event %d yet: valid are 0 to %d; send the `id` of the last event received", seq, last)
		case t != l.tags[seq]:
			return nil, errOtherBytes(seq)
		}
		s.next = seq + 1
		l.handed = max(l.handed, s.next)
	}
	l.subs = append(l.subs, s)
	return s, nil
}

// lost reports whether the task ended because its worker, or the process that ran it, was lost. Clients may then have more events
// than the log holds. They are told why, and not that their id is wrong. The caller holds mu.
func (l *Log) lost() bool {
	return l.failure != nil && (l.recovering || l.failure.Code == task.WorkerReset)
}

func errOtherBytes(seq int) *task.Error {
	return task.Errorf(task.WorkerReset,
		"the events up to %d that this client holds are not the ones that were sent: discard them and read the stream from the start", seq).Retry(0)
}

// Next waits for events and returns their native frames. The bytes stay valid and are not to be changed. It returns (nil, nil)
// when tick fires first, io.EOF after the terminal event, ErrCutOff, ErrDetached, the context's error, or a *task.Error when a
// log that is decoded again ends before what the client holds, or differs from it. Written must follow every Next that returned
// frames, also where these have no bytes (see Direct).
func (s *Subscription) Next(ctx context.Context, tick <-chan time.Time) (frames []byte, err error) {
	_, err = s.wait(ctx, tick, &frames, nil)
	return frames, err
}

// NextEvents is Next for a reader that encodes the events itself. It reports false when tick fires first. Written must follow
// where it reports true, also where there are no events (see DirectEvents).
func (s *Subscription) NextEvents(ctx context.Context, tick <-chan time.Time) (e task.Events, news bool, err error) {
	news, err = s.wait(ctx, tick, nil, &e)
	return e, news, err
}

// wait waits until there are events, and returns them in the form that is asked for: one of frames and events is not nil.
func (s *Subscription) wait(ctx context.Context, tick <-chan time.Time, frames *[]byte, events *task.Events) (news bool, err error) {
	var due <-chan time.Time
	for {
		news, wait, err := s.take(frames, events)
		if news || err != nil {
			return news, err
		}
		if wait > 0 && due == nil {
			due = time.After(wait)
		}
		select {
		case <-s.woken:
		case <-due:
			due = nil
		case <-tick:
			s.unpark()
			return false, nil
		case <-ctx.Done():
			s.unpark()
			return false, ctx.Err()
		}
	}
}

// take stores the next events in frames or in events, and reports whether there were any. If not, wait says how long to wait
// before those that are there are written, together with what comes until then; 0: there are none.
func (s *Subscription) take(frames *[]byte, events *task.Events) (news bool, wait time.Duration, err error) {
	l := s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	s.parked = false
	if s.cut {
		return false, 0, ErrCutOff
	}
	if s.begun {
		s.begun = false
		if frames != nil {
			*frames = []byte{}
		}
		return true, 0, nil
	}
	last := l.visible()
	if s.ahead {
		switch {
		case s.next > last && !l.published && l.detached:
			return false, 0, ErrDetached
		case s.next > last && !l.published:
			return false, 0, nil
		case s.next <= last && l.tags[s.next-1] == s.held:
			s.ahead = false
		case s.next >= last && l.published && l.failure != nil: // for instance canceled before the log had reached the event that the client has
			return false, 0, l.failure
		default:
			return false, 0, errOtherBytes(s.next - 1)
		}
	}
	switch {
	case s.next < last && (!s.atEnd || l.published):
	case l.published:
		return false, 0, io.EOF
	case l.detached:
		return false, 0, ErrDetached
	default:
		s.parked = s.batch == 0
		return false, 0, nil
	}
	if s.batch > 0 && !l.sealed {
		now := l.now()
		if now.Before(s.due) {
			return false, s.due.Sub(now), nil
		}
		s.due = now.Add(s.batch)
	}
	s.writing = s.next < l.tokensEnd()
	if frames != nil {
		*frames, s.next = l.frames(s.next, last)
	} else {
		*events = l.events(s.next, last)
		s.next = last
	}
	l.handed = max(l.handed, s.next)
	return true, 0, nil
}

// AtEnd has the reader get nothing before the terminal event, and then all events. It comes before the first Next.
func (s *Subscription) AtEnd() {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.atEnd = true
}

// Written says that the frames of the last Next were written, or that writing them failed.
func (s *Subscription) Written() {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.writing = false
	s.log.settle()
}

// Last reports whether what the last Next returned ends the stream.
func (s *Subscription) Last() bool {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return !s.ahead && s.log.published && s.next == s.log.visible()
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.subs = slices.DeleteFunc(s.log.subs, func(other *Subscription) bool { return other == s })
	s.log.settle()
}

// Direct lets whoever appends a token write it, while Next waits. That saves waking the reader's goroutine (.docs/perf.md).
// Write is called under the log's lock and must not wait. Where it reports false, Next returns frames of no bytes, and the reader
// finishes the write. Direct comes before the first Next.
func (s *Subscription) Direct(write func(frames []byte) bool) {
	s.direct = func(event int) bool {
		frames, _ := s.log.frames(event, event+1)
		return write(frames)
	}
}

// DirectEvents is Direct for a reader that calls NextEvents.
func (s *Subscription) DirectEvents(write func(e task.Events) bool) {
	s.direct = func(event int) bool { return write(s.log.events(event, event+1)) }
}

func (s *Subscription) unpark() {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.parked = false
}

// direct writes the last event to the only subscriber, if that one waits for it. Several subscribers are woken instead: each of
// them writes for itself, and the engine does not wait for all of them. The caller holds mu.
func (l *Log) direct() bool {
	if len(l.subs) != 1 {
		return false
	}
	s, last := l.subs[0], len(l.ends)-1
	if !s.parked || s.direct == nil || s.next != last {
		return false
	}
	s.next = last + 1
	l.handed = max(l.handed, s.next)
	if s.direct(last) {
		return true
	}
	s.parked, s.begun, s.writing = false, true, true
	return false
}

func (s *Subscription) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// Flush waits until every subscriber has written all tokens of a sealed log, so that no write of a token starts after it
// returned. Subscribers that are not done when ctx ends are cut off; it returns how many.
func (l *Log) Flush(ctx context.Context) (cut int) {
	l.mu.Lock()
	if l.behind() == 0 {
		l.mu.Unlock()
		return 0
	}
	if l.flushed == nil {
		l.flushed = make(chan struct{})
	}
	flushed := l.flushed
	l.mu.Unlock()
	select {
	case <-flushed:
		return 0
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.subs {
		if s.behind() {
			s.cut = true
			s.wake()
			cut++
		}
	}
	l.settle()
	return cut
}

// behind reports whether a token is still to be written. The terminal event does not count: it may be written later.
func (s *Subscription) behind() bool {
	return !s.cut && !s.ahead && (s.writing || s.next < s.log.tokensEnd())
}

// tokensEnd is the number of the first event that is no token: `started` and the tokens come before it.
func (l *Log) tokensEnd() int { return 1 + len(l.pieceEnds) }

func (l *Log) behind() (n int) {
	for _, s := range l.subs {
		if s.behind() {
			n++
		}
	}
	return n
}

// settle lets Flush go on once nobody is behind. The caller holds mu.
func (l *Log) settle() {
	if l.flushed != nil && l.behind() == 0 {
		close(l.flushed)
		l.flushed = nil
	}
}
