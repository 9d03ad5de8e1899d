// SPDX-License-Identifier: GPL-3.0-or-later

package fakeengine

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
)

// words is the engine's vocabulary. One word has runes of two bytes, so that clients meet them.
var words = [...]string{
	"amber", "birch", "cloud", "dune", "ember", "fern", "grove", "heath", "iris", "jade", "kelp", "larch", "moss", "naïve",
	"oak", "pine",
}

// params are the fields of a completion request that choose its output.
type params struct {
	Temperature   *float64 `json:"temperature"`
	TopK          *int     `json:"top_k"`
	TopP          *float64 `json:"top_p"`
	MinP          *float64 `json:"min_p"`
	RepeatPenalty *float64 `json:"repeat_penalty"`
	Seed          *uint32  `json:"seed"`
}

// voice returns the function that gives the i-th token of a generation: one word and a space.
func voice(prompt string, p params) func(i int) string {
	if p.Temperature != nil && *p.Temperature == 0 {
		p.Seed = nil // greedy: nothing is drawn
	}
	key, err := json.Marshal(p)
	if err != nil { // numbers that came out of JSON go back into it
		panic(err)
	}
	base := sha256.Sum256(fmt.Appendf(nil, "%q %s", prompt, key))
	return func(i int) string {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(base[:], uint64(i)))
		return words[int(sum[0])%len(words)] + " "
	}
}

// tokens returns one id a word.
func tokens(text string, bos bool) []uint32 {
	ids := []uint32{}
	if bos {
		ids = append(ids, 1)
	}
	for word := range strings.FieldsSeq(text) {
		sum := sha256.Sum256([]byte(word))
		ids = append(ids, 2+binary.BigEndian.Uint32(sum[:])>>16)
	}
	return ids
}

// embed returns a vector of about unit length that depends only on the text.
func embed(text string) []float64 {
	sum := sha256.Sum256([]byte(text))
	v := make([]float64, 8)
	for i := range v {
		v[i] = (float64(sum[i]) - 127.5) / 256
	}
	return v
}

// relevance returns the share of the query's words that the document contains.
func relevance(query, document string) float64 {
	asked := strings.Fields(query)
	if len(asked) == 0 {
		return 0
	}
	hits := 0
	for _, word := range asked {
		if strings.Contains(document, word) {
			hits++
		}
	}
	return float64(hits) / float64(len(asked))
}
