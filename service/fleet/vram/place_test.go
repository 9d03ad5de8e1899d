// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// ORCH-3011, ORCH-3052
func TestMasksAndShares(t *testing.T) {
	cards, err := Cards(Auto)
	require.NoError(t, err)
	require.Empty(t, cards)
	cards, err = Cards("0,1")
	require.NoError(t, err)
	require.Equal(t, []int{0, 1}, cards)
	for _, bad := range []string{"x", "", "0,"} {
		_, err := Cards(bad)
		require.ErrorContains(t, err, "no list of GPU indices", bad)
	}
	require.Equal(t, []Share{{1, 9}}, Deal([]int{1}, nil, 9))
	require.Equal(t, []Share{{0, 6}, {1, 3}}, Deal([]int{0, 1}, []float64{2, 1}, 9))
	require.Equal(t, []Share{{0, 4}, {1, 4}}, Deal([]int{0, 1}, nil, 8))
}

// LO-501, ORCH-3052: what is dealt out of a sum gives every card what it needs.
func TestPropertyASumHoldsEveryNeed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "cards")
		cards, needs, split := make([]int, n), make([]int64, n), make([]float64, n)
		for i := range n {
			cards[i], needs[i] = i, rapid.Int64Range(1, 1<<40).Draw(t, "need")
			split[i] = rapid.Float64Range(0.01, 100).Draw(t, "part")
		}
		for i, s := range Deal(cards, split, Sum(needs, Parts(split, n))) {
			require.GreaterOrEqual(t, s.Bytes+1, needs[i], "but for the rounding of one byte")
		}
	})
}

// LO-501, ORCH-3011
func TestWhichPlaceIsBest(t *testing.T) {
	rooms := []Room{{0, "a", 10, 24}, {1, "b", 6, 12}, {2, "b", 6, 12}}
	holds := func(bytes int64) func(Place) int {
		return func(p Place) int {
			if p.Free >= bytes {
				return 1
			}
			return 0
		}
	}
	auto := Places(Auto, nil, rooms)
	require.Equal(t, Place{"1", "gpu:b", "card 1", 6, 12}, auto[1])
	require.Equal(t, 1, Best(auto, holds(6)), "the smallest that holds it, and of two the first")
	require.Equal(t, 0, Best(auto, holds(7)))
	require.Equal(t, -1, Best(auto, holds(11)))
	require.Equal(t, -1, Best(nil, holds(1)))
	require.Equal(t, 0, Best(auto, func(p Place) int { return int(p.Total) }), "worth comes before size")

	both := Places("0,1", []float64{2, 1}, rooms[:2])
	require.Equal(t, []Place{{"0,1", "gpu:a+b", "card 0,1", 15, 36}}, both, "the card that is filled first bounds it")
	require.Empty(t, Places("0,1", nil, rooms[:1]), "one of the mask cannot be used")
}
