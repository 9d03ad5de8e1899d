// SPDX-License-Identifier: GPL-3.0-or-later

// Package httpsse is the HTTP client that the engine adapters share: JSON requests with bounded answers, event streams
// parsed without an allocation per event, and one mapping of what can go wrong to task errors.
package httpsse

import (
	"bytes"
	"errors"
	"io"
)

// ErrTooLong means that a line or an event passed the reader's bound.
var ErrTooLong = errors.New("an event of the stream is too long")

// Event is one server-sent event. Its bytes are valid until the next call of Next.
type Event struct {
	Name []byte // empty: `message`
	Data []byte // the data lines, joined by line feeds
}

// Reader parses an event stream (HTML, section 9.2.6): lines end with CR, LF or both, however the reads are split.
type Reader struct {
	src   io.Reader
	limit int
	buf   []byte // buf[r:w] is read but not consumed
	r, w  int
	scan  int  // no line end in buf[r:scan]
	skip  bool // the line before ended with CR: an LF that follows belongs to it
	first bool // a byte order mark may follow
	err   error

	name, data []byte
	has        bool // there was a data line
}

// NewReader reads events from src; a line, or an event's data, of more than limit bytes is ErrTooLong.
func NewReader(src io.Reader, limit int) *Reader {
	return &Reader{src: src, limit: limit, buf: make([]byte, 4096), first: true}
}

// Next returns the next event that has data. At the end of the stream it returns io.EOF, or io.ErrUnexpectedEOF when the
// stream ended within an event.
func (s *Reader) Next() (Event, error) {
	s.name, s.data, s.has = s.name[:0], s.data[:0], false
	for {
		line, err := s.line()
		if err != nil {
			if errors.Is(err, io.EOF) && (s.has || s.r < s.w) {
				err = io.ErrUnexpectedEOF
			}
			return Event{}, err
		}
		if len(line) == 0 {
			if s.has {
				return Event{Name: s.name, Data: s.data[:len(s.data)-1]}, nil
			}
			s.name = s.name[:0]
			continue
		}
		if err := s.field(line); err != nil {
			return Event{}, err
		}
	}
}

// field takes in one line. Comments and the fields an engine's client has no use for (id, retry) are passed over.
func (s *Reader) field(line []byte) error {
	name, value, _ := bytes.Cut(line, colon)
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	switch string(name) {
	case "data":
		if len(s.data)+len(value)+1 > s.limit {
			return ErrTooLong
		}
		s.data = append(append(s.data, value...), '\n')
		s.has = true
	case "event":
		s.name = append(s.name[:0], value...)
	}
	return nil
}

var (
	colon = []byte{':'}
	bom   = []byte("\xEF\xBB\xBF")
)

// line returns the next line without its end. An unfinished line at the end of the stream is none.
func (s *Reader) line() ([]byte, error) {
	for {
		if s.skip && s.r < s.w {
			if s.buf[s.r] == '\n' {
				s.r++
			}
			s.skip, s.scan = false, s.r
		}
		if s.first && s.w-s.r >= len(bom) {
			if bytes.HasPrefix(s.buf[s.r:s.w], bom) {
				s.r += len(bom)
			}
			s.first, s.scan = false, s.r
		}
		if !s.first || s.err != nil {
			if end := s.lineEnd(); end >= 0 {
				line := s.buf[s.r:end]
				s.skip = s.buf[end] == '\r'
				s.r, s.scan, s.first = end+1, end+1, false
				return line, nil
			}
		}
		if s.err != nil {
			return nil, s.err
		}
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
}

// lineEnd is the index of the first CR or LF that was not yet looked at, or -1.
func (s *Reader) lineEnd() int {
	rest := s.buf[s.scan:s.w]
	end := bytes.IndexByte(rest, '\n')
	if end >= 0 {
		rest = rest[:end]
	}
	if cr := bytes.IndexByte(rest, '\r'); cr >= 0 {
		end = cr
	}
	if end < 0 {
		s.scan = s.w
		return -1
	}
	return s.scan + end
}

// fill reads once. An error is kept for when the bytes that came with it are used up.
func (s *Reader) fill() error {
	if s.r > 0 {
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.scan -= s.r
		s.r = 0
	}
	if s.w == len(s.buf) {
		if s.w > s.limit {
			return ErrTooLong
		}
		s.buf = append(s.buf, make([]byte, len(s.buf))...)
	}
	for range 100 {
		n, err := s.src.Read(s.buf[s.w:])
		s.w += n
		s.err = err
		if n > 0 || err != nil {
			return nil //nolint:nilerr // it is kept
		}
	}
	return io.ErrNoProgress
}
