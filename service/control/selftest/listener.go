// SPDX-License-Identifier: GPL-3.0-or-later

package selftest

import (
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/task"
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

// With implements zapcore.Core. It ignores the fields: the listener looks at those of single lines alone.
func (l *Listener) With([]zapcore.Field) zapcore.Core { return l }

// Check implements zapcore.Core.
func (l *Listener) Check(entry zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !l.done.Load() && l.Enabled(entry.Level) {
		return to.AddCore(entry, l)
	}
	return to
}

// Write implements zapcore.Core.
func (l *Listener) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	id, ours := "", false
	for _, f := range fields {
		switch f.Key {
		case "job_id":
			id = f.String
		case "actor":
			ours = f.String == task.SelfTester
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

// stop ends the listening. Later lines cost nothing.
func (l *Listener) stop() { l.done.Store(true) }

// Sync implements zapcore.Core. There is nothing to write out.
func (l *Listener) Sync() error { return nil }

// missing returns the name of a narrated line that one of these tasks lacks. It is empty where none lacks a line, and where the log's
// level keeps the lines out.
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
