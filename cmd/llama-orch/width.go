// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"io"
	"os"
	"slices"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// The bounds of what is done to a table that is wider than its terminal.
const (
	gap      = 2  // between two columns
	leastCut = 12 // characters that are left of a cell that is cut
)

// expendable are the columns that a table does without on a narrow terminal, those that are missed least first. The first column of
// a table is never left out.
var expendable = []string{
	"INPUT", "FLAGS", "BUILD", "TAGS", "TYPE", "LIFECYCLE", "LOADED", "WORKLOAD", "SIGNATURE", "VERIFIED", "QUANTISATION", "ARCHITECTURE", "PARAMETERS",
	"CTX MAX", "RESTARTS", "LOADED IN", "ENGINE VERSION", "PLANE", "ENGINE", "HEALTHY", "TEMP", "ENERGY", "POWER", "EXPECTED", "TAKEN", "PROMISED", "OTHERS",
	"AHEAD", "PRIORITY", "DEVICE", "GPU", "CTX", "BUSY", "PREPARED", "DIGEST", "BYTES", "POOL", "TOKENS", "BEFORE", "CREATED", "VRAM FREE", "MODE",
	"PRELOAD", "DECODE", "CANCEL", "METRICS", "LOG", "TASK", "ID", "MODIFIED", "UNTIL", "PROCESSOR", "CONTEXT", "QUEUED", "RUNNING", "POOLS", "SIZE", "OF", "FREE",
}

// fit makes a table fit a terminal of a width; 0: there is no bound. It leaves out columns without a value, then expendable ones, and
// at last it cuts long cells. It returns the names of the columns that had values and are left out. Tables of names and values, which have
// two columns, stay as they are: their lines may wrap.
func fit(rows [][]string, width int) (fitting [][]string, gone []string) {
	if width <= 0 || len(rows) == 0 || len(rows[0]) <= 2 || wide(rows) <= width {
		return rows, nil
	}
	rows = slices.Clone(rows)
	for at := len(rows[0]) - 1; at > 0 && wide(rows) > width; at-- {
		if !slices.ContainsFunc(rows[1:], func(row []string) bool { return row[at] != "" && row[at] != "-" }) {
			rows = without(rows, at)
		}
	}
	for _, name := range expendable {
		if wide(rows) <= width {
			break
		}
		if at := slices.Index(rows[0], name); at > 0 {
			rows, gone = without(rows, at), append(gone, name)
		}
	}
	for wide(rows) > width && cutWidest(rows, wide(rows)-width) {
		continue
	}
	return rows, gone
}

func without(rows [][]string, at int) [][]string {
	less := make([][]string, len(rows))
	for i, row := range rows {
		less[i] = slices.Delete(slices.Clone(row), at, at+1)
	}
	return less
}

// cutWidest cuts that column behind the first one which has the most to give, by so many characters or as far as it goes. False: none has any.
func cutWidest(rows [][]string, by int) bool {
	widest, most, to := 0, 0, 0
	for at := 1; at < len(rows[0]); at++ {
		size, least := cellWidth(rows, at), max(leastCut, utf8.RuneCountInString(rows[0][at]))
		if size-least > most {
			widest, most, to = at, size-least, max(size-by, least)
		}
	}
	if most == 0 {
		return false
	}
	for i, row := range rows {
		rows[i] = slices.Clone(row)
		rows[i][widest] = clip(oneLine(row[widest]), to)
	}
	return true
}

// clip cuts text to a number of characters, the last of which then says that it is cut.
func clip(s string, to int) string {
	if to <= 0 || utf8.RuneCountInString(s) <= to {
		return s
	}
	return string([]rune(s)[:to-1]) + "…"
}

// wide is the width of a table as it would be printed.
func wide(rows [][]string) int {
	n := -gap
	for at := range rows[0] {
		n += gap + cellWidth(rows, at)
	}
	return n
}

func cellWidth(rows [][]string, at int) (n int) {
	for _, row := range rows {
		n = max(n, utf8.RuneCountInString(dash(oneLine(row[at]))))
	}
	return n
}

// columns returns a terminal's width, or 0 if it is unknown or this is no terminal.
func columns(w io.Writer) int { return int(size(w).Col) }

// rows returns a terminal's height, or 0 if it is unknown or this is no terminal.
func rows(w io.Writer) int { return int(size(w).Row) }

func size(w io.Writer) unix.Winsize {
	f, ok := w.(*os.File)
	if !ok {
		return unix.Winsize{}
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return unix.Winsize{}
	}
	return *size
}
