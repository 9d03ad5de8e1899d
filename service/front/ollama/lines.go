// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"slices"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/task"
)

// lines encodes a task's events as the dialect's lines. A token costs no allocation.
type lines struct {
	head  string // of every line, up to its text
	chat  bool   // else it is a completion
	ended func(*task.End) figures
	calls []gathered // the dialect has whole calls only, so their pieces are put together here
	w     jx.Writer
}

// gathered is a call as far as it has come.
type gathered struct {
	n         int // its number in its task
	id, name  string
	arguments []byte
}

func newLines(h head, chat bool, ended func(*task.End) figures) *lines {
	b := exchange.JSON(h)
	text := `,"response":`
	if chat {
		text = `,"message":{"role":"assistant","content":`
	}
	return &lines{head: string(b[:len(b)-1]) + text, chat: chat, ended: ended}
}

// Append implements delivery.Encoder.
func (l *lines) Append(b []byte, e task.Event) []byte {
	l.w.Buf = b
	switch e.Kind {
	case task.EventStarted: // the first line comes with the first piece
	case task.EventText:
		l.piece(e.Text, nil, e.Logprobs)
	case task.EventReasoning:
		l.piece(nil, e.Text, "")
	case task.EventToolCall:
		l.gather(e)
	case task.EventEnd:
		l.end(e.End)
	case task.EventError:
		l.w.Buf = appendError(l.w.Buf, e.Err)
	}
	b, l.w.Buf = l.w.Buf, nil
	return b
}

// piece is a line with a piece of the answer, or of the thinking.
func (l *lines) piece(text, thinking []byte, logprobs string) {
	l.w.RawStr(l.head)
	l.w.ByteStr(text)
	if len(thinking) > 0 {
		l.w.RawStr(`,"thinking":`)
		l.w.ByteStr(thinking)
	}
	l.close()
	if logprobs != "" {
		l.w.RawStr(`,"logprobs":`)
		l.w.RawStr(logprobs)
	}
	l.w.RawStr(`,"done":false}` + "\n")
}

// close ends the message of a chat.
func (l *lines) close() {
	if l.chat {
		l.w.RawStr(`}`)
	}
}

func (l *lines) gather(e task.Event) {
	at := slices.IndexFunc(l.calls, func(c gathered) bool { return c.n == e.Call.N })
	if at < 0 {
		at = len(l.calls)
		l.calls = append(l.calls, gathered{n: e.Call.N, id: e.Call.ID, name: e.Call.Name})
	}
	l.calls[at].arguments = append(l.calls[at].arguments, e.Text...)
}

// end sends the calls, and then the line that ends the stream.
func (l *lines) end(end *task.End) {
	list := make([]task.ToolCall, len(l.calls))
	for i, c := range l.calls {
		list[i] = task.ToolCall{ID: c.id, Name: c.name, Arguments: string(c.arguments)}
	}
	whole, rest := calls(list)
	if rest != "" {
		l.piece([]byte(rest), nil, "")
	}
	if len(whole) > 0 && l.chat {
		l.w.RawStr(l.head)
		l.w.RawStr(`"","tool_calls":`)
		l.json(whole)
		l.close()
		l.w.RawStr(`,"done":false}` + "\n")
	}
	l.w.RawStr(l.head)
	l.w.RawStr(`""`)
	l.close()
	fig := l.ended(end)
	last := struct {
		done

		Receipt map[string]string `json:"receipt"`
	}{done{Done: true, Reason: doneReason(end.FinishReason), figures: &fig}, receiptOf(end)}
	l.w.RawStr(`,`)
	from := len(l.w.Buf)
	l.json(last)
	l.w.Buf = append(slices.Delete(l.w.Buf, from, from+1), '\n') // without the brace that opens it
}

func (l *lines) json(v any) { l.w.Buf = append(l.w.Buf, exchange.JSON(v)...) }
