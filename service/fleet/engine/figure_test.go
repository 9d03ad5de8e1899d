// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-801
func TestOnlyPossibleFiguresAreBelieved(t *testing.T) {
	require.NoError(t, Believe(Tokens("a", 0), Tokens("b", MaxTokens), Milliseconds("c", 2.5)))
	for _, f := range []Figure{
		Tokens("tokens_evaluated", -1),
		Tokens("tokens_evaluated", MaxTokens+1),
		Tokens("tokens_evaluated", math.MaxInt64),
		Milliseconds("tokens_evaluated", -2),
		Milliseconds("tokens_evaluated", 1e30),
		Milliseconds("tokens_evaluated", math.NaN()),
	} {
		require.ErrorContains(t, Believe(Tokens("first", 1), f), "tokens_evaluated", "%v", f.Value)
	}
}
