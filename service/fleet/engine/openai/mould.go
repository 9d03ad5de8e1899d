// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import "bytes"

// mould is the last token's frame around its text. The next one mostly differs in the text alone, and then nothing else of it has to be read.
type mould struct {
	before, after []byte
	quoted        []byte  // the text, for the search
	into          *[]byte // where the frame's reader puts the text; nil: there is no mould
	vain          int     // moulds in a row that no frame has fitted
}

// enough is how many moulds are made in vain: the frames of some streams never fit, since a time or a second text differs in each.
const enough = 8

// fill takes the text of a frame that fits, and reports whether it does.
func (m *mould) fill(frame []byte) bool {
	n := len(frame) - len(m.before) - len(m.after)
	if m.into == nil || n <= 0 || !bytes.HasPrefix(frame, m.before) || !bytes.HasSuffix(frame, m.after) {
		return false
	}
	text := frame[len(m.before) : len(m.before)+n]
	for _, b := range text {
		if b < ' ' || b == '"' || b == '\\' { // it ends within, or is not written as it is
			return false
		}
	}
	*m.into = append((*m.into)[:0], text...)
	m.vain = 0
	return true
}

// cast makes a mould of a frame whose one text was read into a place. A frame without a backslash has its texts as they are; one that has the text twice
// does not show which of them it is.
func (m *mould) cast(frame []byte, into *[]byte) {
	if m.vain++; m.vain > enough {
		return
	}
	m.quoted = append(append(append(m.quoted[:0], '"'), *into...), '"')
	at := bytes.Index(frame, m.quoted)
	if at < 0 || bytes.Contains(frame[at+1:], m.quoted) || bytes.IndexByte(frame, '\\') >= 0 {
		return
	}
	m.before = append(m.before[:0], frame[:at+1]...)
	m.after = append(m.after[:0], frame[at+len(m.quoted)-1:]...)
	m.into = into
}
