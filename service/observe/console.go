// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

// consoleEncoder writes lines for a person (LO-620): when, how grave, who, the sentence, then what it leaves out.
type consoleEncoder struct {
	zapcore.ObjectEncoder // keeps the fields of With

	kept     *zapcore.MapObjectEncoder
	redactor *Redactor
	colour   bool
}

func newConsoleEncoder(r *Redactor, colour bool) *consoleEncoder {
	kept := zapcore.NewMapObjectEncoder()
	return &consoleEncoder{ObjectEncoder: kept, kept: kept, redactor: r, colour: colour}
}

// Clone implements zapcore.Encoder.
func (e *consoleEncoder) Clone() zapcore.Encoder {
	c := newConsoleEncoder(e.redactor, e.colour)
	maps.Copy(c.kept.Fields, e.kept.Fields)
	return c
}

var consoleBuffers = buffer.NewPool()

// The columns of a line.
const (
	loggerWidth = 9
	noColour    = "\x1b[0m"
	dim         = "\x1b[2m"
)

// levels are what a level is called, with its colour.
var levels = map[zapcore.Level]struct{ name, colour string }{
	zapcore.DebugLevel: {"debug", "\x1b[35m"},
	zapcore.InfoLevel:  {"info ", "\x1b[32m"},
	zapcore.WarnLevel:  {"WARN ", "\x1b[33m"},
	zapcore.ErrorLevel: {"ERROR", "\x1b[31m"},
}

// unsaid are fields that a console leaves out: the sentence of a narrated line says them, or the task's short id stands for them.
func unsaid(key string, narrated bool) bool {
	switch key {
	case "human", "job_id", auditKey:
		return true
	}
	return narrated && key != "task" && key != "code"
}

// EncodeEntry implements zapcore.Encoder.
func (e *consoleEncoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	line := consoleBuffers.Get()
	human, job, short, tester, audited := "", "", false, false, e.kept.Fields[auditKey] != nil
	for i := range fields {
		switch f := &fields[i]; f.Key {
		case "human":
			human = f.String
		case "job_id":
			job = f.String
		case "task":
			short = true
		case "actor":
			tester = f.String == selfTester
		case auditKey:
			audited = true
		}
	}
	if tester && human != "" && !audited {
		return line, nil // the self-test says itself how it went
	}
	line.AppendTime(entry.Time.Local(), "15:04:05.000")
	level, ok := levels[entry.Level]
	if !ok {
		level = levels[zapcore.ErrorLevel]
	}
	line.AppendByte(' ')
	e.paint(line, level.colour, level.name)
	line.AppendByte(' ')
	name := strings.TrimPrefix(entry.LoggerName, "orchestratord.")
	e.paint(line, dim, name)
	for range max(loggerWidth-len(name), 0) + 1 {
		line.AppendByte(' ')
	}
	if human != "" {
		e.text(line, human)
	} else {
		e.text(line, entry.Message)
	}
	if job != "" && !short {
		e.key(line, "task")
		e.value(line, shortID(job))
	}
	for i := range fields {
		if err := e.field(line, &fields[i], human != ""); err != nil {
			line.Free()
			return nil, err
		}
	}
	if len(e.kept.Fields) > 0 {
		if err := e.rest(line, e.kept, false); err != nil {
			line.Free()
			return nil, err
		}
	}
	line.AppendByte('\n')
	if e.redactor.findsIn(line.Bytes()) {
		clean := e.redactor.redact(append([]byte(nil), line.Bytes()...))
		line.Reset()
		_, _ = line.Write(clean)
	}
	return line, nil
}

// selfTester is the actor of the self-test's tasks.
const selfTester = "self-test"

// field writes a field. A narrated line has but its task, the replica, and a code: its sentence says the rest.
func (e *consoleEncoder) field(line *buffer.Buffer, f *zapcore.Field, narrated bool) error {
	if unsaid(f.Key, narrated) {
		return nil
	}
	switch f.Type {
	case zapcore.SkipType:
	case zapcore.StringType:
		if f.String != "" {
			e.key(line, f.Key)
			e.value(line, f.String)
		}
	case zapcore.Int64Type, zapcore.Int32Type, zapcore.Int16Type, zapcore.Int8Type:
		if f.Integer != 0 || !ofTask(f.Key) {
			e.key(line, f.Key)
			line.AppendInt(f.Integer)
		}
	case zapcore.BoolType:
		e.key(line, f.Key)
		line.AppendBool(f.Integer == 1)
	case zapcore.DurationType:
		e.key(line, f.Key)
		line.AppendInt(time.Duration(f.Integer).Milliseconds())
	case zapcore.Float64Type:
		e.key(line, f.Key)
		line.AppendFloat(math.Float64frombits(uint64(f.Integer)), 64)
	default:
		one := zapcore.NewMapObjectEncoder()
		f.AddTo(one)
		return e.rest(line, one, narrated)
	}
	return nil
}

// ofTask reports whether a field of a task is there also where it is not known yet.
func ofTask(key string) bool {
	switch key {
	case "queue_position", "predicted_start_ms", "tokens_in", "tokens_out", "decode_time_ms":
		return true
	}
	return false
}

// rest writes fields of other types, sorted.
func (e *consoleEncoder) rest(line *buffer.Buffer, of *zapcore.MapObjectEncoder, narrated bool) error {
	keys := make([]string, 0, len(of.Fields))
	for k := range of.Fields {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if unsaid(k, narrated) {
			continue
		}
		e.key(line, k)
		switch v := of.Fields[k].(type) {
		case string:
			e.value(line, v)
		case time.Duration:
			line.AppendInt(v.Milliseconds())
		case time.Time:
			line.AppendTime(v, time.RFC3339)
		case fmt.Stringer:
			e.value(line, v.String())
		default:
			text, err := json.Marshal(v)
			if err != nil {
				return fmt.Errorf("write the field %s: %w", k, err)
			}
			e.bare(line, e.redactor.line(text))
		}
	}
	return nil
}

func (e *consoleEncoder) key(line *buffer.Buffer, key string) {
	line.AppendString("  ")
	if e.colour {
		line.AppendString(dim)
	}
	line.AppendString(key)
	line.AppendByte('=')
	if e.colour {
		line.AppendString(noColour)
	}
}

// value writes a text, in quotes where it would not be told from what follows. A UUID is shortened, as everywhere on a console.
func (e *consoleEncoder) value(line *buffer.Buffer, text string) {
	if isUUID(text) && !e.redactor.findsIn([]byte(text)) { // else what is left of a secret would not be found
		text = shortID(text)
	}
	if text == "" || strings.ContainsAny(text, " =\"") || !printable(text) {
		text = strconv.Quote(e.redactor.String(text))
	}
	line.AppendString(text)
}

// text writes a sentence, without what would move a terminal's cursor or change its colours.
func (e *consoleEncoder) text(line *buffer.Buffer, text string) {
	if !printable(text) {
		text = strconv.Quote(e.redactor.String(text))
	}
	line.AppendString(text)
}

// bare writes JSON, in which some control characters stand as they are.
func (e *consoleEncoder) bare(line *buffer.Buffer, text []byte) {
	if s := string(text); printable(s) {
		line.AppendString(s)
	} else {
		line.AppendString(strconv.Quote(s))
	}
}

// printable reports whether a terminal shows a text as it is.
func printable(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f {
			return c >= utf8.RuneSelf && printableRunes(text)
		}
	}
	return true
}

func printableRunes(text string) bool {
	for _, r := range text {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

func (e *consoleEncoder) paint(line *buffer.Buffer, colour, text string) {
	if !e.colour || text == "" {
		line.AppendString(text)
		return
	}
	line.AppendString(colour)
	line.AppendString(text)
	line.AppendString(noColour)
}
