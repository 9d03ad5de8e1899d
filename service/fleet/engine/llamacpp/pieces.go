// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/llama-orch/llama-orch/service/task"
)

// pieces makes an engine's bytes into pieces of whole runes. What is held back belongs to the kind that came last, and to the call.
type pieces struct {
	emit func(task.Piece) error
	ids  func(n int) string
	kind task.EventKind
	call int
	held []byte // the beginning of a rune whose end has not come yet
	// likely are the tokens of the answer of which nothing was emitted yet.
	likely []task.Logprob

	calls int    // that have begun
	fresh bool   // the first piece of the call has yet to be emitted
	name  string // of the call. An engine may correct it until there are arguments
	bad   error  // what the engine did that it may not; nil: nothing
}

// take takes in bytes of the answer or of the thinking.
func (p *pieces) take(kind task.EventKind, text []byte) error {
	if kind != p.kind {
		if err := p.flush(); err != nil {
			return err
		}
		p.kind = kind
	}
	return p.add(text)
}

// tell takes in the tokens of the answer's next bytes. Those without bytes are none of its text.
func (p *pieces) tell(likely []task.Logprob) {
	for _, l := range likely {
		if len(l.Bytes) > 0 {
			p.likely = append(p.likely, l)
		}
	}
}

// takeCall takes in a part of call n: its name, its arguments, or both.
func (p *pieces) takeCall(n int, name, arguments []byte) error {
	if p.kind != task.EventToolCall || n != p.call {
		if err := p.flush(); err != nil {
			return err
		}
		p.kind, p.call = task.EventToolCall, n
	}
	switch {
	case n < 0 || n > p.calls:
		p.bad = fmt.Errorf("the engine sent call %d as the next of %d", n, p.calls)
		return p.bad
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
		p.bad = fmt.Errorf("the engine sent arguments of call %d, and no name", n)
		return p.bad
	}
	return p.add(arguments)
}

// add takes in bytes of the kind that came last.
func (p *pieces) add(text []byte) error {
	p.held = append(p.held, text...)
	n := whole(p.held)
	if n == 0 {
		return nil
	}
	err := p.send(p.held[:n])
	p.held = append(p.held[:0], p.held[n:]...)
	return err
}

// flush emits what is held back: the first piece of a call that has no arguments yet, and what is left of a rune.
func (p *pieces) flush() error {
	if len(p.held) == 0 && !p.fresh {
		return nil
	}
	err := p.send(p.held)
	p.held = p.held[:0]
	return err
}

func (p *pieces) send(text []byte) error {
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
	return p.emit(piece)
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
