// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"cmp"
	"math"
	"slices"
	"testing"

	"github.com/hybridgroup/yzma/pkg/llama"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// LO-451
func TestTheLikeliestTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logits := rapid.SliceOfN(rapid.Float32Range(-3, 3), 1, 40).Draw(t, "logits")
		if rapid.Bool().Draw(t, "ties") {
			for i := range logits {
				logits[i] = float32(math.Round(float64(logits[i])))
			}
		}
		n := rapid.IntRange(0, 25).Draw(t, "n")
		want := make([]llama.Token, len(logits))
		for i := range want {
			want[i] = llama.Token(i)
		}
		slices.SortStableFunc(want, func(a, b llama.Token) int { return cmp.Compare(logits[b], logits[a]) })
		require.Equal(t, want[:min(n, len(want))], likeliest(logits, n))
	})
}
