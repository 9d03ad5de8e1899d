// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// Stops compare the text as its client gets it with stop strings that the engine does not see, or does not take out of its answer.
type Stops struct {
	Words []string
	Emit  func(task.Piece) error
	Kind  task.EventKind // of what is held
	Over  bool           // a word was complete: no more is emitted

	last string // the end of what was emitted: a word may begin in it
	held string // may be the beginning of a word
	// lists are the log probabilities of what is held, each with the place where its text begins.
	lists []listed
}

// Piece takes in a piece of the answer, or of the thinking. It emits what cannot be the beginning of a word, and nothing behind one. The
// parts of tool calls pass.
func (s *Stops) Piece(p task.Piece) error {
	if s.Over {
		return nil
	}
	if p.Kind != s.Kind {
		if err := s.Flush(); err != nil {
			return err
		}
		s.Kind, s.last = p.Kind, ""
	}
	if p.Kind == task.EventToolCall {
		return s.Emit(p)
	}
	if p.Logprobs != "" {
		s.lists = append(s.lists, listed{len(s.held), p.Logprobs})
	}
	s.held += p.Text
	all, gone := s.last+s.held, len(s.last)
	send := len(all)
	for _, w := range s.Words {
		from := max(gone-len(w)+1, 0) // what is gone has no whole word
		if at := strings.Index(all[from:], w); at >= 0 && from+at < send {
			send, s.Over = from+at, true
		}
	}
	if !s.Over {
		for _, w := range s.Words {
			send = min(send, BeginsAt(all, w))
		}
	}
	send = max(send, gone)
	text := all[gone:send]
	s.held = all[send:]
	s.Sent(text)
	if text == "" {
		return nil
	}
	return s.Emit(task.Piece{Kind: p.Kind, Text: text, Logprobs: s.logprobs(len(text))})
}

// listed are the log probabilities of a piece.
type listed struct {
	at   int // of its text in what is held
	list string
}

// logprobs takes out those of the first n bytes of what was held.
func (s *Stops) logprobs(n int) string {
	var lists []string
	for len(s.lists) > 0 && s.lists[0].at < n {
		lists = append(lists, s.lists[0].list)
		s.lists = s.lists[1:]
	}
	for i := range s.lists {
		s.lists[i].at -= n
	}
	return task.JoinLogprobs(lists)
}

// Sent notes text that the client has got.
func (s *Stops) Sent(text string) {
	longest := 0
	for _, w := range s.Words {
		longest = max(longest, len(w)-1)
	}
	s.last += text
	s.last = s.last[max(len(s.last)-longest, 0):]
}

// BeginsAt is the position from which the rest of text is a beginning of word, or the end of text.
func BeginsAt(text, word string) int {
	for n := min(len(text), len(word)-1); n > 0; n-- {
		if strings.HasPrefix(word, text[len(text)-n:]) {
			return len(text) - n
		}
	}
	return len(text)
}

// Flush emits what is held: it was no beginning of a word.
func (s *Stops) Flush() error {
	if s.held == "" {
		return nil
	}
	text := s.held
	s.held = ""
	s.Sent(text)
	return s.Emit(task.Piece{Kind: s.Kind, Text: text, Logprobs: s.logprobs(len(text))})
}
