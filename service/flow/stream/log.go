// SPDX-License-Identifier: GPL-3.0-or-later

// Package stream holds a task's event log and hands it to any number of subscribers.
//
// Every numbered event is encoded to its SSE frame once, when it is appended; subscribers write slices of the same bytes.
// So a token costs no allocation to encode, and a second subscriber costs no encoding at all.
package stream

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/task"
)

// What Token and Attempt.Done return when a generation must stop.
var (
	// ErrSealed: the log is sealed, or a later attempt writes it.
	ErrSealed = errors.New("the task's log is sealed")
	// ErrDiverged: what was decoded again is not what the log, or its recorded checkpoint, holds.
	ErrDiverged = errors.New("what was decoded again differs from what was sent before")
)

// The names of the numbered events (ORCH-2002), each with its line feed, as the frame and the running hash want it.
var (
	started  = []byte("started\n")
	token    = []byte("token\n")
	end      = []byte("end\n")
	failed   = []byte("error\n")
	lineFeed = []byte("\n")
)

// Log is one task's event log: `started`, tokens, then `end` or `error`. One attempt at a time appends tokens; any goroutine
// may seal, end and subscribe.
type Log struct {
	mu         sync.Mutex
	chunks     []chunk // the encoded events, back to back; bytes once written never change
	ends       []int   // ends[i] is the number of bytes up to and with event i
	tags       []tag   // tags[i] is the running hash after event i
	running    hash.Hash
	sum        [sha256.Size]byte // the running hash after the last event
	data       jx.Writer         // scratch: the data of the event being encoded
	text       []byte            // the concatenated token texts
	textEnds   []int
	transcript hash.Hash
	attempt    int             // the one that may append
	expected   task.Checkpoint // what the log of an earlier process held; Event 0: nothing
	recovering bool            // an earlier process may have sent more than the log holds now
	detached   bool            // this process ends, the task does not
	sealed     bool
	ended      bool        // the terminal event is appended
	failure    *task.Error // of an `error` event
	published  bool        // and subscribers may have it
	tokenAt    time.Time   // when the last token came
	subs       []*Subscription
	flushed    chan struct{} // not nil while Flush waits
}

// chunk holds whole events. A log grows by further chunks, so that no event is copied again.
type chunk struct {
	begin int // the number of bytes before it
	data  []byte
}

// The first chunk of a log, and the size at which they stop doubling; an event that is larger has one of its own size.
const (
	firstChunk = 1 << 10
	maxChunk   = 4 << 10
)

// apart is how far from the one before a token must be to be written directly. Those that come at once are better written
// together, by the reader's goroutine.
const apart = 250 * time.Microsecond

// New makes a log whose event 0 is the admission's snapshot.
func New(first task.Started) *Log {
	l := &Log{running: sha256.New(), transcript: sha256.New()}
	l.data.Buf = mustJSON(first)
	l.append(started)
	return l
}

// Rebuild makes the ended log of a recorded task. Ids are a function of the events, so they come out as they were.
func Rebuild(first task.Started, r task.Record) *Log {
	l := New(first)
	from := 0
	for _, to := range r.Transcript.Ends {
		l.token(r.Transcript.Text[from:to])
		from = to
	}
	switch {
	case r.End != nil:
		l.End(*r.End)
	case r.Err != nil:
		l.Fail(r.Err)
	}
	l.Publish()
	return l
}

// Attempt writes a task's tokens. The first makes the log; a later one, on another replica or in another process, decodes
// from the start again: what it writes is compared with what the log holds, and then extends it (LO-202, LO-203).
type Attempt struct {
	log    *Log
	number int
	at     int // tokens written by this attempt
}

// Begin opens an attempt and fences all earlier ones.
func (l *Log) Begin() *Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempt++
	return &Attempt{log: l, number: l.attempt}
}

// Token writes the attempt's next token. It returns ErrSealed or ErrDiverged when the attempt must stop.
func (a *Attempt) Token(text string) error {
	l := a.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sealed || l.attempt != a.number {
		return ErrSealed
	}
	at := a.at
	a.at++
	if at < len(l.textEnds) {
		if l.tokenText(at) != text {
			return ErrDiverged
		}
		return nil
	}
	now := time.Now()
	alone := now.Sub(l.tokenAt) >= apart
	l.tokenAt = now
	l.token(text)
	if !alone || !l.direct() {
		l.wakeAll()
	}
	return l.check()
}

// Done says that the attempt generated all it had to: it must have reached everything that was sent before.
func (a *Attempt) Done() error {
	l := a.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.at < len(l.textEnds) || len(l.ends)-1 < l.expected.Event {
		return ErrDiverged
	}
	return nil
}

func (l *Log) tokenText(i int) string {
	from := 0
	if i > 0 {
		from = l.textEnds[i-1]
	}
	return string(l.text[from:l.textEnds[i]])
}

// check compares the log with the checkpoint of an earlier process, when it gets there.
func (l *Log) check() error {
	if l.expected.Event > 0 && len(l.ends)-1 == l.expected.Event && l.sum != l.expected.Sum {
		return ErrDiverged
	}
	return nil
}

// Recover makes the log of a task that an earlier process was running: subscribers may name events that are still to be
// decoded again, and the checkpoint must be met.
func Recover(first task.Started, c task.Checkpoint) *Log {
	l := New(first)
	l.expected, l.recovering = c, true
	return l
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

func (l *Log) token(text string) {
	l.data.Reset()
	l.data.RawStr(`{"t":`)
	l.data.Str(text)
	l.data.RawStr(`,"i":`)
	l.data.Int(len(l.textEnds))
	l.data.ObjEnd()
	l.text = append(l.text, text...)
	l.textEnds = append(l.textEnds, len(l.text))
	l.transcript.Write(l.text[len(l.text)-len(text):])
	l.append(token)
}

// Seal fences the log: no token is appended after it. It returns the id of the last event and whether this call sealed it.
func (l *Log) Seal() (lastEventID string, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first = !l.sealed
	l.sealed = true
	return l.lastID(), first
}

// End seals the log, if it isn't, appends the `end` event and returns its id. Nobody sees it before Publish, so that it can
// be recorded first. A log takes one terminal event; later ones are ignored.
func (l *Log) End(e task.End) string { return l.terminate(end, mustJSON(e)) }

// Fail is End for the `error` event.
func (l *Log) Fail(e *task.Error) string {
	l.mu.Lock()
	if l.failure == nil {
		l.failure = e
	}
	l.mu.Unlock()
	return l.terminate(failed, mustJSON(e.Envelope()))
}

func (l *Log) terminate(event, data []byte) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.sealed, l.ended = true, true
		l.data.Buf = data
		l.append(event)
	}
	return l.lastID()
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

// append encodes l.data as the next event. The caller holds mu.
func (l *Log) append(event []byte) {
	l.running.Write(event)
	l.running.Write(l.data.Buf)
	l.running.Write(lineFeed)
	var t tag
	l.running.Sum(l.sum[:0])
	copy(t[:], l.sum[:])

	c := l.room(len(event) + len(l.data.Buf) + frameSize)
	b := append(c.data, "id: "...)
	b = appendID(b, len(l.ends), t)
	b = append(b, "\nevent: "...)
	b = append(b, event...)
	b = append(b, "data: "...)
	b = append(b, l.data.Buf...)
	c.data = append(b, "\n\n"...)
	l.ends = append(l.ends, c.begin+len(c.data))
	l.tags = append(l.tags, t)
}

// frameSize is the most that a frame has beside its event's name and data.
const frameSize = len("id: 9223372036854775807-12345678\nevent: data: \n\n")

// room is the last chunk, with room for so many bytes. The caller holds mu.
func (l *Log) room(n int) *chunk {
	begin, size := 0, firstChunk
	if len(l.chunks) > 0 {
		last := &l.chunks[len(l.chunks)-1]
		if cap(last.data)-len(last.data) >= n {
			return last
		}
		begin, size = last.begin+len(last.data), min(2*cap(last.data), maxChunk)
	}
	l.chunks = append(l.chunks, chunk{begin: begin, data: make([]byte, 0, max(size, n))})
	return &l.chunks[len(l.chunks)-1]
}

// frames returns the encoded events from the given one on and before the other: as many of them, but at least one, as lie in
// one chunk and have no more than maxWrite bytes. To is the event behind them. The caller holds mu.
func (l *Log) frames(from, before int) (b []byte, to int) {
	begin := 0
	if from > 0 {
		begin = l.ends[from-1]
	}
	at, found := slices.BinarySearchFunc(l.chunks, begin, func(c chunk, begin int) int { return c.begin - begin })
	if !found {
		at--
	}
	c := l.chunks[at]
	to = from + 1
	for to < before && l.ends[to] <= c.begin+len(c.data) && l.ends[to]-begin <= maxWrite {
		to++
	}
	end := l.ends[to-1] - c.begin
	return c.data[begin-c.begin : end : end], to
}

func (l *Log) wakeAll() {
	for _, s := range l.subs {
		s.wake()
	}
}

// LastEventID is the id of the last event that subscribers may have.
func (l *Log) LastEventID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.visible() - 1
	return string(appendID(nil, last, l.tags[last]))
}

func (l *Log) lastID() string {
	last := len(l.ends) - 1
	return string(appendID(nil, last, l.tags[last]))
}

// Tokens is the number of token events so far.
func (l *Log) Tokens() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.textEnds)
}

// Transcript returns the text so far and its SHA-256, hex.
func (l *Log) Transcript() (t task.Transcript, digest string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ends := make([]int, len(l.textEnds))
	copy(ends, l.textEnds)
	return task.Transcript{Text: string(l.text), Ends: ends}, hex.EncodeToString(l.transcript.Sum(nil))
}

// tag is the part of the running SHA-256 that an event id shows.
type tag [4]byte

func appendID(b []byte, seq int, t tag) []byte {
	b = strconv.AppendInt(b, int64(seq), 10)
	b = append(b, '-')
	return hex.AppendEncode(b, t[:])
}

// parseID reads an event id. The only valid form is the one appendID writes.
func parseID(id string) (seq int, t tag, ok bool) {
	number, digest, found := bytes.Cut([]byte(id), []byte("-"))
	if !found || len(digest) != hex.EncodedLen(len(t)) {
		return 0, t, false
	}
	seq, err := strconv.Atoi(string(number))
	if err != nil || seq < 0 {
		return 0, t, false
	}
	if _, err := hex.Decode(t[:], digest); err != nil {
		return 0, t, false
	}
	return seq, t, string(appendID(nil, seq, t)) == id
}

// mustJSON encodes plain structs of this module, which cannot fail.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("stream: " + err.Error())
	}
	return b
}
