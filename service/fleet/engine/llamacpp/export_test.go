// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// StopAt passes text on in pieces of so many runes until a stop string is complete, and reports whether one was.
func StopAt(text, stop string, size int, to *strings.Builder) (over bool) {
	s := &engine.Stops{Words: watched([]string{stop}, ""), Kind: task.EventText, Emit: func(p task.Piece) error {
		to.WriteString(p.Text)
		return nil
	}}
	for runes := []rune(text); len(runes) > 0; {
		n := min(size, len(runes))
		_ = s.Piece(task.TextPiece(string(runes[:n]))) // emit does not fail
		runes = runes[n:]
	}
	if !s.Over {
		_ = s.Flush() // the same
	}
	return s.Over
}
