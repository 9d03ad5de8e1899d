// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/json"
	"unicode/utf8"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/task"
)

// chunks encodes a task's events as the dialect's chunks. A token costs no allocation.
type chunks struct {
	head   string // of every chunk, up to its choices
	chat   bool   // else it is a completion
	usage  bool   // the client asked for it
	begun  bool   // the role was sent
	calls  bool   // a tool was called
	legacy bool   // the client speaks of functions
	said   int    // characters of a completion so far
	w      jx.Writer
}

func newChunks(h head, chat, usage bool) *chunks {
	b := exchange.JSON(h)
	return &chunks{head: "data: " + string(b[:len(b)-1]), chat: chat, usage: usage}
}

// Append implements delivery.Encoder.
func (c *chunks) Append(b []byte, e task.Event) []byte {
	c.w.Buf = b
	switch e.Kind {
	case task.EventStarted: // the first chunk comes with the first piece
	case task.EventText, task.EventReasoning, task.EventToolCall:
		c.begin()
		c.piece(e)
	case task.EventEnd:
		c.begin()
		c.end(e.End)
	case task.EventError:
		c.w.RawStr("data: ")
		c.w.Buf = append(c.w.Buf, exchange.JSON(errorOf(e.Err))...)
		c.w.RawStr("\n\n")
	}
	b, c.w.Buf = c.w.Buf, nil
	return b
}

// begin sends the role once.
func (c *chunks) begin() {
	if c.begun || !c.chat {
		return
	}
	c.begun = true
	c.open()
	c.w.RawStr(`{"role":"assistant","content":""}`)
	c.close("", nil)
}

// open begins a chunk of a chat, up to its delta.
func (c *chunks) open() {
	c.w.RawStr(c.head)
	c.w.RawStr(`,"choices":[{"index":0,"delta":`)
}

// close ends a chunk behind its delta or text.
func (c *chunks) close(finish string, logprobs json.RawMessage) {
	c.w.RawStr(`,"logprobs":`)
	if logprobs == nil {
		c.w.RawStr("null")
	}
	c.w.Buf = append(c.w.Buf, logprobs...)
	c.w.RawStr(`,"finish_reason":`)
	if finish == "" {
		c.w.RawStr("null")
	} else {
		c.w.Str(finish)
	}
	c.w.RawStr("}]")
	if c.usage {
		c.w.RawStr(`,"usage":null`)
	}
	c.w.RawStr("}\n\n")
}

func (c *chunks) piece(e task.Event) {
	if !c.chat {
		c.text(e.Text)
		c.close("", c.textLogprobs(e))
		return
	}
	if e.Kind == task.EventToolCall {
		c.calls = true
		if c.legacy && e.Call.N > 0 { // the old form has room for one call
			return
		}
	}
	c.open()
	switch {
	case e.Kind == task.EventToolCall && c.legacy:
		c.w.RawStr(`{"function_call":`)
		c.call(e)
		c.w.RawStr(`}`)
	case e.Kind == task.EventToolCall:
		c.w.RawStr(`{"tool_calls":[{"index":`)
		c.w.Int(e.Call.N)
		if e.Call.ID != "" {
			c.w.RawStr(`,"id":`)
			c.w.Str(e.Call.ID)
			c.w.RawStr(`,"type":"function"`)
		}
		c.w.RawStr(`,"function":`)
		c.call(e)
		c.w.RawStr(`}]}`)
	case e.Kind == task.EventReasoning:
		c.w.RawStr(`{"reasoning_content":`)
		c.w.ByteStr(e.Text)
		c.w.RawStr(`}`)
	default:
		c.w.RawStr(`{"content":`)
		c.w.ByteStr(e.Text)
		c.w.RawStr(`}`)
	}
	c.close("", chatLogprobs(e.Logprobs))
}

// textLogprobs are those of a piece of a completion.
func (c *chunks) textLogprobs(e task.Event) json.RawMessage {
	before := c.said
	c.said += utf8.RuneCount(e.Text)
	if e.Logprobs == "" {
		return nil
	}
	var l textLogprobs
	l.add(e.Logprobs, before)
	return exchange.JSON(l)
}

// call sends a piece of a call: its name comes with the first.
func (c *chunks) call(e task.Event) {
	c.w.RawStr("{")
	if e.Call.Name != "" {
		c.w.RawStr(`"name":`)
		c.w.Str(e.Call.Name)
		c.w.RawStr(",")
	}
	c.w.RawStr(`"arguments":`)
	c.w.ByteStr(e.Text)
	c.w.RawStr("}")
}

// text begins a chunk of a completion.
func (c *chunks) text(text []byte) {
	c.w.RawStr(c.head)
	c.w.RawStr(`,"choices":[{"index":0,"text":`)
	c.w.ByteStr(text)
}

// end sends the finish reason, the usage where it was asked for, the receipt, and the mark that ends a stream.
func (c *chunks) end(end *task.End) {
	if c.chat {
		c.open()
		c.w.RawStr("{}")
	} else {
		c.text(nil)
	}
	c.close(finishReason(end, c.calls, c.legacy), nil)
	if c.usage {
		c.w.RawStr(c.head)
		c.w.RawStr(`,"system_fingerprint":`)
		c.w.Str(fingerprint(end))
		c.w.RawStr(`,"choices":[],"usage":`)
		c.w.Buf = append(c.w.Buf, exchange.JSON(usageOf(end))...)
		c.w.RawStr("}\n\n")
	}
	c.w.Buf = exchange.AppendReceipt(c.w.Buf, &end.Receipt)
	c.w.RawStr("data: [DONE]\n\n")
}

// sse implements delivery.Dialect.
type sse struct{}

// ContentType is delivery.Dialect's.
func (sse) ContentType() string { return "text/event-stream; charset=utf-8" }

// Every is delivery.Dialect's.
func (sse) Every() int { return exchange.LookEvery }

// Metrics is delivery.Dialect's. While a task waits, its client is told its place in line in a comment.
func (sse) Metrics(b []byte, m task.Metrics) ([]byte, error) {
	if m.Phase == task.PhaseDecode {
		return b, nil
	}
	return exchange.AppendPlace(b, m), nil
}

// Error is delivery.Dialect's.
func (sse) Error(b []byte, e *task.Error) ([]byte, error) {
	return new(chunks).Append(b, task.Event{Kind: task.EventError, Err: e}), nil
}

// KeepAlive is delivery.Dialect's.
func (sse) KeepAlive(b []byte) []byte { return append(b, ": keep-alive\n\n"...) }
