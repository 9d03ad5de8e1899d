// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var aLikely = rapid.Custom(func(t *rapid.T) Likely {
	return Likely{
		Token: rapid.StringN(0, 3, -1).Draw(t, "token"), Logprob: rapid.Float32Range(-9999, 0).Draw(t, "logprob"),
		Bytes: Octets(rapid.SliceOfN(rapid.Byte(), 0, 4).Draw(t, "bytes")),
	}
})

// What is written of log probabilities is read as it was, of one piece and of several.
//
// LO-450
func TestLogprobsAreReadAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Logprob
		var lists []string
		for range rapid.IntRange(0, 3).Draw(t, "pieces") {
			var piece []Logprob
			for range rapid.IntRange(0, 2).Draw(t, "tokens") {
				piece = append(piece, Logprob{aLikely.Draw(t, "likely"), rapid.SliceOfN(aLikely, 0, 2).Draw(t, "top")})
			}
			list := EncodeLogprobs(piece)
			if list != "" && !json.Valid([]byte(list)) {
				t.Fatalf("%q is no JSON", list)
			}
			back, err := DecodeLogprobs(list)
			require.NoError(t, err)
			require.Len(t, back, len(piece))
			all, lists = append(all, piece...), append(lists, list)
		}
		back, err := DecodeLogprobs(JoinLogprobs(lists))
		require.NoError(t, err)
		require.Len(t, back, len(all))
		for i, p := range all {
			require.Equal(t, p.Likely, back[i].Likely)
			require.Equal(t, p.Top, back[i].Top)
		}
	})
	require.JSONEq(t, `[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[{"token":"�","logprob":-9999,"bytes":[255]}]}]`,
		EncodeLogprobs([]Logprob{{Likely{"a", -0.5, Octets("a")}, []Likely{{"�", LeastLogprob, Octets{255}}}}}))
	_, err := DecodeLogprobs(`[{"bytes":[256]}]`)
	require.ErrorIs(t, err, errOctets)
}

// LO-450: a task has so many figures at most, and its answer so many tokens.
func TestLogprobsAreBounded(t *testing.T) {
	var none *Logprobs
	require.Equal(t, 7, none.Bound(7))
	require.Zero(t, none.Bound(0))
	require.Equal(t, 65536, (&Logprobs{}).Bound(0))
	require.Equal(t, 3120, (&Logprobs{Top: 20}).Bound(4000))
	require.Equal(t, 7, (&Logprobs{Top: 20}).Bound(7))
}
