// SPDX-License-Identifier: GPL-3.0-or-later

// Package observe is what the operator of a server sees: its log, the narration of each task's way, and its metrics under the names
// of the contract. It keeps secrets out of the log. Every package of service/ may import it, and it imports only task.
package observe

import (
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Options of a logger.
type Options struct {
	Level    string    // debug, info, warn or error; empty: info
	Out      io.Writer // nil: standard error. If it is a Buffer, nobody waits for it
	Redactor *Redactor // nil: only bearer tokens are redacted
}

// NewLogger makes the daemon's logger. Each line is a JSON object with ts (RFC 3339 with nanoseconds, in UTC), level, logger, msg and
// the fields, and with its secrets redacted. Packages are given the logger under their own name: log.Named("scheduler").
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
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		TimeKey:        "ts",
		LevelKey:       "level",
		NameKey:        "logger",
		MessageKey:     "msg",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeDuration: zapcore.MillisDurationEncoder,
		EncodeTime:     func(t time.Time, e zapcore.PrimitiveArrayEncoder) { zapcore.RFC3339NanoTimeEncoder(t.UTC(), e) },
	})
	redacting := &redactingEncoder{encoder, o.Redactor}
	if buffer, ok := o.Out.(*Buffer); ok {
		return zap.New(&bufferedCore{LevelEnabler: level, encoder: redacting, to: buffer}), nil
	}
	return zap.New(zapcore.NewCore(redacting, zapcore.Lock(zapcore.AddSync(o.Out)), level)), nil
}
