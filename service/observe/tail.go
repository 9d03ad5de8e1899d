// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"context"
	"io"
	"slices"
	"sync"

	"go.uber.org/zap/zapcore"
)

// The bounds of what a Tail keeps.
const (
	tailLines = 1024
	tailBytes = 1 << 20
)

// Tail keeps the last lines of the log, and hands them to readers as they come (LO-623). A reader that is too slow loses lines, and is told how many: nobody who
// writes the log waits for one. Its methods may be called from several goroutines.
type Tail struct {
	mu    sync.Mutex
	lines []Line // a ring
	first uint64 // the number of the oldest line that is kept
	next  uint64 // the number that the next line gets
	bytes int
	wake  chan struct{} // closed by the next line, or by Close; nil: nobody waits
	over  bool          // closed
}

// NewTail makes a Tail.
func NewTail() *Tail { return &Tail{lines: make([]Line, tailLines)} }

// Line is a line of the log.
type Line struct {
	Level zapcore.Level
	Lost  int // lines that the reader missed before this one

	text []byte // JSON with its line feed. Where it is nil, it is made of the rest when somebody reads it
	late *late
	size int // in the tail
}

type late struct {
	encoder zapcore.Encoder
	entry   zapcore.Entry
	fields  []zapcore.Field
}

// JSON is the line as a JSON object without a line feed, as the log has it where it is JSON.
func (l *Line) JSON() ([]byte, error) {
	if l.text == nil {
		text, err := encoded(l.late.encoder, l.late.entry, l.late.fields)
		if err != nil {
			return nil, err
		}
		l.text = text
	}
	return l.text[:len(l.text)-1], nil
}

// fieldBytes is what a field takes that waits to be written, without its text.
const fieldBytes = 64

// sizeOf is what fields take that wait to be written.
func sizeOf(fields []zapcore.Field) (size int) {
	for i := range fields {
		size += fieldBytes + len(fields[i].String)
	}
	return size
}

// keep makes a line of fields, which are only written if somebody reads it. Fields that may change in the meantime are written now. The encoder has
// fields already, which take so many bytes.
func keep(encoder zapcore.Encoder, e zapcore.Entry, fields []zapcore.Field, has int) (Line, error) {
	l := Line{Level: e.Level, late: &late{encoder, e, fields}, size: len(e.Message) + sizeOf(fields) + has + 4*fieldBytes}
	for i := range fields {
		switch fields[i].Type {
		case zapcore.StringType, zapcore.Int64Type, zapcore.Int32Type, zapcore.BoolType, zapcore.DurationType, zapcore.Float64Type, zapcore.Uint64Type, zapcore.SkipType:
		default:
			text, err := l.JSON()
			return Line{Level: e.Level, text: l.text, size: len(text)}, err
		}
	}
	l.late.fields = slices.Clone(fields)
	return l, nil
}

const verbatimKey = "verbatim"

// Verbatim marks a line with another program's own words, which may be anything. It is in the log alone: no Tail gets it.
func Verbatim() zapcore.Field { return zapcore.Field{Key: verbatimKey, Type: zapcore.SkipType} }

func verbatim(fields []zapcore.Field) bool {
	return slices.ContainsFunc(fields, func(f zapcore.Field) bool { return f.Key == verbatimKey })
}

func (t *Tail) put(l Line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.next-t.first == uint64(len(t.lines)) || t.first < t.next && t.bytes+l.size > tailBytes {
		oldest := &t.lines[t.first%tailLines]
		t.bytes -= oldest.size
		*oldest = Line{}
		t.first++
	}
	t.lines[t.next%tailLines] = l
	t.bytes += l.size
	t.next++
	t.tell()
}

// tell wakes whoever waits. The caller holds mu.
func (t *Tail) tell() {
	if t.wake != nil {
		close(t.wake)
		t.wake = nil
	}
}

// Close ends the readers, once they have read what is there.
func (t *Tail) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	t.tell()
}

// Reader reads lines of a Tail, one after the other.
type Reader struct {
	tail *Tail
	next uint64
	end  uint64
}

// Read begins with the last lines that are kept, at most so many.
func (t *Tail) Read(last int) *Reader {
	t.mu.Lock()
	defer t.mu.Unlock()
	have := t.next - t.first
	return &Reader{tail: t, next: t.next - min(have, uint64(max(last, 0))), end: t.next}
}

// Past gives the next of the lines that were there when the reader was made. It is false where there are no more.
func (r *Reader) Past() (Line, bool) {
	r.tail.mu.Lock()
	defer r.tail.mu.Unlock()
	if r.next >= r.end {
		return Line{}, false
	}
	return r.take(), true
}

// Next waits for the next line. After Close it is io.EOF.
func (r *Reader) Next(ctx context.Context) (Line, error) {
	for {
		r.tail.mu.Lock()
		if r.next < r.tail.next {
			defer r.tail.mu.Unlock()
			return r.take(), nil
		}
		if r.tail.over {
			r.tail.mu.Unlock()
			return Line{}, io.EOF
		}
		if r.tail.wake == nil {
			r.tail.wake = make(chan struct{})
		}
		wake := r.tail.wake
		r.tail.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return Line{}, context.Cause(ctx)
		}
	}
}

// take is for holders of the tail's mutex, where there is a line.
func (r *Reader) take() Line {
	lost := 0
	if r.next < r.tail.first {
		lost = int(r.tail.first - r.next)
		r.next = r.tail.first
	}
	l := r.tail.lines[r.next%tailLines]
	l.Lost = lost
	r.next++
	return l
}
