// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/contain"
)

// The bounds of what waits to be written, in bytes. Narrated lines may take half of it, so that they are dropped first. Audit lines are never
// dropped.
const (
	bufferBytes = 4 << 20
	batchBytes  = 64 << 10 // of one write
)

// flushWithin bounds the wait for the last lines at the end of the process.
const flushWithin = time.Second

// auditRetry is how long a line that must not get lost waits for the output to take it again.
const auditRetry = time.Second

// kind says how much a line matters when not all can be kept.
type kind int

const (
	plain kind = iota
	narrated
	audit
)

// auditKey is the field that marks an audit line.
const auditKey = "audit"

// Audit marks a line that must not get lost.
func Audit() zap.Field { return zap.Bool(auditKey, true) }

// kindOf tells by its fields what a line is.
func kindOf(fields []zapcore.Field) (k kind) {
	for i := range fields {
		switch fields[i].Key {
		case "human":
			k = max(k, narrated)
		case auditKey:
			return audit
		}
	}
	return k
}

// Buffer keeps lines until the output takes them, and never makes anyone wait for it. Lines for which there is no room are dropped and
// counted (LO-810). One goroutine writes. Close ends it, but does not wait for it: nothing can end a write to a pipe that nobody reads.
type Buffer struct {
	out     io.Writer
	limit   int
	dropped *prometheus.CounterVec

	mu    sync.Mutex
	moved *sync.Cond // there is something to write, or something was written
	lines []*waiting
	bytes int    // of lines, and of those that are being written
	lost  [2]int // plain and narrated lines that were dropped since the last line that says so
	idle  bool   // everything was written
	dead  bool   // the last write failed
	over  bool   // closed

	writing []*waiting // what the write that goes on has
	writes  int        // those that ended well
	aside   aside
	says    func(msg string, fields ...zap.Field) (text []byte, told func()) // makes a line of the buffer's own, and what gives it to the tail

	filing sync.Mutex // held while the file for audit lines is written; taken before mu
}

// waiting is a line. All but aside stays as it is; the buffer's mutex guards that.
type waiting struct {
	kind   kind
	text   []byte
	inJSON []byte // of an audit line: the one for the file
	note   *note  // of a line of the buffer's own
	aside  bool   // the file has it
}

// NewBuffer makes a buffer before an output, and begins to write.
func NewBuffer(out io.Writer) *Buffer { return newBuffer(out, bufferBytes) }

func newBuffer(out io.Writer, limit int) *Buffer {
	b := &Buffer{out: out, limit: limit, idle: true, says: func(string, ...zap.Field) ([]byte, func()) { return nil, func() {} }, dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "llorch_log_lines_dropped_total",
		Help: "Log lines that were dropped, because nobody read the log or because it could not be written.",
	}, []string{"kind"})}
	b.moved = sync.NewCond(&b.mu)
	for _, name := range kindNames {
		b.dropped.WithLabelValues(name)
	}
	go b.run() // until Close
	return b
}

var kindNames = [...]string{plain: "plain", narrated: "narrated"}

// speak tells the buffer how its own lines look.
func (b *Buffer) speak(says func(msg string, fields ...zap.Field) (text []byte, told func())) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.says = says
}

// Dropped counts what was dropped. It is to be registered.
func (b *Buffer) Dropped() prometheus.Collector { return b.dropped }

// Write takes text that is no line of the log, such as a table. It never fails.
func (b *Buffer) Write(text []byte) (int, error) {
	b.put(plain, append([]byte(nil), text...), nil)
	return len(text), nil
}

// put takes a line, which the caller must not change any more. That of an audit line is wanted in JSON too.
func (b *Buffer) put(k kind, text, inJSON []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return
	}
	room := b.limit - b.bytes
	if k == narrated {
		room = b.limit/2 - b.bytes
	}
	if k != audit && len(text) > room {
		b.drop(k)
		return
	}
	b.lines, b.bytes, b.idle = append(b.lines, &waiting{kind: k, text: text, inJSON: inJSON}), b.bytes+len(text), false
	b.moved.Broadcast()
	if k == audit && b.aside.news != nil {
		b.aside.news.Broadcast()
	}
}

// drop counts a line that is not written. The caller holds mu.
func (b *Buffer) drop(k kind) {
	b.lost[k]++
	b.dropped.WithLabelValues(kindNames[k]).Inc()
}

// Sync waits a moment until all lines are written.
func (b *Buffer) Sync() error {
	late := false
	timer := time.AfterFunc(flushWithin, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		late = true
		b.moved.Broadcast()
	})
	defer timer.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.idle && !late && !b.dead {
		b.moved.Wait()
	}
	if !b.idle {
		return errors.New("the log does not take the last lines")
	}
	return nil
}

// Close waits a moment until all lines are written. Later ones are not. Audit lines that the output does not take are in the file when it returns.
func (b *Buffer) Close() error {
	err := b.Sync()
	b.mu.Lock()
	files := b.aside.path != ""
	b.mu.Unlock()
	if err != nil && files {
		b.putAside()
	}
	b.mu.Lock()
	if files && !b.over {
		close(b.aside.closed)
		b.aside.news.Broadcast()
	}
	b.over = true
	b.moved.Broadcast()
	b.mu.Unlock()
	if files {
		<-b.aside.watched
	}
	return err
}

func (b *Buffer) run() {
	for {
		lines, text := b.take()
		if len(lines) == 0 {
			return
		}
		// A panic is a write that failed: who writes the log has no log to tell it in.
		n, err := contain.Try(func() (int, error) { return b.out.Write(text) })
		if b.written(lines, n, err) > 0 {
			time.Sleep(auditRetry)
		}
	}
}

// written notes how a write of these lines went: so many bytes were taken. It returns how many of the lines are to be written again.
func (b *Buffer) written(lines []*waiting, n int, err error) (again int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead, b.writing = err != nil, nil
	if err == nil {
		b.writes++
	}
	var kept []*waiting
	for _, l := range lines {
		n -= len(l.text)
		taken := err == nil || n >= 0
		if !taken && l.kind == audit && !l.aside {
			kept = append(kept, l)
			continue
		}
		b.bytes -= len(l.text)
		switch {
		case l.note != nil && taken:
			l.note.told()
		case l.note != nil:
			b.untold(l.note)
		case !taken && !l.aside:
			b.drop(l.kind)
		}
	}
	b.lines = append(kept, b.lines...)
	b.idle = len(b.lines) == 0
	b.moved.Broadcast()
	return len(kept)
}

// take waits for lines and returns the next ones, with their text. If lines were dropped, it begins with one that says how many. After Close
// it returns none.
func (b *Buffer) take() (lines []*waiting, text []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.lines) == 0 && !b.over {
		b.moved.Wait()
	}
	if b.over {
		return nil, nil
	}
	if !b.dead {
		b.notes()
	}
	count := 0
	for count < len(b.lines) && (count == 0 || len(text)+len(b.lines[count].text) <= batchBytes) {
		text = append(text, b.lines[count].text...)
		count++
	}
	lines = b.lines[:count:count]
	b.lines, b.writing = b.lines[count:], lines
	return lines, text
}
