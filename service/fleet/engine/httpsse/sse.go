// SPDX-License-Identifier: GPL-3.0-or-later

// Package httpsse is the HTTP client that the engine adapters share: JSON requests with bounded answers, event streams
// parsed without an allocation per event, and one mapping of what can go wrong to task errors.
package httpsse

import (
	"bytes"
	"errors"
	"io"
)

// ErrTooLong means that a line or an event passed the parser's bound.
var ErrTooLong = errors.New("an event of the stream is too long")

// Event is one server-sent event. Its bytes are valid until the function that it is given to returns.
type Event struct {
	Name []byte // empty: `message`
	Data []byte // the data lines, joined by line feeds
}

// parser parses an event stream (HTML, section 9.2.6). Lines end with CR, LF or both, and the bytes may come in any pieces. The parser
// keeps what is unfinished.
type parser struct {
	limit int    // of a line, or an event's data, in bytes
	line  []byte // the beginning of a line
	begun bool   // the first line, which may begin with a byte order mark, is over
	skip  bool   // the line before ended with CR: an LF that follows belongs to it

	name, data []byte
	has        bool // there was a data line
}

// feed parses b and calls each with every event that has data, until each wants no more.
func (p *parser) feed(b []byte, each func(Event) (more bool, err error)) (more bool, err error) {
	for len(b) > 0 {
		if p.skip && b[0] == '\n' {
			b = b[1:]
		}
		p.skip = false
		end := lineEnd(b)
		if end < 0 {
			end = len(b)
		}
		if len(p.line)+end > p.limit {
			return false, ErrTooLong
		}
		if end == len(b) {
			p.line = append(p.line, b...)
			return true, nil
		}
		line := b[:end]
		p.skip = b[end] == '\r'
		b = b[end+1:]
		if len(p.line) > 0 {
			p.line = append(p.line, line...)
			line, p.line = p.line, p.line[:0]
		}
		if more, err = p.take(line, each); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// end returns io.EOF at the end of the stream, or io.ErrUnexpectedEOF if that is within an event.
func (p *parser) end() error {
	if p.has || len(p.trim(p.line)) > 0 {
		return io.ErrUnexpectedEOF
	}
	return io.EOF
}

func (p *parser) trim(line []byte) []byte {
	if p.begun {
		return line
	}
	return bytes.TrimPrefix(line, bom)
}

// take takes in a whole line.
func (p *parser) take(line []byte, each func(Event) (more bool, err error)) (more bool, err error) {
	line = p.trim(line)
	p.begun = true
	if len(line) > 0 {
		return true, p.field(line)
	}
	more = true
	if p.has {
		more, err = each(Event{Name: p.name, Data: p.data[:len(p.data)-1]})
	}
	p.name, p.data, p.has = p.name[:0], p.data[:0], false
	return more, err
}

// field takes in a line of an event. It passes over comments, and over fields of which a client of an engine has no use (id, retry).
func (p *parser) field(line []byte) error {
	name, value, _ := bytes.Cut(line, colon)
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	switch string(name) {
	case "data":
		if len(p.data)+len(value)+1 > p.limit {
			return ErrTooLong
		}
		p.data = append(append(p.data, value...), '\n')
		p.has = true
	case "event":
		p.name = append(p.name[:0], value...)
	}
	return nil
}

var (
	colon = []byte{':'}
	bom   = []byte("\xEF\xBB\xBF")
)

// lineEnd is the index of the first CR or LF, or -1.
func lineEnd(b []byte) int {
	end := bytes.IndexByte(b, '\n')
	if end >= 0 {
		b = b[:end]
	}
	if cr := bytes.IndexByte(b, '\r'); cr >= 0 {
		return cr
	}
	return end
}
