// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/ogen-go/ogen/sse"

	"github.com/llama-orch/llama-orch/gen"
)

// LogFilter says which lines of the server's log are wanted. Its zero value wants the last hundred.
type LogFilter struct {
	Level  LogLevel // at least so grave
	PoolID string
	TaskID string // whole, or as LogLine.Task has it
	Text   string // in small or in capital letters
	Last   int    // of the lines that are there, at most; 0: 100; negative: none
	Follow bool   // go on with new lines
}

// LogLine is a line of the server's log.
type LogLine struct {
	Time   time.Time `json:"ts"`
	Level  string    `json:"level"`
	Logger string    `json:"logger"`
	Msg    string    `json:"msg"`
	Human  string    `json:"human"`
	Task   string    `json:"task"` // a short id

	JSON json.RawMessage `json:"-"` // the whole line
	Lost int             `json:"-"` // lines before this one that the client was too slow for
}

// Logs reads lines of the server's log. Without Follow it ends behind those that are there. An error is the last element; a connection that breaks is not
// made again, since lines have no ids.
func (c *Client) Logs(ctx context.Context, f LogFilter) iter.Seq2[LogLine, error] {
	return func(yield func(LogLine, error) bool) {
		if err := c.logs(ctx, f, yield); err != nil {
			yield(LogLine{}, err)
		}
	}
}

func (c *Client) logs(ctx context.Context, f LogFilter, yield func(LogLine, error) bool) error {
	err := cmp.Or(holdSome[gen.LogLevel]("level", string(f.Level)), holdSome[gen.PoolID]("pool_id", f.PoolID), holdSome[gen.TaskID]("task_id", f.TaskID))
	if err != nil {
		return err
	}
	connection, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	last := number(f.Last)
	if f.Last < 0 {
		last = "0"
	}
	follow := "false"
	if f.Follow {
		follow = "true"
	}
	o := get("v1", "logs").with("level", string(f.Level)).with("pool_id", f.PoolID).with("task_id", f.TaskID).with("text", f.Text).with("last", last).with("follow", follow)
	o.header = http.Header{"Accept": {eventStream}}
	response, err := c.send(connection, o)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if kind := mediaType(response); kind != eventStream {
		return &ProtocolError{Err: fmt.Errorf("the answer is of the type %.80q, no event stream", kind)}
	}
	source := &meter{r: response.Body, idle: c.opts.IdleTimeout, silent: func() { cancel(errIdle) }}
	decoder := sse.NewDecoder(source, 0, 0, "", nil)
	lost := 0
	for {
		source.left = c.opts.MaxEventBytes
		frame, err := decoder.Decode()
		switch {
		case errors.Is(err, io.EOF) && !f.Follow:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return &UnreachableError{Addr: c.opts.Addr, Err: cmp.Or(context.Cause(connection), err)}
		}
		switch frame.Type {
		case "lost":
			var gap struct{ Lines int }
			if err := json.Unmarshal([]byte(frame.Data), &gap); err != nil {
				return &ProtocolError{Err: fmt.Errorf("an event of the log: %w", err)}
			}
			lost += gap.Lines
		case "line":
			line := LogLine{JSON: json.RawMessage(frame.Data), Lost: lost}
			if err := json.Unmarshal(line.JSON, &line); err != nil {
				return &ProtocolError{Err: fmt.Errorf("a line of the log: %w", err)}
			}
			if lost = 0; !yield(line, nil) {
				return nil
			}
		}
	}
}
