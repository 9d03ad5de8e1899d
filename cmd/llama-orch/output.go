// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/mattn/go-isatty"
)

// printJSON prints v as one line of JSON.
func (a *app) printJSON(v any) error { return writeJSON(a.out, v) }

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("printing JSON: %w", err)
	}
	return nil
}

// write writes a file that a command was asked for, and makes its folder if it is missing.
func write(file string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return usageError{err}
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return usageError{err}
	}
	return nil
}

// table prints rows of cells in aligned columns. On a terminal that is too narrow for all of them it leaves some out, and says which.
func (a *app) table(rows [][]string) error {
	width := columns(a.out)
	rows, gone := fit(rows, width)
	if err := writeTable(a.out, rows); err != nil {
		return err
	}
	if len(gone) > 0 {
		a.note("left out, since the terminal has %d columns: %s; through a pipe, and with --json, everything is shown", width, strings.Join(gone, ", "))
	}
	return nil
}

// tables prints tables with an empty line between them. It leaves out a table that has only a header.
func (a *app) tables(all ...[][]string) error {
	first := true
	for _, rows := range all {
		if len(rows) < 2 {
			continue
		}
		if !first {
			fmt.Fprintln(a.out)
		}
		first = false
		if err := a.table(rows); err != nil {
			return err
		}
	}
	return nil
}

func writeTable(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = dash(oneLine(cell))
		}
		if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
			return fmt.Errorf("printing a table: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("printing a table: %w", err)
	}
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// note prints a line about what happens. If stderr cannot be written, there is nothing to do about it.
func (a *app) note(format string, args ...any) {
	fmt.Fprintln(a.err, oneLine(fmt.Sprintf(format, args...)))
}

// fail prints an error and returns the exit code.
func (a *app) fail(err error) int {
	code := exitCode(a.ctx, err)
	if _, shown := errors.AsType[quiet](err); shown {
		return code
	}
	message, label, hint, after := a.explain(err)
	if a.json {
		object := map[string]any{"message": message, "exit_code": code}
		if label != "" {
			object["code"] = label
		}
		if hint != "" {
			object["hint"] = hint
		}
		if after > 0 {
			object["retry_after_ms"] = after.Milliseconds()
		}
		if err := writeJSON(a.err, object); err == nil {
			return code
		}
	}
	if label != "" {
		message += " (" + label + ")"
	}
	a.note("error: %s", message)
	if after > 0 {
		a.note("retry: in %s", duration(after.Milliseconds()))
	}
	if hint != "" {
		a.note("hint: %s", hint)
	}
	return code
}

// terminal reports whether w is a terminal.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// colours reports whether what is written to a terminal may be coloured, or dimmed (https://no-color.org).
func (a *app) colours(terminal bool) bool {
	return terminal && a.env("NO_COLOR") == "" && a.env("TERM") != "dumb"
}

// oneLine makes text from elsewhere fit for one line of a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		return visible(r)
	}, s)
}

// visible drops characters that would control the terminal. It is for strings.Map.
func visible(r rune) rune {
	if r != '\n' && r != '\t' && unicode.IsControl(r) {
		return -1
	}
	return r
}

// duration prints milliseconds for a person.
func duration(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", ms)
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
