// SPDX-License-Identifier: GPL-3.0-or-later

package selftest

import (
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Listener listens to the log, and remembers which narrated lines it had about the self-test's tasks.
type Listener struct {
	zapcore.Core // the log's own

	done  atomic.Bool
	mu    sync.Mutex
	lines map[string]map[string]bool // by job_id
}

// Listen returns a logger that writes to the log, and what listens to it.
func Listen(log *zap.Logger) (*Listener, *zap.Logger) {
	l := &Listener{Core: log.Core(), lines: map[string]map[string]bool{}}
	return l, log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return zapcore.NewTee(core, l) }))
}

// With is zapcore.Core's. None of the fields that a logger always has is looked for.
func (l *Listener) With([]zapcore.Field) zapcore.Core { return l }

// Check is zapcore.Core's.
func (l *Listener) Check(entry zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !l.done.Load() && l.Enabled(entry.Level) {
		return to.AddCore(entry, l)
	}
	return to
}

// Write is zapcore.Core's.
func (l *Listener) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	id, ours := "", false
	for _, f := range fields {
		switch f.Key {
		case "job_id":
			id = f.String
		case "actor":
			ours = f.String == actor
		}
	}
	if !ours {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines[id] == nil {
		l.lines[id] = map[string]bool{}
	}
	l.lines[id][entry.Message] = true
	return nil
}

// stop ends the listening: no later line costs anything.
func (l *Listener) stop() { l.done.Store(true) }

// Sync is zapcore.Core's: nothing waits here.
func (l *Listener) Sync() error { return nil }

// missing names a narrated line that every task should have, and that one of these lacks. It is empty where none lacks any, or where
// the log's level keeps them out.
func (l *Listener) missing(ids []string) string {
	if !l.Enabled(zapcore.InfoLevel) {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		for _, line := range []string{"admission", "placement", "stream_start"} {
			if !l.lines[id][line] {
				return line
			}
		}
		if !l.lines[id]["stream_end"] && !l.lines[id]["cancel"] {
			return "stream_end"
		}
	}
	return ""
}
