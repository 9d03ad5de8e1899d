// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
)

const (
	defaultLines = 100
	logKeepAlive = 15 * time.Second
)

// Logs has the lines of the log.
type Logs interface {
	// Read begins with the oldest line that is kept.
	Read() LogReader
}

// LogReader reads lines, one after the other.
type LogReader interface {
	// Past gives the next of the lines that were there when the reader was made. It is false where there are no more.
	Past() (LogLine, bool)
	// Next waits for the next line. It is io.EOF where there will be none.
	Next(ctx context.Context) (LogLine, error)
}

// LogLine is a line of the log.
type LogLine struct {
	Level zapcore.Level
	Lost  int                    // lines that the reader missed before this one
	JSON  func() ([]byte, error) // the line as an object
}

type noLogs struct{}

func (noLogs) Read() LogReader                       { return noLogs{} }
func (noLogs) Past() (LogLine, bool)                 { return LogLine{}, false }
func (noLogs) Next(context.Context) (LogLine, error) { return LogLine{}, io.EOF }

// StreamLogs sends lines of the log (LO-623).
func (h control) StreamLogs(ctx context.Context, p gen.StreamLogsParams, w http.ResponseWriter) error {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if gate.CallFrom(ctx).Head {
		return nil
	}
	conn := http.NewResponseController(w)
	defer func() { _ = conn.SetWriteDeadline(time.Time{}) }() // or it would end the connection's next request
	out := &logStream{w: w, conn: conn, filter: newFilter(p), pace: delivery.Pace{Set: conn.SetWriteDeadline, Timeout: h.WriteTimeout}}
	reader := h.Logs.Read()
	if err := out.past(reader, p.Last.Or(defaultLines)); err != nil || !p.Follow.Or(true) {
		return nil // a client that is gone, where the answer has begun
	}
	call, sent := gate.CallFrom(ctx), time.Now()
	for {
		waiting, stop := context.WithDeadline(ctx, sent.Add(logKeepAlive))
		line, err := reader.Next(waiting)
		stop()
		if ctx.Err() != nil || errors.Is(err, io.EOF) || call.Over() {
			return nil
		}
		quiet := err != nil || time.Since(sent) >= logKeepAlive // there may be lines all the time that the client does not want
		var text []byte
		if err == nil {
			if text, err = out.event(nil, line); err != nil {
				return nil
			}
		}
		if len(text) == 0 && quiet {
			text = []byte(": keep-alive\n\n")
		}
		if len(text) == 0 {
			continue
		}
		if out.send(text) != nil {
			return nil
		}
		sent = time.Now()
	}
}

// logStream writes events to one client.
type logStream struct {
	w      io.Writer
	conn   *http.ResponseController
	pace   delivery.Pace
	filter LogFilter
}

// past sends the last of the wanted lines that are there.
func (s *logStream) past(reader LogReader, last int) error {
	var events [][]byte
	for line, more := reader.Past(); more; line, more = reader.Past() {
		text, err := s.event(nil, line)
		if err != nil {
			return err
		}
		if len(text) > 0 {
			events = append(events, text)
		}
	}
	return s.send(bytes.Join(events[max(len(events)-last, 0):], nil))
}

// event appends a line's event, if it is wanted, behind the one that says how many are missing.
func (s *logStream) event(to []byte, line LogLine) ([]byte, error) {
	if line.Lost > 0 {
		to = fmt.Appendf(to, "event: lost\ndata: {\"lines\":%d}\n\n", line.Lost)
	}
	text, err := s.filter.Wanted(line)
	if err != nil || text == nil {
		return to, err
	}
	return fmt.Appendf(to, "event: line\ndata: %s\n\n", text), nil
}

func (s *logStream) send(text []byte) error {
	if err := s.pace.Bound(); err != nil {
		return err
	}
	if _, err := s.w.Write(text); err != nil {
		return fmt.Errorf("send lines of the log: %w", err)
	}
	return s.conn.Flush()
}

// LogFilter tells the lines that a client asks for. What is empty does not count.
type LogFilter struct {
	Level  zapcore.Level // and graver ones
	PoolID string
	TaskID string // a task may be named by its short id too
	Text   string // in small letters
}

func newFilter(p gen.StreamLogsParams) LogFilter {
	f := LogFilter{Level: zapcore.DebugLevel, PoolID: string(p.PoolID.Value), TaskID: string(p.TaskID.Value), Text: strings.ToLower(p.Text.Value)}
	if p.Level.Set {
		_ = f.Level.UnmarshalText([]byte(p.Level.Value)) // the contract's names are zap's
	}
	return f
}

// Wanted is a line as JSON, or nil where nobody asked for it.
func (f LogFilter) Wanted(line LogLine) ([]byte, error) {
	if line.Level < f.Level {
		return nil, nil
	}
	text, err := line.JSON()
	if err != nil {
		return nil, fmt.Errorf("write a line of the log: %w", err)
	}
	if f.Text != "" && !f.says(text) || !f.about(text) {
		return nil, nil
	}
	return text, nil
}

// about reports whether a line is about the pool and the task.
func (f LogFilter) about(line []byte) bool {
	if f.PoolID == "" && f.TaskID == "" {
		return true
	}
	var about struct {
		PoolID string `json:"pool_id"`
		JobID  string `json:"job_id"`
		TaskID string `json:"task_id"`
		Task   string `json:"task"`
	}
	if json.Unmarshal(line, &about) != nil {
		return false
	}
	return (f.PoolID == "" || about.PoolID == f.PoolID) && (f.TaskID == "" || about.JobID == f.TaskID || about.TaskID == f.TaskID || about.Task == f.TaskID)
}

// says reports whether a value of the line has the text. The names of its fields are not searched, nor is its time.
func (f LogFilter) says(line []byte) bool {
	from := json.NewDecoder(bytes.NewReader(line))
	from.UseNumber() // as it is written
	var fields map[string]any
	if from.Decode(&fields) != nil {
		return false
	}
	delete(fields, "ts")
	return f.within(fields)
}

func (f LogFilter) within(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		return slices.ContainsFunc(slices.Collect(maps.Values(v)), f.within)
	case []any:
		return slices.ContainsFunc(v, f.within)
	}
	return strings.Contains(strings.ToLower(fmt.Sprint(value)), f.Text)
}
