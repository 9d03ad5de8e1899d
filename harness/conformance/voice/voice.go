// SPDX-License-Identifier: GPL-3.0-or-later

// Package voice is what conformance engines say: tokens that depend on the prompt and on what was asked, and on nothing else.
package voice

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// vocabulary has runes of two, three and four bytes, so that clients meet them. An empty token is one that ends within a rune.
var vocabulary = [...]string{
	"amber ", "birch ", "cloud ", "dune ", "ember ", "fern ", "grove ", "heath ", "naïve ", "蛙の池 ", "🐸 ", "", "kelp ", "la", "rch ", "👩‍🌾 ",
}

// Of returns the i-th token of an answer. Asked is what shapes it; it has to encode as JSON.
func Of(prompt string, asked ...any) func(i int) string {
	key, err := json.Marshal(asked)
	if err != nil { // a test is wrong
		panic(err)
	}
	base := sha256.Sum256(fmt.Appendf(nil, "%q %s", prompt, key))
	return func(i int) string {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(base[:], uint64(i)))
		if token := vocabulary[int(sum[0])%len(vocabulary)]; token != "" || i%4 != 0 { // an answer begins with text
			return token
		}
		return "moss "
	}
}

const bytesPerToken = 4

// Count is how many tokens a prompt has, its begin included.
func Count(prompt string) int { return (len(prompt)+bytesPerToken-1)/bytesPerToken + 1 }
