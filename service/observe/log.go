// SPDX-License-Identifier: GPL-3.0-or-later

// Package observe is what the operator of a server sees: its log, the narration of each task's way, and its metrics under the names
// of the contract. It keeps secrets out of the log. Every package of service/ may import it, and it imports only task.
package observe

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Options of a logger.
type Options struct {
	Level    string    // debug, info, warn or error; empty: info
	Style    Style     // how lines look
	Out      io.Writer // nil: standard error. If it is a Buffer, nobody waits for it
	Redactor *Redactor // nil: only bearer tokens are redacted
	Tail     *Tail     // gets each line too; nil: none
}

// NewLogger makes the daemon's logger. Each line is a JSON object with ts (RFC 3339 with nanoseconds, in UTC), level, logger, msg and
// the fields, or a line for a console. Its secrets are redacted. Packages are given the logger under their own name: log.Named("scheduler").
func NewLogger(o Options) (*zap.Logger, error) {
	level := zapcore.InfoLevel
	if o.Level != "" {
		var err error
		if level, err = zapcore.ParseLevel(o.Level); err != nil {
			return nil, fmt.Errorf("log level %q: use debug, info, warn or error", o.Level)
		}
	}
	if o.Out == nil {
		o.Out = os.Stderr
	}
	if o.Redactor == nil {
		o.Redactor = NewRedactor()
	}
	inJSON := &redactingEncoder{zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		TimeKey:        "ts",
		LevelKey:       "level",
		NameKey:        "logger",
		MessageKey:     "msg",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeDuration: zapcore.MillisDurationEncoder,
		EncodeTime:     func(t time.Time, e zapcore.PrimitiveArrayEncoder) { zapcore.RFC3339NanoTimeEncoder(t.UTC(), e) },
	}), o.Redactor}
	c := &core{LevelEnabler: level, encoder: inJSON, tail: o.Tail, priorities: o.Style.Priorities}
	if o.Style.Console {
		c.encoder, c.inJSON = newConsoleEncoder(o.Redactor, o.Style.Colour), inJSON
	}
	if buffer, ok := o.Out.(*Buffer); ok {
		c.out = buffer
		buffer.speak(c.own)
	} else {
		c.out = &direct{out: zapcore.Lock(zapcore.AddSync(o.Out))}
	}
	return zap.New(c), nil
}

// output takes whole lines, which nobody changes any more.
type output interface {
	put(k kind, line, inJSON []byte)
	Sync() error
}

// direct is an output for which everyone waits.
type direct struct{ out zapcore.WriteSyncer }

func (d *direct) put(_ kind, line, _ []byte) { _, _ = d.out.Write(line) } // a log that cannot be written has nobody to tell

func (d *direct) Sync() error { return d.out.Sync() }

// core writes lines to an output, and to a tail.
type core struct {
	zapcore.LevelEnabler

	encoder    zapcore.Encoder
	inJSON     zapcore.Encoder // for the tail and for the file of audit lines, where the output has no JSON; else nil
	out        output
	tail       *Tail
	priorities bool
	kind       kind // of all its lines, by the fields of With
	size       int  // of the fields of With
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	with := *c
	with.encoder = c.encoder.Clone()
	if c.inJSON != nil {
		with.inJSON = c.inJSON.Clone()
	}
	for _, f := range fields {
		f.AddTo(with.encoder)
		if with.inJSON != nil {
			f.AddTo(with.inJSON)
		}
	}
	with.kind, with.size = max(c.kind, kindOf(fields)), c.size+sizeOf(fields)
	return &with
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	line, err := c.encode(e, fields)
	if err != nil {
		return err
	}
	k := max(c.kind, kindOf(fields))
	inJSON := line[c.prefix():]
	if c.inJSON != nil {
		inJSON = nil
		if k == audit {
			if inJSON, err = encoded(c.inJSON, e, fields); err != nil {
				return err
			}
		}
	}
	if c.tail != nil && !verbatim(fields) {
		kept := Line{Level: e.Level, text: inJSON, size: len(inJSON)}
		if inJSON == nil {
			if kept, err = keep(c.inJSON, e, fields, c.size); err != nil {
				return err
			}
		}
		c.tail.put(kept)
	}
	if len(line) > c.prefix() {
		c.out.put(k, line, inJSON)
	}
	if e.Level > zapcore.ErrorLevel { // the process is about to end
		return c.out.Sync()
	}
	return nil
}

// Sync implements zapcore.Core.
func (c *core) Sync() error { return c.out.Sync() }

func (c *core) encode(e zapcore.Entry, fields []zapcore.Field) ([]byte, error) {
	text, err := c.encoder.EncodeEntry(e, fields)
	if err != nil {
		return nil, err
	}
	defer text.Free()
	line := make([]byte, 0, c.prefix()+text.Len())
	if c.priorities {
		line = append(line, '<', priority(e.Level), '>')
	}
	return append(line, text.Bytes()...), nil
}

func (c *core) prefix() int {
	if c.priorities {
		return len("<6>")
	}
	return 0
}

// own makes a line of the log about itself, and what gives it to the tail.
func (c *core) own(msg string, fields ...zap.Field) (text []byte, told func()) {
	told = func() {}
	e := zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), LoggerName: "log", Message: msg}
	line, err := c.encode(e, fields)
	if err != nil {
		return nil, told
	}
	if c.tail != nil {
		inJSON := line[c.prefix():]
		if c.inJSON != nil {
			if inJSON, err = encoded(c.inJSON, e, fields); err != nil {
				return nil, told
			}
		}
		told = func() { c.tail.put(Line{Level: e.Level, text: inJSON, size: len(inJSON)}) }
	}
	return line, told
}

// encoded is a line of its own.
func encoded(by zapcore.Encoder, e zapcore.Entry, fields []zapcore.Field) ([]byte, error) {
	text, err := by.EncodeEntry(e, fields)
	if err != nil {
		return nil, err
	}
	defer text.Free()
	return slices.Clone(text.Bytes()), nil
}
