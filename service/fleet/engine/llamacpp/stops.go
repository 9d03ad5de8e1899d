// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// replacement is what a client gets for bytes that are no rune.
const replacement = "\uFFFD"

// stops compare the text as its client gets it with the stop strings that have a U+FFFD (LO-844). A llama-server compares the bytes that it
// has decoded, in which broken ones are no U+FFFD yet, so it goes on where such a string is complete. Nor does it see a string that began in what
// an earlier run has sent (LO-209). It stops at all the others by itself.
type stops struct {
	words []string
	emit  func(task.Piece) error

	kind task.EventKind // of what is held
	last string         // the end of what was emitted: a word may begin in it
	held string         // may be the beginning of a word
	over bool           // a word was complete: no more is emitted
	// lists are the log probabilities of what is held, each with the place where its text begins.
	lists []listed

	result engine.Result // what the engine had told by then; set before errStopped ends the stream
}

// watched returns those of the stop strings that a llama-server does not see behind a text that was sent before. There are hardly ever any.
func watched(all []string, sent string) (words []string) {
	for _, s := range all {
		if strings.Contains(s, replacement) || beginsAt(sent, s) < len(sent) {
			words = append(words, s)
		}
	}
	return words
}

// errStopped ends a stream at a stop string. The connection closes, and so the engine stops.
var errStopped = errors.New("a stop string is complete")

// piece takes in a piece of the answer, or of the thinking. It emits what cannot be the beginning of a word, and nothing behind one. The
// parts of tool calls pass.
func (s *stops) piece(p task.Piece) error {
	if s.over {
		return nil
	}
	if p.Kind != s.kind {
		if err := s.flush(); err != nil {
			return err
		}
		s.kind, s.last = p.Kind, ""
	}
	if p.Kind == task.EventToolCall {
		return s.emit(p)
	}
	if p.Logprobs != "" {
		s.lists = append(s.lists, listed{len(s.held), p.Logprobs})
	}
	s.held += p.Text
	all, gone := s.last+s.held, len(s.last)
	send := len(all)
	for _, w := range s.words {
		from := max(gone-len(w)+1, 0) // what is gone has no whole word
		if at := strings.Index(all[from:], w); at >= 0 && from+at < send {
			send, s.over = from+at, true
		}
	}
	if !s.over {
		for _, w := range s.words {
			send = min(send, beginsAt(all, w))
		}
	}
	send = max(send, gone)
	text := all[gone:send]
	s.held = all[send:]
	s.sent(text)
	if text == "" {
		return nil
	}
	return s.emit(task.Piece{Kind: p.Kind, Text: text, Logprobs: s.logprobs(len(text))})
}

// listed are the log probabilities of a piece.
type listed struct {
	at   int // of its text in what is held
	list string
}

// logprobs takes out those of the first n bytes of what was held.
func (s *stops) logprobs(n int) string {
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

// sent notes text that the client has got.
func (s *stops) sent(text string) {
	longest := 0
	for _, w := range s.words {
		longest = max(longest, len(w)-1)
	}
	s.last += text
	s.last = s.last[max(len(s.last)-longest, 0):]
}

// beginsAt is the position from which the rest of text is a beginning of word, or the end of text.
func beginsAt(text, word string) int {
	for n := min(len(text), len(word)-1); n > 0; n-- {
		if strings.HasPrefix(word, text[len(text)-n:]) {
			return len(text) - n
		}
	}
	return len(text)
}

// flush emits what is held: it was no beginning of a word.
func (s *stops) flush() error {
	if s.held == "" {
		return nil
	}
	text := s.held
	s.held = ""
	s.sent(text)
	return s.emit(task.Piece{Kind: s.kind, Text: text, Logprobs: s.logprobs(len(text))})
}

// ended is the result of a stream that came to its end.
func (s *stops) ended(r engine.Result, err error) (engine.Result, error) {
	switch {
	case err != nil:
		return r, err
	case s.over: // the last frame completed the word
		r.Finish = task.FinishStop
		return r, nil
	}
	if err := s.flush(); err != nil {
		return engine.Result{}, err
	}
	return r, nil
}

// figures takes the result from the frame that completed a word, or from the next one that tells of the run so far; false: this one tells
// nothing. The native endpoint tells the tokens in each frame, and both tell the tokens and the times because timings_per_token asks for them. Neither
// names the slot.
func (s *stops) figures(data []byte) (told bool, err error) {
	var frame struct {
		Predicted int `json:"tokens_predicted"`
		Evaluated int `json:"tokens_evaluated"`
		Timings   struct {
			timings
			PromptN    int `json:"prompt_n"`
			PredictedN int `json:"predicted_n"`
		} `json:"timings"`
	}
	if err := json.Unmarshal(data, &frame); err != nil {
		return false, fmt.Errorf("reading the figures of a frame: %w", err)
	}
	t := frame.Timings
	if err := engine.Believe(
		engine.Tokens("tokens_evaluated", frame.Evaluated), engine.Tokens("tokens_predicted", frame.Predicted),
		engine.Tokens("cache_n", t.CacheN), engine.Tokens("prompt_n", t.PromptN), engine.Tokens("predicted_n", t.PredictedN),
		engine.Milliseconds("prompt_ms", t.PromptMS), engine.Milliseconds("predicted_ms", t.PredictedMS),
	); err != nil {
		return false, err
	}
	s.result = engine.Result{
		TokensIn: max(frame.Evaluated, t.CacheN+t.PromptN), TokensOut: max(frame.Predicted, t.PredictedN), Cached: t.CacheN,
		Prefill: milliseconds(t.PromptMS), Decode: milliseconds(t.PredictedMS), Finish: task.FinishStop, Slot: engine.NoSlot, Left: true,
	}
	return s.result.TokensIn > 0 && s.result.TokensOut > 0, nil
}
