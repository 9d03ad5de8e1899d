// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
)

// EventKind tells the events of a task's log apart.
type EventKind uint8

// The kinds. EventText, EventReasoning and EventToolCall are pieces of the answer, of the thinking before it, and of a call of
// a tool.
const (
	EventStarted EventKind = iota
	EventText
	EventReasoning
	EventToolCall
	EventEnd
	EventError
)

// Piece is what an engine gives at a time.
type Piece struct {
	Kind EventKind // EventText, EventReasoning or EventToolCall
	Text string    // of a tool call: a part of its arguments
	Call CallPart  // of a tool call
	// Logprobs is the list of the tokens of the answer that begin in the piece, as EncodeLogprobs writes it; empty: it has none.
	Logprobs string
}

// TextPiece is a piece of the answer.
func TextPiece(text string) Piece { return Piece{Kind: EventText, Text: text} }

// CallPart says to which call of a tool a piece belongs.
type CallPart struct {
	N        int    // number of the call in its task, from 0
	ID, Name string // of the call, in its first piece
}

// Mark says of one piece of a transcript that it is no text of the answer.
type Mark struct {
	Piece int
	Kind  EventKind
	Call  CallPart
}

// Transcript is what a task generated, cut where its events were.
type Transcript struct {
	Text  string // of all pieces, in the order in which they came
	Ends  []int  // Ends[i] is the length of Text after piece i
	Marks []Mark // of the pieces that are no text of the answer, in their order; nil: all are
	// Logprobs are the lists of all pieces, in their order; nil: none has one.
	Logprobs []string
}

// ToolCall is a whole call of a tool. Arguments is JSON, if the model wrote JSON.
type ToolCall struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// Parts are a transcript's texts, put together by what they are. Calls are in the order in which they began.
type Parts struct {
	Answer, Reasoning string
	Calls             []ToolCall
}

// Parts puts the pieces together.
func (t Transcript) Parts() Parts {
	if len(t.Marks) == 0 {
		return Parts{Answer: t.Text}
	}
	var answer, reasoning strings.Builder
	var calls []ToolCall
	place := map[int]int{} // in calls, by number
	marks, from := t.Marks, 0
	for i, to := range t.Ends {
		text := t.Text[from:to]
		from = to
		if len(marks) == 0 || marks[0].Piece != i {
			answer.WriteString(text)
			continue
		}
		m := marks[0]
		marks = marks[1:]
		if m.Kind == EventReasoning {
			reasoning.WriteString(text)
			continue
		}
		at, known := place[m.Call.N]
		if !known {
			at = len(calls)
			place[m.Call.N] = at
			calls = append(calls, ToolCall{ID: m.Call.ID, Name: m.Call.Name})
		}
		calls[at].Arguments += text
	}
	return Parts{Answer: answer.String(), Reasoning: reasoning.String(), Calls: calls}
}

// TranscriptForm names how the digest of a transcript is made.
type TranscriptForm string

// The forms. FormText is the SHA-256 of the answer. FormParts is for transcripts with reasoning or calls of tools: the SHA-256
// of a tag and of every part, with its type and length.
const (
	FormText  TranscriptForm = "text"
	FormParts TranscriptForm = "parts"
)

// Form is how the transcript's digest is made.
func (t Transcript) Form() TranscriptForm {
	if len(t.Marks) == 0 {
		return FormText
	}
	return FormParts
}

// partsTag begins what is hashed in FormParts, so that no plain text has the same digest.
const partsTag = "llorch-transcript-2\n"

// The type bytes of the parts in FormParts. Answer and reasoning come first, also when they are empty; then come the calls, in the
// order in which they began, each with its three parts.
const (
	partAnswer    = 'a'
	partReasoning = 'r'
	partCallID    = 'i'
	partCallName  = 'n'
	partArguments = 'j'
)

// Digest is the SHA-256, hex, that a receipt has of the transcript (semantics: transcript_sha256).
func (t Transcript) Digest() string {
	h := sha256.New()
	if t.Form() == FormText {
		_, _ = io.WriteString(h, t.Text) // a hash takes everything
		return hex.EncodeToString(h.Sum(nil))
	}
	_, _ = io.WriteString(h, partsTag)
	part := func(kind byte, text string) {
		var head [9]byte
		head[0] = kind
		binary.BigEndian.PutUint64(head[1:], uint64(len(text)))
		h.Write(head[:])
		_, _ = io.WriteString(h, text)
	}
	p := t.Parts()
	part(partAnswer, p.Answer)
	part(partReasoning, p.Reasoning)
	for _, c := range p.Calls {
		part(partCallID, c.ID)
		part(partCallName, c.Name)
		part(partArguments, c.Arguments)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Event is one event of a task's log, for whoever encodes it.
type Event struct {
	Kind     EventKind
	Index    int       // its number in the log
	Text     []byte    // of a piece; not to be changed
	Logprobs string    // as those of a Piece
	Call     CallPart  // of a tool call's piece
	Started  *Started  // of EventStarted
	End      *End      // of EventEnd
	Err      *Error    // of EventError
	At       time.Time // of the last two: when the task ended
}

// Events are events of one log that follow each other. They are a view of what the log stores, which does not change, so
// they take no memory and stay valid.
type Events struct {
	From, To int      // the numbers of the first event, and of the one behind the last
	Text     []byte   // of all pieces of the log up to To, at least
	Ends     []int    // Ends[i] is the length of Text after piece i, which is event i+1
	Marks    []Mark   // as those of a Transcript
	Logprobs []string // likewise
	Started  *Started
	End      *End      // where the log has that terminal event
	Err      *Error    // or that one
	EndedAt  time.Time // with either: when the task ended
}

// Len is the number of events.
func (e Events) Len() int { return e.To - e.From }

// At is one of them, by its place among them.
func (e *Events) At(i int) Event {
	out := Event{Index: e.From + i}
	piece := out.Index - 1
	switch {
	case piece < 0:
		out.Kind, out.Started = EventStarted, e.Started
		return out
	case piece < len(e.Ends):
		from := 0
		if piece > 0 {
			from = e.Ends[piece-1]
		}
		to := e.Ends[piece]
		out.Kind, out.Text = EventText, e.Text[from:to:to]
		if at, marked := slices.BinarySearchFunc(e.Marks, piece, func(m Mark, piece int) int { return m.Piece - piece }); marked {
			out.Kind, out.Call = e.Marks[at].Kind, e.Marks[at].Call
		}
		if e.Logprobs != nil {
			out.Logprobs = e.Logprobs[piece]
		}
		return out
	case e.Err != nil:
		out.Kind, out.Err, out.At = EventError, e.Err, e.EndedAt
		return out
	default:
		out.Kind, out.End, out.At = EventEnd, e.End, e.EndedAt
		return out
	}
}

// Ended reports whether the terminal event is among them.
func (e *Events) Ended() bool { return e.To > 1+len(e.Ends) }

// Transcript is what the log holds up to them.
func (e *Events) Transcript() Transcript {
	n := 0
	if len(e.Ends) > 0 {
		n = e.Ends[len(e.Ends)-1]
	}
	return Transcript{Text: string(e.Text[:n]), Ends: e.Ends, Marks: e.Marks, Logprobs: e.Logprobs}
}

// All goes through them in their order.
func (e Events) All() iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for i := range e.Len() {
			if !yield(e.At(i)) {
				return
			}
		}
	}
}
