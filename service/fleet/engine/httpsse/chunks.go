// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import "errors"

var errChunks = errors.New("the engine's answer is not in the chunks that its head speaks of")

// chunks strips the chunk headers (RFC 9112, section 7.1) off a body that comes in pieces.
type chunks struct {
	state chunkState
	left  uint64 // bytes of the chunk that are still to come; while the size is read, what was read of it
	size  int    // digits of the size so far
	// spoilt says that bytes came which belong to no body: another answer on the connection could not be told from them.
	spoilt bool
}

type chunkState uint8

const (
	chunkSize      chunkState = iota
	chunkExtension            // up to the line's end
	chunkData
	chunkEnd // the end of line that follows the data
	trailer  // the beginning of a line that follows the last chunk
	trailerLine
	bodyEnd
)

// strip moves the data of b to its beginning, and returns that. Over means that the end of the body was in b.
func (c *chunks) strip(b []byte) (data []byte, over bool, err error) {
	kept := 0
	for i := 0; i < len(b); {
		if c.state == chunkData {
			n := int(min(c.left, uint64(len(b)-i)))
			kept += copy(b[kept:], b[i:i+n])
			i += n
			if c.left -= uint64(n); c.left == 0 {
				c.state = chunkEnd
			}
			continue
		}
		if err := c.head(b[i]); err != nil {
			c.spoilt = true
			return b[:kept], false, err
		}
		i++
		if c.state == bodyEnd {
			c.spoilt = i < len(b)
			return b[:kept], true, nil
		}
	}
	return b[:kept], false, nil
}

// head takes in one byte that is not data. It passes over CR, because only LF counts.
func (c *chunks) head(b byte) error {
	switch c.state {
	case chunkSize:
		if digit, ok := hexDigit(b); ok {
			if c.size++; c.size > maxSizeDigits {
				return errChunks
			}
			c.left = c.left<<4 | digit
			return nil
		}
		if c.size == 0 || b != ';' && b != '\r' && b != '\n' && b != ' ' && b != '\t' {
			return errChunks
		}
		c.state = chunkExtension
		if b == '\n' {
			c.lineOver()
		}
	case chunkExtension:
		if b == '\n' {
			c.lineOver()
		}
	case chunkEnd:
		switch b {
		case '\r':
		case '\n':
			c.state, c.size = chunkSize, 0
		default:
			return errChunks
		}
	case trailer:
		switch b {
		case '\r':
		case '\n':
			c.state = bodyEnd
		default:
			c.state = trailerLine
		}
	case trailerLine:
		if b == '\n' {
			c.state = trailer
		}
	case chunkData, bodyEnd: // strip deals with them
	}
	return nil
}

// maxSizeDigits keeps the size of a chunk within an int64.
const maxSizeDigits = 15

func (c *chunks) lineOver() {
	c.state = chunkData
	if c.left == 0 {
		c.state = trailer
	}
}

func hexDigit(b byte) (uint64, bool) {
	switch {
	case '0' <= b && b <= '9':
		return uint64(b - '0'), true
	case 'a' <= b && b <= 'f':
		return uint64(b-'a') + 10, true
	case 'A' <= b && b <= 'F':
		return uint64(b-'A') + 10, true
	}
	return 0, false
}
