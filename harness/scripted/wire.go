// SPDX-License-Identifier: GPL-3.0-or-later

package scripted

import (
	"maps"
	"net/http"
	"strings"
	"time"
)

// completion answers on the native endpoint, on which all is text: the thinking stands in <think>, and a call in <tool_call>.
func (e *Engine) completion(w http.ResponseWriter, r *http.Request) {
	var in completionRequest
	if e.take(w, r, completionParameters, &in, nil) {
		e.play(w, r, in.sampling, in.asked(), count(in.Prompt), func(p *player) wire { return &native{p: p} })
	}
}

type native struct {
	p    *player
	open string // what has to be closed before text follows
	call int
	all  strings.Builder
}

func (*native) begin() {}

func (n *native) progress(all int) {
	n.p.frame(map[string]any{
		"index": 0, "content": "", "tokens": []int{}, "stop": false,
		"prompt_progress": map[string]int{"total": all, "cache": 0, "processed": all, "time_ms": 1},
	})
}

func (n *native) piece(s Step) {
	switch {
	case s.Reasoning != "":
		n.switchTo("<think>", "</think>")
		n.text(s.Reasoning)
	case s.Call != nil:
		if n.open == "</tool_call>" && n.call != s.Call.N {
			n.switchTo("", "")
		}
		n.call = s.Call.N
		n.switchTo("<tool_call>", "</tool_call>")
		n.text(s.Call.Name + s.Call.Arguments)
	default:
		n.switchTo("", "")
		n.text(s.Text)
	}
}

func (n *native) switchTo(open, closing string) {
	if n.open == closing {
		return
	}
	was := n.open
	n.open = closing
	n.text(was + open)
}

func (n *native) text(text string) {
	n.all.WriteString(text)
	if text != "" {
		frame := map[string]any{"index": 0, "content": text, "tokens": []int{1}, "stop": false, "id_slot": n.p.slot}
		if likely := n.p.likely(text); likely != nil {
			frame["completion_probabilities"] = likely
		}
		n.p.frame(frame)
	}
}

func (n *native) end(e ending) {
	n.switchTo("", "")
	body := e.native()
	if !n.p.ask.Stream {
		body["content"] = n.all.String()
	}
	body = only(body, n.p.ask.Fields)
	if !n.p.ask.Stream {
		writeJSON(n.p.w, http.StatusOK, body)
		return
	}
	n.p.frame(body)
}

// only leaves of a frame what was asked for.
func only(body map[string]any, fields []string) map[string]any {
	if len(fields) == 0 {
		return body
	}
	left := map[string]any{}
	for _, name := range fields {
		if v, ok := body[name]; ok {
			left[name] = v
		}
	}
	return left
}

// chat answers on the chat endpoint.
func (e *Engine) chat(w http.ResponseWriter, r *http.Request) {
	var in chatRequest
	if !e.take(w, r, chatParameters, &in, func() error { return in.check(e.opts) }) {
		return
	}
	prompt := e.render(&in)
	e.play(w, r, in.sampling, in.asked(prompt), countChat(prompt, in.images()), func(p *player) wire {
		return &chat{p: p, id: "chatcmpl-" + random(), split: in.ReasoningFormat != "" && in.ReasoningFormat != "none", ids: map[int]string{}}
	})
}

type chat struct {
	p     *player
	id    string
	split bool // the thinking comes by itself, and not in the content
	ids   map[int]string

	content, reasoning strings.Builder
	calls              []map[string]any
}

// chunk sends a delta.
func (c *chat) chunk(delta map[string]any, finish any, more map[string]any) {
	body := c.body("chat.completion.chunk")
	choice := map[string]any{"finish_reason": finish, "index": 0, "delta": delta}
	for _, kind := range []string{"content", "reasoning_content"} {
		if text, ok := delta[kind].(string); ok && c.p.ask.NProbs > 0 {
			choice["logprobs"] = map[string]any{"content": c.p.likely(text)}
		}
	}
	body["choices"] = []any{choice}
	maps.Copy(body, more)
	c.p.frame(body)
}

func (c *chat) body(object string) map[string]any {
	return map[string]any{"created": time.Now().Unix(), "id": c.id, "model": "scripted", "system_fingerprint": c.p.e.opts.Build, "object": object}
}

func (c *chat) begin() { c.chunk(map[string]any{"role": "assistant", "content": nil}, nil, nil) }

func (c *chat) progress(all int) {
	c.chunk(map[string]any{"role": "assistant", "content": nil}, nil, map[string]any{
		"prompt_progress": map[string]int{"total": all, "cache": 0, "processed": all, "time_ms": 1},
	})
}

func (c *chat) piece(s Step) {
	switch {
	case s.Reasoning != "" && c.split:
		c.reasoning.WriteString(s.Reasoning)
		c.chunk(map[string]any{"reasoning_content": s.Reasoning}, nil, nil)
	case s.Reasoning != "":
		c.text(s.Reasoning)
	case s.Call != nil:
		c.call(*s.Call)
	default:
		c.text(s.Text)
	}
}

func (c *chat) text(text string) {
	c.content.WriteString(text)
	c.chunk(map[string]any{"content": text}, nil, nil)
}

func (c *chat) call(piece Call) {
	function := map[string]any{}
	if piece.Arguments != "" {
		function["arguments"] = piece.Arguments
	}
	delta := map[string]any{"index": piece.N, "function": function}
	if piece.Name != "" {
		c.ids[piece.N] = random()
		function["name"] = piece.Name
		delta["id"], delta["type"] = c.ids[piece.N], "function"
		c.calls = append(c.calls, map[string]any{
			"id": c.ids[piece.N], "type": "function", "function": map[string]any{"name": piece.Name, "arguments": piece.Arguments},
		})
	} else if n := len(c.calls); n > 0 {
		if f, ok := c.calls[n-1]["function"].(map[string]any); ok {
			said, _ := f["arguments"].(string) // it was written above
			f["arguments"] = said + piece.Arguments
		}
	}
	c.chunk(map[string]any{"tool_calls": []any{delta}}, nil, nil)
}

func (c *chat) end(e ending) {
	usage := map[string]any{
		"completion_tokens": e.tokens, "prompt_tokens": e.prompt, "total_tokens": e.prompt + e.tokens,
		"prompt_tokens_details": map[string]int{"cached_tokens": 0},
	}
	verbose := only(e.native(), c.p.ask.Fields)
	if !c.p.ask.Stream {
		body := c.body("chat.completion")
		answer := map[string]any{"role": "assistant", "content": c.content.String()}
		if c.reasoning.Len() > 0 {
			answer["reasoning_content"] = c.reasoning.String()
		}
		if len(c.calls) > 0 {
			answer["tool_calls"] = c.calls
		}
		body["choices"] = []any{map[string]any{"finish_reason": e.finish, "index": 0, "message": answer}}
		body["usage"], body["timings"] = usage, e.timings()
		if c.p.ask.Verbose {
			body["__verbose"] = verbose
		}
		writeJSON(c.p.w, http.StatusOK, body)
		return
	}
	more := map[string]any{}
	if c.p.ask.Verbose {
		more["__verbose"] = verbose
	}
	if !c.p.ask.StreamOptions.Usage {
		more["timings"] = e.timings()
	}
	c.chunk(map[string]any{}, e.finish, more)
	if c.p.ask.StreamOptions.Usage {
		body := c.body("chat.completion.chunk")
		body["choices"], body["usage"], body["timings"] = []any{}, usage, e.timings()
		c.p.frame(body)
	}
	c.p.write("data: [DONE]\n\n")
}
