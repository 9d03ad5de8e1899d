// SPDX-License-Identifier: GPL-3.0-or-later

package anthropic

import (
	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/task"
)

// events encodes a task's events as the dialect's. A token costs no allocation.
type events struct {
	start   string // the first event
	request string // id of the request
	task    string // id of the task
	hidden  bool   // what the model thinks is not told
	begun   bool
	open    bool           // a block is
	kind    task.EventKind // of the block that is open
	call    int            // of a call's block: number of the call
	index   int            // of the block that is open, or comes next
	calls   []place        // the blocks of calls, in their order
	w       jx.Writer
}

// place says which block a call has.
type place struct{ call, index int }

func newEvents(a answer, taskID string, hidden bool, requestID string) *events {
	return &events{
		start: "event: message_start\ndata: {\"type\":\"message_start\",\"message\":" + string(exchange.JSON(a)) + "}\n\n",
		task:  taskID, request: requestID, hidden: hidden,
	}
}

// Append implements delivery.Encoder. The message begins with its first piece: before that, clients repeat what fails.
func (c *events) Append(b []byte, e task.Event) []byte {
	c.w.Buf = b
	switch e.Kind {
	case task.EventStarted:
	case task.EventText, task.EventReasoning, task.EventToolCall:
		c.begin()
		c.piece(e)
	case task.EventEnd:
		c.begin()
		c.end(e.End)
	case task.EventError:
		c.w.Buf = appendError(c.w.Buf, e.Err, c.request)
	}
	b, c.w.Buf = c.w.Buf, nil
	return b
}

func appendError(b []byte, e *task.Error, requestID string) []byte {
	b = append(b, "event: error\ndata: "...)
	b = append(b, exchange.JSON(errorOf(e, requestID))...)
	return append(b, "\n\n"...)
}

func (c *events) begin() {
	if !c.begun {
		c.begun = true
		c.w.RawStr(c.start)
	}
}

// piece sends a piece of the block that it belongs to.
func (c *events) piece(e task.Event) {
	index := c.index
	if !c.open || c.kind != e.Kind || e.Kind == task.EventToolCall && c.call != e.Call.N {
		at, known := c.placeOf(e)
		if !known {
			c.close()
			c.openBlock(e)
			at = c.index
		}
		index = at
	}
	switch {
	case len(e.Text) == 0, e.Kind == task.EventReasoning && c.hidden:
		return
	case e.Kind == task.EventText:
		c.delta(index, `{"type":"text_delta","text":`)
	case e.Kind == task.EventReasoning:
		c.delta(index, `{"type":"thinking_delta","thinking":`)
	default:
		c.delta(index, `{"type":"input_json_delta","partial_json":`)
	}
	c.w.ByteStr(e.Text)
	c.w.RawStr("}}\n\n")
}

// placeOf returns the block of a call that has begun before. Engines send one call after the other. Where one does not, the number of
// the block still tells whose the piece is.
func (c *events) placeOf(e task.Event) (index int, known bool) {
	if e.Kind == task.EventToolCall {
		for _, p := range c.calls {
			if p.call == e.Call.N {
				return p.index, true
			}
		}
	}
	return 0, false
}

// delta begins a delta of a block, up to its value.
func (c *events) delta(index int, head string) {
	c.head("content_block_delta", index)
	c.w.RawStr(`,"delta":`)
	c.w.RawStr(head)
}

// head begins an event about a block.
func (c *events) head(name string, index int) {
	c.w.RawStr("event: ")
	c.w.RawStr(name)
	c.w.RawStr("\ndata: {\"type\":\"")
	c.w.RawStr(name)
	c.w.RawStr(`","index":`)
	c.w.Int(index)
}

func (c *events) openBlock(e task.Event) {
	c.open, c.kind, c.call = true, e.Kind, e.Call.N
	c.head("content_block_start", c.index)
	c.w.RawStr(`,"content_block":`)
	switch e.Kind {
	case task.EventToolCall:
		c.calls = append(c.calls, place{e.Call.N, c.index})
		c.json(callBlock{Type: "tool_use", ID: e.Call.ID, Caller: caller{"direct"}, Name: e.Call.Name, Input: input("")})
	case task.EventReasoning:
		c.json(thinkingBlock{Type: "thinking"})
	default:
		c.json(textBlock{Type: "text"})
	}
	c.w.RawStr("}\n\n")
}

func (c *events) json(v any) { c.w.Buf = append(c.w.Buf, exchange.JSON(v)...) }

// close ends the block that is open.
func (c *events) close() {
	if !c.open {
		return
	}
	if c.kind == task.EventReasoning {
		c.delta(c.index, `{"type":"signature_delta","signature":`)
		c.w.Str(signature(c.task))
		c.w.RawStr("}}\n\n")
	}
	c.head("content_block_stop", c.index)
	c.w.RawStr("}\n\n")
	c.open = false
	c.index++
}

// messageDelta tells why a message ended.
type messageDelta struct {
	Type  string `json:"type"`
	Delta struct {
		Container    *string `json:"container"`
		StopDetails  *string `json:"stop_details"`
		StopReason   string  `json:"stop_reason"`
		StopSequence *string `json:"stop_sequence"`
	} `json:"delta"`
	Usage usage `json:"usage"`
}

// end sends why the message ended, the usage, the receipt, and the event that ends a stream.
func (c *events) end(end *task.End) {
	c.close()
	d := messageDelta{Type: "message_delta", Usage: usageOf(end)}
	d.Delta.StopReason = stopReason(end, len(c.calls) > 0)
	c.w.RawStr("event: message_delta\ndata: ")
	c.json(d)
	c.w.RawStr("\n\n")
	c.w.Buf = exchange.AppendReceipt(c.w.Buf, &end.Receipt)
	c.w.RawStr("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
}

// sse implements delivery.Dialect.
type sse struct{ request string }

const ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n"

// ContentType is delivery.Dialect's.
func (sse) ContentType() string { return "text/event-stream; charset=utf-8" }

// Every is delivery.Dialect's.
func (sse) Every() int { return exchange.LookEvery }

// Metrics is delivery.Dialect's. A client whose task waits is told its place in line in a comment, and gets a ping: some count events.
func (sse) Metrics(b []byte, m task.Metrics) ([]byte, error) {
	if m.Phase == task.PhaseDecode {
		return b, nil
	}
	return append(exchange.AppendPlace(b, m), ping...), nil
}

// Error is delivery.Dialect's.
func (d sse) Error(b []byte, e *task.Error) ([]byte, error) {
	return appendError(b, e, d.request), nil
}

// KeepAlive is delivery.Dialect's.
func (sse) KeepAlive(b []byte) []byte { return append(b, ping...) }
