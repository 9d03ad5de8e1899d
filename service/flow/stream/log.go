// SPDX-License-Identifier: GPL-3.0-or-later

// Package stream holds a task's event log and hands it to any number of subscribers.
//
// Every numbered event is stored once, typed, and encoded to its native SSE frame once, when it is appended. Native subscribers
// write slices of the same bytes, so a token costs no allocation to encode, and a second subscriber costs no encoding at all.
// Other dialects read the same events typed, and encode them themselves.
package stream

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/task"
)

// What Attempt.Append and Attempt.Done return when a generation must stop.
var (
	// ErrSealed: the log is sealed, or a later attempt writes it.
	ErrSealed = errors.New("the task's log is sealed")
	// ErrDiverged: what was decoded again is not what the log, or its recorded checkpoint, holds.
	ErrDiverged = errors.New("what was decoded again differs from what was sent before")
)

// Log is one task's event log: `started`, pieces, then `end` or `error`. One attempt at a time appends pieces; any goroutine
// may seal, end and subscribe.
type Log struct {
	now        func() time.Time // nil: the log was ended when it was made
	started    task.Started     // constant
	mu         sync.Mutex
	chunks     []chunk // the encoded events, back to back; bytes once written never change
	ends       []int   // ends[i] is the number of bytes up to and with event i
	tags       []tag   // tags[i] is the running hash after event i
	running    hash.Hash
	sum        [sha256.Size]byte // the running hash after the last event
	data       jx.Writer         // scratch: the data of the event being encoded
	text       []byte            // the texts of all pieces, back to back; bytes once written never change
	pieceEnds  []int             // pieceEnds[i] is the number of bytes up to and with piece i, which is event i+1
	marks      []task.Mark       // of the pieces that are no text of the answer
	logprobs   []string          // of all pieces; nil: none has any
	tokens     int               // pieces that are not of tool calls
	transcript hash.Hash         // of the answer, for a transcript of nothing else
	attempt    int               // the one that may append
	handed     int               // events that readers were given
	continued  []int             // the numbers of the events with which attempts went on behind what was sent
	expected   task.Checkpoint   // what the log of an earlier process held; Event 0: nothing
	recovering bool              // an earlier process may have sent more than the log holds now
	detached   bool              // this process ends, the task does not
	sealed     bool
	ended      bool        // the terminal event is appended
	end        *task.End   // of an `end` event
	failure    *task.Error // of an `error` event
	endedAt    time.Time   // when the task ended, as its record has it; set before the terminal event is published
	published  bool        // and subscribers may have it
	tokenAt    time.Time   // when the last piece came
	subs       []*Subscription
	flushed    chan struct{} // not nil while Flush waits
}

// apart is the least time between two tokens for the second to be written directly. Tokens that come faster are better written
// together, by the reader's goroutine.
const apart = 250 * time.Microsecond

// New makes a log whose event 0 is the admission's snapshot.
func New(first task.Started, now func() time.Time) *Log {
	l := &Log{now: now, started: first, running: sha256.New(), transcript: sha256.New()}
	l.data.Buf = mustJSON(first)
	l.append(started)
	return l
}

// Rebuild makes the ended log of a recorded task. Ids are a function of the events, so they come out as they were.
func Rebuild(first task.Started, r task.Record) *Log {
	l := New(first, nil)
	from, marks := 0, r.Transcript.Marks
	for i, to := range r.Transcript.Ends {
		p := task.Piece{Kind: task.EventText, Text: r.Transcript.Text[from:to]}
		if len(marks) > 0 && marks[0].Piece == i {
			p.Kind, p.Call = marks[0].Kind, marks[0].Call
			marks = marks[1:]
		}
		if r.Transcript.Logprobs != nil {
			p.Logprobs = r.Transcript.Logprobs[i]
		}
		l.piece(p)
		from = to
	}
	switch {
	case r.End != nil:
		l.End(*r.End)
	case r.Err != nil:
		l.Fail(r.Err)
	}
	l.Date(r.FinishedAt)
	l.Publish()
	return l
}

// Attempt writes a task's pieces. The first makes the log. A later one, on another replica or in another process, decodes
// from the start again: what it writes is compared with what the log holds, and then extends it (LO-202, LO-203).
type Attempt struct {
	log    *Log
	number int
	at     int // pieces written by this attempt
}

// Begin opens an attempt and fences all earlier ones.
func (l *Log) Begin() *Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempt++
	return &Attempt{log: l, number: l.attempt}
}

// Continue is Begin for an attempt that goes on behind what the log holds, which it has not decoded itself (LO-209).
func (l *Log) Continue() *Attempt {
	a := l.Begin()
	l.mu.Lock()
	defer l.mu.Unlock()
	a.at = len(l.pieceEnds)
	if next := len(l.ends); !slices.Contains(l.continued, next) {
		l.continued = append(l.continued, next)
	}
	return a
}

// Continued are the numbers of the first events of the attempts that went on. One that wrote nothing has the number of the next one.
func (l *Log) Continued() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.continued)
}

// Rewind empties the log down to event 0, so that the next attempt may write other pieces. It does nothing, and reports false, where a reader
// has a piece, or may have one from an earlier process.
func (l *Log) Rewind() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.rewinds() {
		return false
	}
	for _, s := range l.subs {
		s.next = min(s.next, 1)
	}
	l.attempt++ // a late piece of the attempt before must not follow
	l.chunks, l.ends, l.tags, l.text, l.pieceEnds, l.marks, l.logprobs, l.tokens, l.continued = nil, nil, nil, nil, nil, nil, nil, 0, nil
	l.running, l.transcript, l.tokenAt = sha256.New(), sha256.New(), time.Time{}
	l.data.Buf = mustJSON(l.started)
	l.append(started)
	return true
}

// rewinds reports whether Rewind may take back what was written. A strict task writes the same again. The caller holds mu.
func (l *Log) rewinds() bool {
	return l.started.Determinism != task.Strict && l.handed <= 1 && !l.recovering && !l.sealed
}

// Append writes the attempt's next piece. It returns ErrSealed or ErrDiverged when the attempt must stop.
func (a *Attempt) Append(p task.Piece) error {
	l := a.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sealed || l.attempt != a.number {
		return ErrSealed
	}
	at := a.at
	a.at++
	if at < len(l.pieceEnds) {
		if !l.holds(at, p) {
			return ErrDiverged
		}
		return nil
	}
	now := l.now()
	alone := now.Sub(l.tokenAt) >= apart
	l.tokenAt = now
	l.piece(p)
	if !alone || !l.direct() {
		l.wakeAll()
	}
	return l.check()
}

// Done says that the attempt has generated everything. It must have reached all that was sent before.
func (a *Attempt) Done() error {
	l := a.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.at < len(l.pieceEnds) || len(l.ends)-1 < l.expected.Event {
		return ErrDiverged
	}
	return nil
}

// holds reports whether the log has this piece at this place. The caller holds mu.
func (l *Log) holds(at int, p task.Piece) bool {
	held := l.events(at+1, at+2)
	e := held.At(0)
	return e.Kind == p.Kind && e.Call == p.Call && string(e.Text) == p.Text && e.Logprobs == p.Logprobs
}

// check compares the log with the checkpoint of an earlier process, when it gets there.
func (l *Log) check() error {
	if l.expected.Event > 0 && len(l.ends)-1 == l.expected.Event && l.sum != l.expected.Sum {
		return ErrDiverged
	}
	return nil
}

// Recover makes the log of a task that an earlier process was running. Subscribers may name events that are still to be decoded
// again, and the log must meet the checkpoint.
func Recover(first task.Started, c task.Checkpoint, now func() time.Time) *Log {
	l := New(first, now)
	l.expected, l.recovering = c, true
	return l
}

// Recovering reports whether an earlier process may have sent more than the log holds.
func (l *Log) Recovering() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recovering && !l.ended
}

// Checkpoint is the log's last event and its running hash.
func (l *Log) Checkpoint() task.Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return task.Checkpoint{Event: len(l.ends) - 1, Sum: l.sum}
}

// Detach ends every subscription without a terminal event: the process stops, and the task goes on in the next one.
func (l *Log) Detach() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sealed, l.detached = true, true
	l.wakeAll()
}

// Seal fences the log: only the terminal event may follow. It returns the id of the last event, and whether this call sealed
// the log.
func (l *Log) Seal() (lastEventID string, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first = !l.sealed
	l.sealed = true
	return l.lastID(), first
}

// End seals the log, if it isn't, appends the `end` event and returns its id. Nobody sees it before Publish, so that it can
// be recorded first. A log takes one terminal event; later ones are ignored.
func (l *Log) End(e task.End) string { return l.terminate(&e, nil) }

// Fail is End for the `error` event.
func (l *Log) Fail(e *task.Error) string { return l.terminate(nil, e) }

func (l *Log) terminate(e *task.End, failure *task.Error) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return l.lastID()
	}
	l.sealed, l.ended, l.end, l.failure = true, true, e, failure
	if failure != nil {
		l.data.Buf = mustJSON(failure.Envelope())
		l.append(failed)
	} else {
		l.data.Buf = mustJSON(e)
		l.append(end)
	}
	return l.lastID()
}

// Date says when the task ended, as its record has it. It comes before Publish.
func (l *Log) Date(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endedAt = at
}

// Publish lets subscribers have the terminal event.
func (l *Log) Publish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published = true
	l.wakeAll()
}

// visible is the number of events that subscribers may have. The caller holds mu.
func (l *Log) visible() int {
	if l.ended && !l.published {
		return len(l.ends) - 1
	}
	return len(l.ends)
}

func (l *Log) wakeAll() {
	for _, s := range l.subs {
		s.wake()
	}
}

// LastEventID is the id of the last event that subscribers may have, and that nothing takes back: a client may resume behind it.
func (l *Log) LastEventID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.visible() - 1
	if l.rewinds() {
		last = 0
	}
	return l.id(last)
}

func (l *Log) lastID() string { return l.id(len(l.ends) - 1) }

// id is the id of an event.
func (l *Log) id(event int) string {
	return string(appendID(make([]byte, 0, 32), event, l.tags[event]))
}

// Tokens is the number of pieces so far.
func (l *Log) Tokens() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pieceEnds)
}

// Transcript returns what was generated so far, and its digest (see task.Transcript).
func (l *Log) Transcript() (t task.Transcript, digest string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.soFar()
}

// Told is what was generated so far, for a reader without a subscription, who asks now and then. Nothing takes it back any more.
func (l *Log) Told() task.Transcript {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handed = max(l.handed, l.tokensEnd())
	t, _ := l.soFar()
	return t
}

// Tail is the end of what was generated so far, at most so many bytes, for somebody who only looks: a later run may still say something else.
func (l *Log) Tail(most int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text[max(len(l.text)-most, 0):]
	for len(text) > 0 && len(text) < len(l.text) && !utf8.RuneStart(text[0]) {
		text = text[1:]
	}
	return string(text)
}

// soFar is Transcript with mu held.
func (l *Log) soFar() (t task.Transcript, digest string) {
	t.Text, t.Ends = string(l.text), make([]int, len(l.pieceEnds))
	copy(t.Ends, l.pieceEnds)
	t.Logprobs = slices.Clone(l.logprobs)
	if len(l.marks) == 0 {
		return t, hex.EncodeToString(l.transcript.Sum(nil))
	}
	t.Marks = slices.Clone(l.marks)
	return t, t.Digest()
}
