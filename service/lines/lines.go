// SPDX-License-Identifier: GPL-3.0-or-later

// Package lines cuts the output of a process into lines of bounded length.
package lines

import (
	"bytes"
	"strings"
)

// Cutter passes each line that is written to it on, as valid UTF-8 and without white space at its end; empty lines are left out. Only one
// goroutine may write.
type Cutter struct {
	Limit int // bytes kept of a line; the rest becomes an ellipsis
	Each  func(line string)

	part []byte
	cut  bool // the line's rest is dropped
}

// Write implements io.Writer. It never fails.
func (c *Cutter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		head, rest, whole := bytes.Cut(p, []byte{'\n'})
		p = rest
		if room := c.Limit - len(c.part); len(head) > room {
			head, c.cut = head[:room], true
		}
		c.part = append(c.part, head...)
		if whole {
			c.Flush()
		}
	}
	return n, nil
}

// Flush passes on what was written after the last line's end.
func (c *Cutter) Flush() {
	line := strings.ToValidUTF8(strings.TrimRight(string(c.part), "\r \t"), "\uFFFD")
	if c.cut {
		line += "…"
	}
	c.part, c.cut = c.part[:0], false
	if line != "" {
		c.Each(line)
	}
}
