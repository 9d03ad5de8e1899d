// SPDX-License-Identifier: GPL-3.0-or-later

package entry

import (
	"slices"
	"testing"

	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-416
func TestMarksComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.IntRange(0, 20).Draw(t, "tokens")
		marks := ledgertest.Marks(t, tokens)
		back, err := decodeMarks(EncodeMarks(marks), tokens)
		require.NoError(t, err)
		require.Equal(t, marks, back)
		if n := len(marks); n > 0 {
			_, err = decodeMarks(EncodeMarks(marks), marks[n-1].Piece)
			require.Error(t, err, "a mark behind the last token")
		}
	})
	thoughts := make([]task.Mark, 10_000)
	for i := range thoughts {
		thoughts[i] = task.Mark{Piece: i + 5, Kind: task.EventReasoning}
	}
	require.Len(t, EncodeMarks(thoughts), 4, "what is alike is one run")
}

// FuzzMarks: whatever the file has, what is read of it are marks of the transcript's tokens, in their order.
//
// LO-416
func FuzzMarks(f *testing.F) {
	f.Add(EncodeMarks([]task.Mark{{Piece: 2, Kind: task.EventReasoning}, {Piece: 3, Kind: task.EventToolCall, Call: task.CallPart{ID: "a", Name: "b"}}}), 9)
	f.Add([]byte{0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 3)
	f.Add([]byte{0, 2, 1, 0, 200}, 3)
	f.Fuzz(func(t *testing.T, in []byte, tokens int) {
		tokens = max(min(tokens, 1000), 0)
		marks, err := decodeMarks(in, tokens)
		if err != nil {
			return
		}
		require.True(t, slices.IsSortedFunc(marks, func(a, b task.Mark) int { return a.Piece - b.Piece }))
		for i, m := range marks {
			require.Less(t, m.Piece, tokens)
			require.True(t, i == 0 || m.Piece > marks[i-1].Piece)
			require.Contains(t, []task.EventKind{task.EventReasoning, task.EventToolCall}, m.Kind)
		}
	})
}
