// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// The kinds of pieces.
const (
	Answer    = ""
	Reasoning = "reasoning"
	Call      = "tool_call"
)

// Piece is one `token` or `tool_call` event: a text of the answer, of the thinking before it, or of the arguments of a call.
type Piece struct {
	Kind     string
	Text     string
	N        int    // of a call: its number, from 0
	ID, Name string // of a call, in its first piece
}

// String is the piece in a report: of the answer its text alone.
func (p Piece) String() string {
	switch p.Kind {
	case Reasoning:
		return "(thinking) " + p.Text
	case Call:
		return strings.TrimSpace(fmt.Sprintf("(call %d %s %s", p.N, p.ID, p.Name)) + ") " + p.Text
	}
	return p.Text
}

// The forms of a transcript's digest, by the names that receipts have.
const (
	FormText  = "text"  // SHA-256 of the answer
	FormParts = "parts" // where there was thinking or a call: of a tag and of every part, with its kind and length
)

// Sum takes the pieces of an answer, one by one, and gives the digest that its receipt has (LO-416). The zero value has none yet.
type Sum struct {
	parts             bool
	answer, reasoning strings.Builder
	calls             []*call
	place             map[int]*call
}

type call struct {
	id, name  string
	arguments strings.Builder
}

// Add takes the next piece.
func (s *Sum) Add(p Piece) {
	switch p.Kind {
	case Answer:
		s.answer.WriteString(p.Text)
		return
	case Reasoning:
		s.reasoning.WriteString(p.Text)
	case Call:
		c := s.place[p.N]
		if c == nil {
			c = &call{id: p.ID, name: p.Name}
			if s.place == nil {
				s.place = map[int]*call{}
			}
			s.place[p.N], s.calls = c, append(s.calls, c)
		}
		c.arguments.WriteString(p.Text)
	}
	s.parts = true
}

// Digest is the SHA-256, in hex, of what was taken so far, and its form.
func (s *Sum) Digest() (sum, form string) {
	h := sha256.New()
	text := func(t string) { _, _ = io.WriteString(h, t) } // a hash takes everything
	if !s.parts {
		text(s.answer.String())
		return hex.EncodeToString(h.Sum(nil)), FormText
	}
	part := func(kind byte, t string) {
		head := binary.BigEndian.AppendUint64([]byte{kind}, uint64(len(t)))
		h.Write(head)
		text(t)
	}
	text("llorch-transcript-2\n")
	part('a', s.answer.String())
	part('r', s.reasoning.String())
	for _, c := range s.calls {
		part('i', c.id)
		part('n', c.name)
		part('j', c.arguments.String())
	}
	return hex.EncodeToString(h.Sum(nil)), FormParts
}

func digestOf(pieces []Piece) string {
	var s Sum
	for _, p := range pieces {
		s.Add(p)
	}
	sum, _ := s.Digest()
	return sum
}

// Run is some tokens of a transcript that follow each other and are no text of the answer.
type Run struct {
	From   int    `json:"from"`   // the first of them
	Tokens int    `json:"tokens"` // how many they are
	Kind   string `json:"kind"`   // reasoning or tool_call
	N      int    `json:"n,omitempty"`
	ID     string `json:"id,omitempty"`
	Name   string `json:"name,omitempty"`
}

// Pieces cuts a transcript into its pieces. It is nil where the transcript does not keep its text, or its parts do not fit each other.
func (t Transcript) Pieces() []Piece {
	if !t.Kept {
		return nil
	}
	pieces := make([]Piece, len(t.Ends))
	from := 0
	for i, end := range t.Ends {
		if end < from || end > len(t.Text) {
			return nil
		}
		pieces[i].Text = t.Text[from:end]
		from = end
	}
	next := 0
	for _, r := range t.Runs {
		if r.From < next || r.Tokens <= 0 || r.Tokens > len(pieces)-r.From || r.Kind != Reasoning && r.Kind != Call {
			return nil
		}
		next = r.From + r.Tokens
		for i := r.From; i < next; i++ {
			p := &pieces[i]
			p.Kind, p.N, p.ID, p.Name = r.Kind, r.N, r.ID, r.Name
		}
	}
	return pieces
}
