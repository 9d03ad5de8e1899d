// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxTopLogprobs is how many alternatives of a token can be asked for.
const MaxTopLogprobs = 20

// maxFigures bounds the log probabilities of a task: they are kept with its text, and each takes far more room than its token does.
const maxFigures = 1 << 16

// Logprobs asks how likely the model held each token of its answer (LO-450).
type Logprobs struct {
	Top int `json:"top,omitempty"` // how many of the likeliest tokens are told beside it
}

// MostTokens is how many tokens an answer has at most. Nil: there is no bound.
func (l *Logprobs) MostTokens() int {
	if l == nil {
		return 0
	}
	return maxFigures / (1 + l.Top)
}

// Bound is max_tokens (0: none) within that.
func (l *Logprobs) Bound(most int) int {
	if bound := l.MostTokens(); bound > 0 && (most == 0 || most > bound) {
		return bound
	}
	return most
}

// LeastLogprob stands for what has no number, as in OpenAI's API: the logarithm of 0.
const LeastLogprob = -9999

// Likely is a token with the natural logarithm of how likely it was.
type Likely struct {
	Token   string  `json:"token"` // U+FFFD stands for bytes that are no rune
	Logprob float32 `json:"logprob"`
	Bytes   Octets  `json:"bytes"`
}

// Logprob is a token of an answer, with the likeliest ones at its place, the likeliest first.
type Logprob struct {
	Likely

	Top []Likely `json:"top_logprobs"`
}

// Octets are bytes that JSON has as a list of numbers.
type Octets []byte

var errOctets = errors.New("bytes are numbers from 0 to 255")

// UnmarshalJSON implements json.Unmarshaler.
func (o *Octets) UnmarshalJSON(text []byte) error {
	var numbers []int
	if err := json.Unmarshal(text, &numbers); err != nil {
		return fmt.Errorf("%w: %w", errOctets, err)
	}
	*o = make(Octets, len(numbers))
	for i, n := range numbers {
		if n < 0 || n > 255 {
			return errOctets
		}
		(*o)[i] = byte(n)
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (o Octets) MarshalJSON() ([]byte, error) {
	numbers := make([]int, len(o))
	for i, b := range o {
		numbers[i] = int(b)
	}
	return json.Marshal(numbers)
}

// EncodeLogprobs writes the list that a piece has: JSON without white space. It is empty where there are none.
func EncodeLogprobs(all []Logprob) string {
	if len(all) == 0 {
		return ""
	}
	all = slices.Clone(all)
	for i := range all {
		if all[i].Top == nil {
			all[i].Top = []Likely{}
		}
	}
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(all); err != nil {
		panic("task: " + err.Error()) // texts and finite numbers always encode
	}
	return strings.TrimSuffix(text.String(), "\n")
}

// DecodeLogprobs reads such a list.
func DecodeLogprobs(list string) (all []Logprob, err error) {
	if list == "" {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(list), &all); err != nil {
		return nil, fmt.Errorf("reading log probabilities: %w", err)
	}
	return all, nil
}

// JoinLogprobs makes one list of those of pieces.
func JoinLogprobs(lists []string) string {
	var b strings.Builder
	for _, l := range lists {
		if l == "" {
			continue
		}
		if b.Len() == 0 {
			b.WriteByte('[')
		} else {
			b.WriteByte(',')
		}
		b.WriteString(l[1 : len(l)-1])
	}
	if b.Len() == 0 {
		return ""
	}
	b.WriteByte(']')
	return b.String()
}
