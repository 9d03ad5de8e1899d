// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/task"
)

// includeLogprobs is the word by which a response asks for log probabilities.
const includeLogprobs = "message.output_text.logprobs"

// chatLogprobs are those of a choice of a chat: a list as the task has it. Nil: it has none.
func chatLogprobs(list string) json.RawMessage {
	if list == "" {
		return nil
	}
	return json.RawMessage(`{"content":` + list + `,"refusal":null}`)
}

// deltaLogprobs are those of an event of a response's text, which has no bytes of tokens.
func deltaLogprobs(list string) json.RawMessage {
	type token struct {
		Token   string  `json:"token"`
		Logprob float32 `json:"logprob"`
	}
	type place struct {
		token

		Top []token `json:"top_logprobs"`
	}
	out := []place{}
	for _, p := range logprobs(list) {
		at := place{token{p.Token, p.Logprob}, []token{}}
		for _, t := range p.Top {
			at.Top = append(at.Top, token{t.Token, t.Logprob})
		}
		out = append(out, at)
	}
	return exchange.JSON(out)
}

// logprobs reads a list that this program has written.
func logprobs(list string) []task.Logprob {
	all, err := task.DecodeLogprobs(list)
	if err != nil {
		panic(fmt.Errorf("a task's log probabilities: %w", err))
	}
	return all
}

// textLogprobs are those of a choice of a completion, in the dialect's older form: lists beside each other.
type textLogprobs struct {
	Tokens   []string             `json:"tokens"`
	Logprobs []float32            `json:"token_logprobs"`
	Top      []map[string]float32 `json:"top_logprobs"`
	Offsets  []int                `json:"text_offset"` // in characters of the answer
}

// add takes in the tokens that begin in a piece, in front of which the answer has so many characters.
func (l *textLogprobs) add(list string, before int) {
	var bytes []byte
	for _, p := range logprobs(list) {
		l.Offsets = append(l.Offsets, before+complete(bytes))
		bytes = append(bytes, p.Bytes...)
		l.Tokens, l.Logprobs = append(l.Tokens, spelled(p.Likely)), append(l.Logprobs, p.Logprob)
		top := map[string]float32{spelled(p.Likely): p.Logprob}
		for _, t := range p.Top {
			if _, there := top[spelled(t)]; !there { // the likeliest of those with one name
				top[spelled(t)] = t.Logprob
			}
		}
		l.Top = append(l.Top, top)
	}
}

// spelled is how the older form writes a token that is no text by itself.
func spelled(l task.Likely) string {
	if utf8.Valid(l.Bytes) {
		return string(l.Bytes)
	}
	var b strings.Builder
	b.WriteString("bytes:")
	for _, c := range l.Bytes {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return b.String()
}

// complete is how many characters are complete in the bytes.
func complete(b []byte) (n int) {
	for utf8.FullRune(b) {
		_, size := utf8.DecodeRune(b)
		b, n = b[size:], n+1
	}
	return n
}

// completionLogprobs are those of a whole answer; nil: it has none.
func completionLogprobs(t task.Transcript) *textLogprobs {
	if t.Logprobs == nil {
		return nil
	}
	l, from, before := &textLogprobs{}, 0, 0
	for i, to := range t.Ends {
		l.add(t.Logprobs[i], before)
		before += utf8.RuneCountInString(t.Text[from:to])
		from = to
	}
	return l
}
