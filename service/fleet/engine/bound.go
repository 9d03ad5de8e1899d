// SPDX-License-Identifier: GPL-3.0-or-later

package engine

// aroundText is how many tokens may stand around a text: its begin and end, and what a template puts around a message.
const aroundText = 8

// MostTokens bounds the tokens of texts that nobody has counted: no token is shorter than a byte.
func MostTokens(texts ...string) int {
	n := 0
	for _, t := range texts {
		n += len(t) + aroundText
	}
	return n
}
