// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"bytes"
	"unicode/utf8"
)

// text turns the pieces of tokens into text that may be sent: whole runes, and nothing that may be the beginning of a
// stop string.
type text struct {
	stops [][]byte
	held  []byte
	out   []byte // reused by push
}

func newText(stops []string) *text {
	t := &text{}
	for _, s := range stops {
		if s != "" {
			t.stops = append(t.stops, []byte(s))
		}
	}
	return t
}

// push adds a piece. It returns what may be sent now, and the stop string that ended the text, if one did. At the end of the text it also
// returns what was held back, without the bytes of a rune that was cut off.
func (t *text) push(piece []byte, end bool) (out []byte, stop string) {
	t.held = append(t.held, piece...)
	whole := len(t.held) - cutRune(t.held)
	if whole < len(t.held) && !end {
		return nil, ""
	}
	ready := t.held[:whole]
	send := len(ready)
	for _, s := range t.stops {
		if at := bytes.Index(ready, s); at >= 0 && (stop == "" || at < send) {
			send, stop = at, string(s)
		}
	}
	if stop == "" && !end {
		for _, s := range t.stops {
			send = min(send, beginsAt(ready, s))
		}
	}
	t.out = bytes.ToValidUTF8(append(t.out[:0], ready[:send]...), []byte("\uFFFD"))
	t.held = append(t.held[:0], t.held[send:]...)
	return t.out, stop
}

// beginsAt is the position from which the rest of b is a beginning of s, or len(b).
func beginsAt(b, s []byte) int {
	for n := min(len(b), len(s)-1); n > 0; n-- {
		if bytes.HasPrefix(s, b[len(b)-n:]) {
			return len(b) - n
		}
	}
	return len(b)
}

// cutRune is how many bytes at the end of b are the beginning of a rune that more bytes may complete.
func cutRune(b []byte) int {
	for n := 1; n <= min(len(b), utf8.UTFMax-1); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}
