// SPDX-License-Identifier: GPL-3.0-or-later

package stream

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/llama-orch/llama-orch/service/task"
)

// The names of the numbered events (ORCH-2002), each with its line feed, as the frame and the running hash want it.
var (
	started  = []byte("started\n")
	token    = []byte("token\n")
	toolCall = []byte("tool_call\n")
	end      = []byte("end\n")
	failed   = []byte("error\n")
	lineFeed = []byte("\n")
)

// chunk holds whole events. A log grows by further chunks, so that no event is copied again.
type chunk struct {
	begin int // the number of bytes before it
	data  []byte
}

// The first chunk of a log, and the size at which they stop doubling. An event that is larger has one of its own size.
const (
	firstChunk = 1 << 10
	maxChunk   = 4 << 10
)

// piece appends a piece of what the task generates. The caller holds mu.
func (l *Log) piece(p task.Piece) {
	n := len(l.pieceEnds)
	l.text = append(l.text, p.Text...)
	l.pieceEnds = append(l.pieceEnds, len(l.text))
	if p.Kind == task.EventText {
		l.transcript.Write(l.text[len(l.text)-len(p.Text):])
	} else {
		l.marks = append(l.marks, task.Mark{Piece: n, Kind: p.Kind, Call: p.Call})
	}
	if p.Logprobs != "" && l.logprobs == nil {
		l.logprobs = make([]string, n, n+1)
	}
	if l.logprobs != nil {
		l.logprobs = append(l.logprobs, p.Logprobs)
	}
	l.data.Reset()
	if p.Kind == task.EventToolCall {
		l.toolCall(p)
		return
	}
	l.data.RawStr(`{"t":`)
	l.data.Str(p.Text)
	l.data.RawStr(`,"i":`)
	l.data.Int(l.tokens)
	if p.Kind == task.EventReasoning {
		l.data.RawStr(`,"channel":"reasoning"`)
	}
	if p.Logprobs != "" {
		l.data.RawStr(`,"logprobs":`)
		l.data.RawStr(p.Logprobs)
	}
	l.data.ObjEnd()
	l.tokens++
	l.append(token)
}

func (l *Log) toolCall(p task.Piece) {
	l.data.RawStr(`{"n":`)
	l.data.Int(p.Call.N)
	if p.Call.ID != "" {
		l.data.RawStr(`,"id":`)
		l.data.Str(p.Call.ID)
	}
	if p.Call.Name != "" {
		l.data.RawStr(`,"name":`)
		l.data.Str(p.Call.Name)
	}
	l.data.RawStr(`,"arguments":`)
	l.data.Str(p.Text)
	l.data.ObjEnd()
	l.append(toolCall)
}

// append encodes l.data as the next event. The caller holds mu.
func (l *Log) append(event []byte) {
	l.running.Write(event)
	l.running.Write(l.data.Buf)
	l.running.Write(lineFeed)
	var t tag
	l.running.Sum(l.sum[:0])
	copy(t[:], l.sum[:])

	c := l.room(len(event) + len(l.data.Buf) + frameSize)
	b := append(c.data, "id: "...)
	b = appendID(b, len(l.ends), t)
	b = append(b, "\nevent: "...)
	b = append(b, event...)
	b = append(b, "data: "...)
	b = append(b, l.data.Buf...)
	c.data = append(b, "\n\n"...)
	l.ends = append(l.ends, c.begin+len(c.data))
	l.tags = append(l.tags, t)
}

// frameSize is the most that a frame has beside its event's name and data.
const frameSize = len("id: 9223372036854775807-12345678\nevent: data: \n\n")

// room is the last chunk, with room for so many bytes. The caller holds mu.
func (l *Log) room(n int) *chunk {
	begin, size := 0, firstChunk
	if len(l.chunks) > 0 {
		last := &l.chunks[len(l.chunks)-1]
		if cap(last.data)-len(last.data) >= n {
			return last
		}
		begin, size = last.begin+len(last.data), min(2*cap(last.data), maxChunk)
	}
	l.chunks = append(l.chunks, chunk{begin: begin, data: make([]byte, 0, max(size, n))})
	return &l.chunks[len(l.chunks)-1]
}

// frames returns the encoded events from the given one on and before the other: as many of them, but at least one, as lie in
// one chunk and have no more than maxWrite bytes. To is the event behind them. The caller holds mu.
func (l *Log) frames(from, before int) (b []byte, to int) {
	begin := 0
	if from > 0 {
		begin = l.ends[from-1]
	}
	at, found := slices.BinarySearchFunc(l.chunks, begin, func(c chunk, begin int) int { return c.begin - begin })
	if !found {
		at--
	}
	c := l.chunks[at]
	to = from + 1
	for to < before && l.ends[to] <= c.begin+len(c.data) && l.ends[to]-begin <= maxWrite {
		to++
	}
	end := l.ends[to-1] - c.begin
	return c.data[begin-c.begin : end : end], to
}

// events returns the same events typed. The caller holds mu.
func (l *Log) events(from, before int) task.Events {
	return task.Events{
		From: from, To: before, Text: l.text, Ends: l.pieceEnds, Marks: l.marks, Logprobs: l.logprobs, Started: &l.started,
		End: l.end, Err: l.failure, EndedAt: l.endedAt,
	}
}

// tag is the part of the running SHA-256 that an event id shows.
type tag [4]byte

func appendID(b []byte, seq int, t tag) []byte {
	b = strconv.AppendInt(b, int64(seq), 10)
	b = append(b, '-')
	return hex.AppendEncode(b, t[:])
}

// parseID reads an event id. The only valid form is the one appendID writes.
func parseID(id string) (seq int, t tag, ok bool) {
	number, digest, found := bytes.Cut([]byte(id), []byte("-"))
	if !found || len(digest) != hex.EncodedLen(len(t)) {
		return 0, t, false
	}
	seq, err := strconv.Atoi(string(number))
	if err != nil || seq < 0 {
		return 0, t, false
	}
	if _, err := hex.Decode(t[:], digest); err != nil {
		return 0, t, false
	}
	return seq, t, string(appendID(nil, seq, t)) == id
}

// mustJSON encodes plain structs of this module, which cannot fail.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("stream: " + err.Error())
	}
	return b
}
