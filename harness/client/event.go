// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Event is one frame of an event stream.
type Event struct {
	ID   string // empty for metrics frames
	Name string
	Data string
}

// Frame returns the event as it was on the wire.
func (e Event) Frame() string {
	frame := "event: " + e.Name + "\ndata: " + e.Data + "\n\n"
	if e.ID != "" {
		frame = "id: " + e.ID + "\n" + frame
	}
	return frame
}

// Terminal reports whether no event may follow this one.
func (e Event) Terminal() bool { return e.Name == "end" || e.Name == "error" }

// AsideID begins the id of an error that ended one stream alone, and not its task.
const AsideID = "999999999999999999-"

// Aside reports whether an event ended this stream alone, and is not of the task's log (LO-827).
func (e Event) Aside() bool { return e.Name == "error" && strings.HasPrefix(e.ID, AsideID) }

// Scanner reads frames. It accepts only what the contract allows: whole frames of UTF-8 with id, event and data in this order, each a line that ends
// with LF, and comments.
type Scanner struct{ in *bufio.Reader }

// ErrBroken is how a stream ends whose connection was cut, and not closed: its task goes on.
var ErrBroken = errors.New("the stream broke off")

// NewScanner makes a Scanner.
func NewScanner(r io.Reader) *Scanner { return &Scanner{bufio.NewReader(r)} }

// Next returns the next event, or io.EOF at the stream's end.
func (s *Scanner) Next() (Event, error) {
	for {
		lines, err := s.lines()
		if err != nil {
			return Event{}, err
		}
		if len(lines) != 1 || !strings.HasPrefix(lines[0], ":") { // else it is a comment
			return parse(lines)
		}
	}
}

// Frame returns the next frame as it was on the wire, whatever its lines and also where it is a comment, or io.EOF at the stream's end. It is for dialects
// whose frames are not those of the native API.
func (s *Scanner) Frame() (string, error) {
	lines, err := s.lines()
	if err != nil {
		return "", err
	}
	return strings.Join(append(lines, ""), "\n") + "\n", nil
}

// lines returns those of the next frame.
func (s *Scanner) lines() (lines []string, err error) {
	for {
		line, err := s.in.ReadString('\n')
		switch {
		case errors.Is(err, io.EOF) && line == "" && lines == nil:
			return nil, io.EOF
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("the stream ended within a frame: %.300q", append(lines, line))
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.ContainsRune(line, '\r') || !utf8.ValidString(line):
			return nil, fmt.Errorf("a line holds a carriage return or is not UTF-8: %.300q", line)
		case line == "":
			return lines, nil
		}
		lines = append(lines, line)
	}
}

func parse(lines []string) (e Event, err error) {
	rest := lines
	field := func(name string) (value string) {
		if len(rest) > 0 && strings.HasPrefix(rest[0], name+": ") {
			value, rest = strings.TrimPrefix(rest[0], name+": "), rest[1:]
		}
		return value
	}
	e.ID, e.Name, e.Data = field("id"), field("event"), field("data")
	if len(rest) > 0 || e.Name == "" || e.Data == "" {
		return e, fmt.Errorf("a frame is not id, event, data: %.300q", lines)
	}
	return e, nil
}
