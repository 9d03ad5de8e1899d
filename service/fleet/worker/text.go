// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"bytes"
	"unicode/utf8"
)

// text turns the pieces of tokens into text that may be sent: whole runes, and nothing that may be the beginning of a
// stop string. Stop strings are compared with what the client gets, in which U+FFFD stands for bytes that are no rune (LO-844).
type text struct {
	stops [][]byte
	cut   []byte // the beginning of a rune whose end has not come yet
	held  []byte // whole runes
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
	t.cut = append(t.cut, piece...)
	cut := cutRune(t.cut)
	if cut > 0 && !end {
		return nil, ""
	}
	t.held = append(t.held, bytes.ToValidUTF8(t.cut[:len(t.cut)-cut], replacement)...)
	t.cut = t.cut[:0]
	send := len(t.held)
	for _, s := range t.stops {
		if at := bytes.Index(t.held, s); at >= 0 && (stop == "" || at < send) {
			send, stop = at, string(s)
		}
	}
	if stop == "" && !end {
		for _, s := range t.stops {
			send = min(send, beginsAt(t.held, s))
		}
	}
	t.out = append(t.out[:0], t.held[:send]...)
	t.held = append(t.held[:0], t.held[send:]...)
	return t.out, stop
}

// replacement stands for bytes that are no rune.
var replacement = []byte("\uFFFD")

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
