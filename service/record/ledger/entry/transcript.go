// SPDX-License-Identifier: GPL-3.0-or-later

package entry

import (
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// EncodeEnds writes the lengths of a transcript's tokens as varints: mostly one byte for a token.
func EncodeEnds(ends []int) []byte {
	out := make([]byte, 0, len(ends))
	last := 0
	for _, end := range ends {
		out = binary.AppendUvarint(out, uint64(end-last))
		last = end
	}
	return out
}

var errEnds = errors.New("the transcript's token lengths are no varints")

func decodeEnds(in []byte) ([]int, error) {
	if len(in) == 0 {
		return nil, nil
	}
	ends := make([]int, 0, len(in))
	last := uint64(0)
	for len(in) > 0 {
		length, n := binary.Uvarint(in)
		if n <= 0 || length > 1<<40 {
			return nil, errEnds
		}
		last += length
		ends = append(ends, int(last))
		in = in[n:]
	}
	return ends, nil
}

// The kinds of marks in the file.
const (
	markReasoning = 1
	markCall      = 2
)

// EncodeMarks writes which tokens are no text of the answer, as runs of tokens that are alike. A run is varints and texts: the tokens between
// it and the run before, its kind, its tokens, and of a call its number, and its id and name with their lengths before them. It
// is nil where there are none.
func EncodeMarks(marks []task.Mark) []byte {
	var out []byte
	text := func(s string) {
		out = binary.AppendUvarint(out, uint64(len(s)))
		out = append(out, s...)
	}
	for at, i := 0, 0; i < len(marks); {
		m, n := marks[i], 1
		for i+n < len(marks) && marks[i+n] == (task.Mark{Piece: m.Piece + n, Kind: m.Kind, Call: m.Call}) {
			n++
		}
		kind := uint64(markReasoning)
		if m.Kind == task.EventToolCall {
			kind = markCall
		}
		out = binary.AppendUvarint(out, uint64(m.Piece-at))
		out = binary.AppendUvarint(out, kind)
		out = binary.AppendUvarint(out, uint64(n))
		if kind == markCall {
			out = binary.AppendUvarint(out, uint64(m.Call.N))
			text(m.Call.ID)
			text(m.Call.Name)
		}
		at, i = m.Piece+n, i+n
	}
	return out
}

// decodeMarks reads them. The transcript has so many tokens.
func decodeMarks(in []byte, tokens int) (marks []task.Mark, err error) {
	wrong := false
	number := func(most int) int {
		v, n := binary.Uvarint(in)
		if n <= 0 || v > uint64(most) {
			wrong = true
			return 0
		}
		in = in[n:]
		return int(v)
	}
	text := func() string {
		n := number(len(in))
		if n > len(in) {
			wrong = true
			return ""
		}
		s := string(in[:n])
		in = in[n:]
		return s
	}
	for at := 0; len(in) > 0; {
		at += number(tokens - at)
		m := task.Mark{Kind: task.EventReasoning}
		kind, n := number(markCall), number(tokens-at)
		if kind == markCall {
			m.Kind = task.EventToolCall
			m.Call = task.CallPart{N: number(maxCalls), ID: text(), Name: text()}
		}
		if wrong || kind == 0 || n == 0 {
			return nil, fmt.Errorf("the transcript's marks are none of its %d tokens", tokens)
		}
		for range n {
			m.Piece = at
			marks = append(marks, m)
			at++
		}
	}
	return marks, nil
}

// maxCalls bounds the number of a call: a task has no more calls than tokens.
const maxCalls = 1 << 31

// EncodeLogprobs writes a line for each token, which is JSON, and empty where the token has none.
func EncodeLogprobs(lists []string) sql.NullString {
	return sql.NullString{String: strings.Join(lists, "\n"), Valid: lists != nil}
}

// decodeLogprobs reads them. The transcript has so many tokens.
func decodeLogprobs(in []byte, tokens int) ([]string, error) {
	if in == nil {
		return nil, nil
	}
	lists := strings.Split(string(in), "\n")
	if len(lists) != tokens {
		return nil, fmt.Errorf("the transcript has log probabilities of %d tokens, and %d tokens", len(lists), tokens)
	}
	for _, l := range lists {
		if l != "" && (len(l) < 2 || l[0] != '[' || l[len(l)-1] != ']') {
			return nil, errors.New("the transcript's log probabilities are no lists")
		}
	}
	return lists, nil
}
