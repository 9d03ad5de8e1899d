// SPDX-License-Identifier: GPL-3.0-or-later

package ledgertest

import (
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// words are texts of engines.
func words() *rapid.Generator[string] {
	return rapid.OneOf(rapid.StringN(0, 6, -1), rapid.SampledFrom([]string{"", "<a> & \u2028\x00\"\\", "\ud7ff\ufffd\U0010ffff"}))
}

// Marks draws what tokens are, as an engine gives them: a call's first token has its id and name.
func Marks(t *rapid.T, tokens int) (marks []task.Mark) {
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
