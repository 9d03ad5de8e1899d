// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/sdk"
)

type logsCmd struct {
	Follow bool   `short:"f" help:"Go on with new lines until Ctrl-C."`
	Last   int    `short:"n" default:"100" placeholder:"N" help:"How many of the last lines to begin with (default: 100)."`
	Level  string `default:"debug" enum:"debug,info,warn,error" help:"Only lines that are at least so grave: debug, info, warn or error."`
	Pool   string `placeholder:"ID" help:"Only lines about this pool."`
	Task   string `placeholder:"ID" help:"Only lines about this task."`
	Text   string `placeholder:"TEXT" help:"Only lines that have this text."`
}

// Run prints lines of the server's log.
func (c *logsCmd) Run(a *app) error {
	if c.Last < 0 || c.Last > 1000 {
		return usagef("--last is a number from 0 to 1000")
	}
	filter := sdk.LogFilter{Level: sdk.LogLevel(c.Level), PoolID: c.Pool, TaskID: c.Task, Text: c.Text, Last: c.Last, Follow: c.Follow}
	if c.Last == 0 {
		filter.Last = -1
	}
	for line, err := range a.client.Logs(a.ctx, filter) {
		if err != nil {
			return err
		}
		switch {
		case line.Lost > 0 && a.json:
			if err := a.printJSON(map[string]int{"lost": line.Lost}); err != nil {
				return err
			}
		case line.Lost > 0:
			a.note("%d lines are missing: the server had no room for more", line.Lost)
		}
		if a.json {
			err = a.printJSON(line.JSON)
		} else {
			_, err = fmt.Fprintln(a.out, logLine(&line, a.colours(terminal(a.out))))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var levelColours = map[string]string{"debug": "35", "info": "32", "warn": "33"}

// logLine is a line for a person: the sentence, then what it leaves out.
func logLine(line *sdk.LogLine, colours bool) string {
	paint := func(colour, text string) string {
		if !colours || text == "" {
			return text
		}
		return "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
	colour, ok := levelColours[line.Level]
	if !ok {
		colour = "31"
	}
	var b strings.Builder
	logger := oneLine(line.Logger)
	fmt.Fprintf(&b, "%s %s %s%s ", line.Time.Local().Format("15:04:05.000"), paint(colour, fmt.Sprintf("%-5s", oneLine(line.Level))), paint("2", logger), strings.Repeat(" ", max(9-len(logger), 0)))
	if line.Human != "" {
		b.WriteString(oneLine(line.Human))
	} else {
		b.WriteString(oneLine(line.Msg))
	}
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(line.JSON, &fields) // it was read before
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if value := shownField(line, name, fields[name]); value != "" {
			b.WriteString("  " + paint("2", oneLine(name)+"=") + value)
		}
	}
	return b.String()
}

// shownField is a field's value, or nothing where the sentence says it, or where it is of a task and not known yet.
func shownField(line *sdk.LogLine, name string, value json.RawMessage) string {
	switch name {
	case "ts", "level", "logger", "msg", "human", "audit":
		return ""
	case "task", "code":
	case "queue_position", "predicted_start_ms", "tokens_in", "tokens_out", "decode_time_ms":
		if line.Human != "" || string(value) == "0" {
			return ""
		}
	case "job_id":
		if line.Task != "" {
			return ""
		}
	default:
		if line.Human != "" {
			return ""
		}
	}
	var text string
	if json.Unmarshal(value, &text) != nil {
		return oneLine(string(value))
	}
	if strings.ContainsAny(text, " =\"") {
		return oneLine(string(value))
	}
	return oneLine(text)
}
