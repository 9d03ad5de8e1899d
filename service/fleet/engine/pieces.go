// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/llama-orch/llama-orch/service/task"
)

// Pieces makes an engine's bytes into pieces of whole runes. What is held back belongs to the kind that came last, and to the call.
type Pieces struct {
	Emit func(task.Piece) error
	// Bad is what the engine did that it may not; nil: nothing.
	Bad error

	ids  func(n int) string
	kind task.EventKind
	call int
	held []byte // the beginning of a rune whose end has not come yet
	// likely are the tokens of the answer of which nothing was emitted yet.
	likely []task.Logprob

	calls int    // that have begun
	fresh bool   // the first piece of the call has yet to be emitted
	name  string // of the call. An engine may correct it until there are arguments
}

// NewPieces emits the pieces of a job's answer.
func NewPieces(job *Job, emit func(task.Piece) error) Pieces {
	return Pieces{Emit: emit, ids: job.CallID, kind: task.EventText}
}

// Take takes in bytes of the answer or of the thinking.
func (p *Pieces) Take(kind task.EventKind, text []byte) error {
	if kind != p.kind {
		if err := p.Flush(); err != nil {
			return err
		}
		p.kind = kind
	}
	return p.add(text)
}

// Tell takes in the tokens of the answer's next bytes. Those without bytes are none of its text.
func (p *Pieces) Tell(likely []task.Logprob) {
	for _, l := range likely {
		if len(l.Bytes) > 0 {
			p.likely = append(p.likely, l)
		}
	}
}

// TakeCall takes in a part of call n: its name, its arguments, or both.
func (p *Pieces) TakeCall(n int, name, arguments []byte) error {
	if p.kind != task.EventToolCall || n != p.call {
		if err := p.Flush(); err != nil {
			return err
		}
		p.kind, p.call = task.EventToolCall, n
	}
	switch {
	case n < 0 || n > p.calls:
		p.Bad = fmt.Errorf("the engine sent call %d as the next of %d", n, p.calls)
		return p.Bad
	case n == p.calls:
		p.calls++
		p.fresh, p.name = true, string(name)
	case p.fresh && len(name) > 0:
		p.name = string(name)
	}
	if len(arguments) == 0 {
		return nil
	}
	if p.fresh && p.name == "" {
		p.Bad = fmt.Errorf("the engine sent arguments of call %d, and no name", n)
		return p.Bad
	}
	return p.add(arguments)
}

// add takes in bytes of the kind that came last.
func (p *Pieces) add(text []byte) error {
	p.held = append(p.held, text...)
	n := whole(p.held)
	if n == 0 {
		return nil
	}
	err := p.send(p.held[:n])
	p.held = append(p.held[:0], p.held[n:]...)
	return err
}

// Flush emits what is held back: the first piece of a call that has no arguments yet, and what is left of a rune.
func (p *Pieces) Flush() error {
	if len(p.held) == 0 && !p.fresh {
		return nil
	}
	err := p.send(p.held)
	p.held = p.held[:0]
	return err
}

func (p *Pieces) send(text []byte) error {
	piece := task.Piece{Kind: p.kind, Text: strings.ToValidUTF8(string(text), "\uFFFD")}
	if p.kind == task.EventText {
		piece.Logprobs, p.likely = task.EncodeLogprobs(p.likely), p.likely[:0]
	}
	if p.kind == task.EventToolCall {
		piece.Call.N = p.call
		if p.fresh {
			p.fresh, piece.Call.Name = false, p.name
			if p.ids != nil {
				piece.Call.ID = p.ids(p.call)
			}
		}
	}
	return p.Emit(piece)
}

// whole is the length of b without a rune that is cut off at its end.
func whole(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if at := len(b) - n; utf8.RuneStart(b[at]) {
			if !utf8.FullRune(b[at:]) {
				return at
			}
			break
		}
	}
	return len(b)
}
