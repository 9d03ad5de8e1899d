// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// drawMarks draws what tokens are, as an engine gives them: a call's first token has its id and name.
func drawMarks(t *rapid.T, tokens int) (marks []task.Mark) {
	calls := 0
	for i := range tokens {
		m := task.Mark{Piece: i}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			continue
		case 1:
			m.Kind = task.EventReasoning
		case 2:
			m.Kind, m.Call = task.EventToolCall, task.CallPart{N: calls, ID: words().Draw(t, "id"), Name: words().Draw(t, "name")}
			calls++
		case 3:
			m.Kind, m.Call.N = task.EventToolCall, max(calls-1, 0)
		}
		marks = append(marks, m)
	}
	return marks
}

// LO-416
func TestMarksComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.IntRange(0, 20).Draw(t, "tokens")
		marks := drawMarks(t, tokens)
		back, err := decodeMarks(encodeMarks(marks), tokens)
		require.NoError(t, err)
		require.Equal(t, marks, back)
		if n := len(marks); n > 0 {
			_, err = decodeMarks(encodeMarks(marks), marks[n-1].Piece)
			require.Error(t, err, "a mark behind the last token")
		}
	})
	thoughts := make([]task.Mark, 10_000)
	for i := range thoughts {
		thoughts[i] = task.Mark{Piece: i + 5, Kind: task.EventReasoning}
	}
	require.Len(t, encodeMarks(thoughts), 4, "what is alike is one run")
}

// FuzzMarks: whatever the file has, what is read of it are marks of the transcript's tokens, in their order.
//
// LO-416
func FuzzMarks(f *testing.F) {
	f.Add(encodeMarks([]task.Mark{{Piece: 2, Kind: task.EventReasoning}, {Piece: 3, Kind: task.EventToolCall, Call: task.CallPart{ID: "a", Name: "b"}}}), 9)
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
