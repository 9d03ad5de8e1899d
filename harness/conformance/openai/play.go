// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/harness/dialect"
	"github.com/llama-orch/llama-orch/harness/scripted"
)

type message struct {
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	Reasoning string          `json:"reasoning"`
	Thinking  string          `json:"reasoning_content"`
	Calls     []any           `json:"tool_calls"`
}

// sampling is what chats and completions have in common.
type sampling struct {
	Model     string   `json:"model"`
	Seed      uint64   `json:"seed"`
	Stream    bool     `json:"stream"`
	MaxTokens *int     `json:"max_tokens"`
	Stop      []string `json:"stop"`
	Options   struct {
		Usage bool `json:"include_usage"`
	} `json:"stream_options"`
	Temperature float64         `json:"temperature"`
	Logprobs    json.RawMessage `json:"logprobs"`
	Top         int             `json:"top_logprobs"`
}

type chatRequest struct {
	sampling

	Messages []message         `json:"messages"`
	Tools    []json.RawMessage `json:"tools"`
	Choice   string            `json:"tool_choice"`
}

type completionRequest struct {
	sampling

	Prompt string `json:"prompt"`
}

// prompt is the chat as its template renders it, and how many images it has.
func (c *chatRequest) prompt() (text string, images int) {
	var b strings.Builder
	for _, t := range c.Tools {
		fmt.Fprintf(&b, "tool %s\n", t)
	}
	for _, m := range c.Messages {
		content := said(m)
		images += strings.Count(content, imageMark)
		fmt.Fprintf(&b, "<|%s|>%s%s%s%s\n", m.Role, m.Reasoning, m.Thinking, content, encode(m.Calls))
	}
	return b.String(), images
}

const imageMark = "\x00image\x00"

// said is the text of a message.
func said(m message) string {
	var text string
	if json.Unmarshal(m.Content, &text) == nil {
		return text
	}
	var parts []struct{ Type, Text string }
	_ = json.Unmarshal(m.Content, &parts) // it fits the document
	for _, p := range parts {
		if p.Type == "text" {
			text += p.Text
		} else {
			text += imageMark
		}
	}
	return text
}

func (c *chatRequest) tokens() int {
	text, images := c.prompt()
	return count(strings.ReplaceAll(text, imageMark, "")) + images*16
}

func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	var in chatRequest
	if !s.take(w, r, s.fits(dialect.ChatRequest), &in) || !s.has(w, in.Model) {
		return
	}
	prompt, images := in.prompt()
	calls := len(in.Tools) > 0 && in.Choice != "none"
	switch {
	case images > 0 && s.opts.Blind:
		s.fail(w, http.StatusBadRequest, in.Model+" is not a multimodal model")
		return
	case calls && s.opts.NoTools:
		s.fail(w, http.StatusBadRequest, `"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set`)
		return
	}
	last := message{}
	for _, m := range in.Messages {
		if m.Role == "user" || m.Role == "tool" {
			last = m
		}
	}
	asks := string(in.Logprobs) == "true"
	s.play(w, r, &player{ask: in.sampling, chat: true, asks: asks, prompt: in.tokens(), seen: prompt, last: said(last), tools: calls})
}

func (s *Server) completion(w http.ResponseWriter, r *http.Request) {
	var in completionRequest
	if !s.take(w, r, s.fits(dialect.CompletionRequest), &in) || !s.has(w, in.Model) {
		return
	}
	p := &player{ask: in.sampling, prompt: count(in.Prompt), seen: in.Prompt, last: in.Prompt}
	p.asks = json.Unmarshal(in.Logprobs, &p.ask.Top) == nil
	if in.MaxTokens == nil && s.is.short {
		short := 16
		p.ask.MaxTokens = &short
	}
	s.play(w, r, p)
}

// player plays one answer. Its handler's goroutine owns it.
type player struct {
	s   *Server
	w   http.ResponseWriter
	ask sampling

	chat, asks, tools  bool
	prompt             int // tokens
	seen, last, finish string

	limit, sent  int
	head, called bool
	held         string // of the answer: it may be the begin of a stop string
}

// play answers a request.
func (s *Server) play(w http.ResponseWriter, r *http.Request, p *player) {
	p.s, p.w, p.limit = s, w, s.opts.Ctx-p.prompt
	switch {
	case p.limit <= 0:
		s.fail(w, http.StatusBadRequest, fmt.Sprintf("This model's maximum context length is %d tokens. However, your request has %d input tokens.", s.opts.Ctx, p.prompt))
		return
	case p.ask.MaxTokens != nil && *p.ask.MaxTokens > p.limit && s.is.refuses:
		s.fail(w, http.StatusBadRequest, fmt.Sprintf("'max_tokens' or 'max_completion_tokens' is too large: %d. This model's maximum context length is %d tokens and your request has %d input tokens.",
			*p.ask.MaxTokens, s.opts.Ctx, p.prompt))
		return
	case p.ask.MaxTokens != nil:
		p.limit = min(p.limit, *p.ask.MaxTokens)
	}
	if !p.ask.Stream { // nobody reads what it says
		answer(w, map[string]any{"id": "cmpl-1", "object": "chat.completion", "created": 1700000000, "model": p.ask.Model, "choices": []any{map[string]any{
			"index": 0, "finish_reason": "length", "logprobs": nil, "message": map[string]any{"role": "assistant", "content": "a", "refusal": nil},
		}}})
		return
	}
	s.Update(func() { s.running++; s.queries += p.prompt })
	defer s.Update(func() { s.running-- })
	rule := s.pick(p)
	p.finish = rule.Finish
	for _, step := range rule.Play {
		if err := p.step(r.Context(), step); err != nil {
			panic(http.ErrAbortHandler)
		}
		if p.finish == "error" {
			return
		}
	}
	if len(rule.Play) == 0 {
		p.babble(r.Context())
	}
	if r.Context().Err() == nil {
		p.end()
	}
}

// pick finds the rule for a request. One without steps has the server say words.
func (s *Server) pick(p *player) (rule scripted.Rule) {
	s.Update(func() {
		for i, r := range s.script.Rules {
			if (r.Times == 0 || s.played[i] < r.Times) && (r.Tools == nil || *r.Tools == p.tools) && strings.Contains(p.last, r.Match) && strings.Contains(p.seen, r.Contains) {
				s.played[i]++
				rule = r
				return
			}
		}
	})
	return rule
}

// step plays what of a script a server of this kind can do.
func (p *player) step(ctx context.Context, s scripted.Step) error {
	switch {
	case s.Error != nil && !p.head:
		p.s.fail(p.w, s.Error.Code, s.Error.Message)
		p.finish = "error"
	case s.Error != nil:
		p.write("data: " + encode(p.s.is.error(s.Error.Code, s.Error.Message)) + "\n\n")
		p.finish = "error"
	case s.Die:
		return http.ErrAbortHandler
	case s.Ping:
		p.write(": ping\n\n")
	case s.Raw != "":
		p.write("data: " + s.Raw + "\n\n")
	case s.Wait:
		<-ctx.Done()
	case s.Text != "":
		return p.each(ctx, s.Text, s.Cut, p.text)
	case s.Reasoning != "":
		return p.each(ctx, s.Reasoning, s.Cut, func(piece string) { p.delta(map[string]any{p.s.is.reasoningField(): piece}, "") })
	case s.Call != nil:
		p.called = true
		name := s.Call.Name
		return p.each(ctx, s.Call.Arguments, s.Cut, func(piece string) {
			call := map[string]any{"index": s.Call.N, "function": map[string]any{"arguments": piece}}
			if name != "" {
				call["id"], call["type"] = fmt.Sprintf("chatcmpl-tool-%d", time.Now().UnixNano()), "function" // another one each time, as servers have it
				call["function"] = map[string]any{"name": name, "arguments": piece}
				name = ""
			}
			p.delta(map[string]any{"tool_calls": []any{call}}, "")
		})
	}
	return ctx.Err()
}

func (f flavour) reasoningField() string {
	if f.reasoning == "" {
		return "reasoning_content"
	}
	return f.reasoning
}

// each sends a text in pieces of so many runes, each of which is a token.
func (p *player) each(ctx context.Context, text string, cut int, send func(string)) error {
	runes := []rune(text)
	for first := true; first || len(runes) > 0; first = false {
		n := len(runes)
		if cut > 0 {
			n = min(n, cut)
		}
		if !p.token(ctx) {
			return ctx.Err()
		}
		send(string(runes[:n]))
		runes = runes[n:]
	}
	return ctx.Err()
}

// token counts a token, and reports whether there is another.
func (p *player) token(ctx context.Context) bool {
	if p.s.opts.Pace > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(p.s.opts.Pace):
		}
	}
	if p.finish != "" || ctx.Err() != nil {
		return false
	}
	if p.sent == p.limit {
		p.finish = "length"
		return false
	}
	p.sent++
	return true
}

var vocabulary = strings.Fields("frog pond rain 蛙 leaf moon é river stone wind 🐸 snow fog reed crane dusk")

// babble says words until there is no room.
func (p *player) babble(ctx context.Context) {
	seed := p.ask.Seed
	if p.ask.Temperature == 0 {
		seed = 0
	}
	for i := 0; p.token(ctx); i++ {
		h := fnv.New64a()
		_, _ = fmt.Fprint(h, p.seen, seed, i) // a hash takes all
		p.text(vocabulary[h.Sum64()>>32%uint64(len(vocabulary))] + " ")
	}
}

// text sends a piece of the answer, up to a stop string. What may be the begin of one is held back.
func (p *player) text(piece string) {
	all := p.held + piece
	p.held = ""
	send, stopped := len(all), false
	for _, stop := range p.ask.Stop {
		if at := strings.Index(all, stop); at >= 0 && (at < send || !stopped) {
			send, stopped = min(at, send), true
		}
	}
	for _, stop := range p.ask.Stop {
		for n := min(len(stop)-1, len(all)); n > 0 && !stopped; n-- {
			if strings.HasSuffix(all, stop[:n]) {
				send = min(send, len(all)-n)
			}
		}
	}
	if stopped {
		p.finish = "stop"
	} else {
		p.held = all[send:]
	}
	if send > 0 {
		p.say(all[:send])
	}
}

func (p *player) say(text string) {
	if p.chat {
		p.delta(map[string]any{"content": text}, text)
		return
	}
	p.frame(map[string]any{"index": 0, "text": text, "finish_reason": nil, "logprobs": p.older(text)}, nil)
}

// delta sends a piece of a chat. Content is the token whose probability is told, if it is asked for.
func (p *player) delta(delta map[string]any, content string) {
	if !p.head {
		p.head = true
		p.frame(map[string]any{"index": 0, "delta": map[string]any{"role": "assistant", "content": ""}, "finish_reason": nil, "logprobs": nil}, nil)
	}
	choice := map[string]any{"index": 0, "delta": delta, "finish_reason": nil, "logprobs": nil}
	if content != "" && p.asks {
		top := []any{}
		for i := range p.ask.Top {
			top = append(top, likely(content, i))
		}
		token := likely(content, 0)
		token["top_logprobs"] = top
		choice["logprobs"] = map[string]any{"content": []any{token}}
	}
	p.frame(choice, nil)
}

// likely tells of the token at a place: half, and then half as much each time.
func likely(text string, place int) map[string]any {
	if place > 0 {
		text = fmt.Sprint("other ", place)
	}
	bytes := []int{}
	for _, b := range []byte(text) {
		bytes = append(bytes, int(b))
	}
	return map[string]any{"token": text, "bytes": bytes, "logprob": -math.Ln2 * float64(place+1)}
}

// older is the same in the form of completions.
func (p *player) older(text string) any {
	if !p.asks {
		return nil
	}
	top := map[string]float64{}
	for i := range p.ask.Top {
		l := likely(text, i)
		top[fmt.Sprint(l["token"])] = -math.Ln2 * float64(i+1)
	}
	return map[string]any{"tokens": []string{text}, "token_logprobs": []float64{-math.Ln2}, "top_logprobs": []any{top}, "text_offset": []int{0}}
}

// end sends the last frames.
func (p *player) end() {
	if p.held != "" && p.finish != "stop" {
		p.say(p.held)
	}
	finish := p.finish
	switch {
	case finish == "" && p.called && p.s.is.stopsAs != "":
		finish = p.s.is.stopsAs
	case finish == "" && p.called:
		finish = "tool_calls"
	case finish == "":
		finish = "stop"
	}
	choice := map[string]any{"index": 0, "finish_reason": finish, "logprobs": nil}
	if p.chat {
		choice["delta"] = map[string]any{}
	} else {
		choice["text"] = ""
	}
	usage := map[string]any{
		"prompt_tokens": p.prompt, "completion_tokens": p.sent, "total_tokens": p.prompt + p.sent, "prompt_tokens_details": map[string]int{"cached_tokens": 1},
	}
	tells := p.ask.Options.Usage && !p.s.is.noUsage
	if tells && p.s.is.late {
		p.frame(choice, usage)
	} else {
		p.frame(choice, nil)
	}
	if tells && !p.s.is.late {
		p.frame(nil, usage)
	}
	if !p.s.is.noDone {
		p.write("data: [DONE]\n\n")
	}
}

func (p *player) frame(choice, usage map[string]any) {
	body := map[string]any{"id": "cmpl-1", "created": 1700000000, "model": p.ask.Model, "choices": []any{}}
	body["object"] = "text_completion"
	if p.chat {
		body["object"] = "chat.completion.chunk"
	}
	if choice != nil {
		body["choices"] = []any{choice}
	}
	if p.ask.Options.Usage && !p.s.is.noUsage {
		body["usage"] = nil
		if usage != nil {
			body["usage"] = usage
		}
	}
	p.write("data: " + encode(body) + "\n\n")
}

func (p *player) write(text string) {
	p.head = true
	p.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	_, _ = p.w.Write([]byte(text)) // the context shows whether the client has gone
	_ = http.NewResponseController(p.w).Flush()
}

// What a fault has to know of these streams.

func streams(path string, body []byte) bool {
	return strings.HasSuffix(path, "/completions") && bytes.Contains(body, []byte(`"stream":true`))
}

func says(data string) bool {
	return strings.Contains(data, `"content":"`) && !strings.Contains(data, `"content":""`) ||
		strings.Contains(data, `"text":"`) && !strings.Contains(data, `"text":""`) || strings.Contains(data, `"reasoning`) || strings.Contains(data, `"arguments"`)
}

func ends(data string) bool { return strings.Contains(data, `"finish_reason":"`) }
