// SPDX-License-Identifier: GPL-3.0-or-later

package tgi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/llama-orch/llama-orch/harness/conformance/voice"
)

// Step is a part of an answer: a text, or a part of a call.
type Step struct {
	Text string
	Call *Call
}

// Call is a part of call N. The first has its name.
type Call struct {
	N               int
	Name, Arguments string
}

// Rule is what chats get whose last message has a text: the first that matches is played. Without a match, it is words as for a prompt.
type Rule struct {
	Match string
	Tools bool // only where tools may be called
	Play  []Step
}

type message struct {
	Role    string            `json:"role"`
	Content json.RawMessage   `json:"content"`
	Calls   []json.RawMessage `json:"tool_calls"`
}

type chatRequest struct {
	Messages      []message         `json:"messages"`
	Tools         []json.RawMessage `json:"tools"`
	Choice        json.RawMessage   `json:"tool_choice"`
	Format        json.RawMessage   `json:"response_format"`
	Most          *int              `json:"max_tokens"`
	Stop          []string          `json:"stop"`
	Seed          *uint64           `json:"seed"`
	Temperature   float64           `json:"temperature"`
	TopP          *float64          `json:"top_p"`
	Stream        bool              `json:"stream"`
	StreamOptions struct {
		Usage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// tokensPerImage is what a picture adds to a prompt.
const tokensPerImage = 16

// render is the chat template.
func (c *chatRequest) render() (text string, images int) {
	var b strings.Builder
	for _, t := range c.Tools {
		fmt.Fprintf(&b, "tool %s\n", t)
	}
	for _, m := range c.Messages {
		said, seen := content(m)
		images += seen
		fmt.Fprintf(&b, "<|%s|>%s%s\n", m.Role, said, m.Calls)
	}
	return b.String(), images
}

// content is the text of a message, and how many images it has.
func content(m message) (text string, images int) {
	if json.Unmarshal(m.Content, &text) == nil {
		return text, 0
	}
	var parts []struct{ Type, Text string }
	_ = json.Unmarshal(m.Content, &parts) // it fits the contract
	for _, p := range parts {
		if p.Type == "text" {
			text += p.Text
		} else {
			images++
		}
	}
	return text, images
}

func (c *chatRequest) tokens() int {
	text, images := c.render()
	return voice.Count(text) + images*tokensPerImage
}

// callsTools reports whether tools may be called.
func (c *chatRequest) callsTools() bool { return len(c.Tools) > 0 && string(c.Choice) != `"none"` }

// SetRules replaces what chats get.
func (s *Server) SetRules(rules ...Rule) { s.held.Update(func() { s.rules = rules }) }

func (s *Server) chatTokenize(w http.ResponseWriter, r *http.Request) {
	var in chatRequest
	if !s.take(w, r, chatBody, &in, nil) {
		return
	}
	text, _ := in.render()
	if strings.Contains(text, "unrenderable") {
		voice.Answer(w, http.StatusNotFound, map[string]string{"error": "Template error: undefined value", "error_type": "template_error"})
		return
	}
	voice.Answer(w, http.StatusOK, map[string]any{"templated_text": text, "tokenize_response": tokens(in.tokens())})
}

// check refuses what the router's own checks refuse.
func (s *Server) checkChat(in *chatRequest) error {
	_, images := in.render()
	if images > 0 && !s.opts.Images {
		return fmt.Errorf("this model does not support image inputs")
	}
	if in.TopP != nil && (*in.TopP <= 0 || *in.TopP >= 1) {
		return fmt.Errorf("`top_p` must be > 0.0 and < 1.0")
	}
	for _, m := range in.Messages {
		if len(m.Calls) > 0 && len(m.Content) > 0 {
			return fmt.Errorf("of a turn with content, the calls would be lost")
		}
	}
	asked := generateRequest{Inputs: "x", Parameters: parameters{Most: in.Most, Stop: in.Stop}}
	if n := in.tokens(); in.Most != nil && n+*in.Most > s.opts.Total {
		return fmt.Errorf("`inputs` tokens + `max_new_tokens` must be <= %d. Given: %d `inputs` tokens and %d `max_new_tokens`", s.opts.Total, n, *in.Most)
	}
	return s.checkBounds(&asked)
}

// chat answers on /v1/chat/completions.
func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	var in chatRequest
	if !s.take(w, r, chatBody, &in, func() error { return s.checkChat(&in) }) {
		return
	}
	fails := s.failure()
	if fails.Text != "" && fails.After == 0 && fails.Head {
		s.refuse(w, fails)
		return
	}
	if s.enter(r.Context()) != nil {
		return
	}
	defer s.leave()
	w.Header().Set("Content-Type", "text/event-stream")
	p := &chatPlayer{s: s, w: w, in: in, fails: fails, done: r.Context().Done()}
	p.play()
}

// chatPlayer plays one answer.
type chatPlayer struct {
	s     *Server
	w     http.ResponseWriter
	in    chatRequest
	fails Error
	done  <-chan struct{}
	sent  int
	all   strings.Builder
}

// steps are what the chat gets: a scripted answer, or words.
func (p *chatPlayer) steps() func(i int) (Step, bool) {
	last := ""
	for _, m := range p.in.Messages {
		if m.Role == "user" || m.Role == "tool" {
			last, _ = content(m)
		}
	}
	var play []Step
	p.s.held.Look(func() {
		for _, r := range p.s.rules {
			if strings.Contains(last, r.Match) && (!r.Tools || p.in.callsTools()) {
				play = r.Play
				return
			}
		}
	})
	if play != nil {
		return func(i int) (Step, bool) {
			if i >= len(play) {
				return Step{}, true
			}
			return play[i], false
		}
	}
	text, _ := p.in.render()
	next := p.s.voiceOf(generateRequest{Inputs: text, Parameters: parameters{
		Grammar: p.in.Format, Sample: p.in.Temperature > 0, Seed: p.in.Seed, Temperature: p.in.Temperature,
	}})
	return func(i int) (Step, bool) {
		text, over := next(i)
		return Step{Text: text}, over
	}
}

// play sends the answer. It leaves a stop string in the text, as for a prompt.
func (p *chatPlayer) play() {
	next := p.steps()
	for finish := ""; finish == ""; {
		if p.fails.Text != "" && p.sent == p.fails.After { // its status is the same for every error
			event(p.w, map[string]any{"error": map[string]any{"message": p.fails.Text, "http_status_code": http.StatusUnprocessableEntity}})
			return
		}
		if !p.s.pause(p.sent, p.done) {
			return
		}
		step, over := next(p.sent)
		p.sent++
		switch {
		case over:
			finish = "stop"
		default:
			p.all.WriteString(step.Text)
			finish = p.finish()
		}
		p.chunk(step, finish)
	}
	if p.in.StreamOptions.Usage {
		body := p.body()
		n := p.in.tokens()
		body["usage"] = map[string]int{"prompt_tokens": n, "completion_tokens": p.sent, "total_tokens": n + p.sent}
		event(p.w, body)
	}
	_, _ = fmt.Fprint(p.w, "data: [DONE]\n\n")
}

func (p *chatPlayer) finish() string {
	for _, stop := range p.in.Stop {
		if strings.HasSuffix(p.all.String(), stop) {
			return "stop"
		}
	}
	if p.in.Most != nil && p.sent == *p.in.Most {
		return "length"
	}
	return ""
}

func (p *chatPlayer) body() map[string]any {
	return map[string]any{
		"object": "chat.completion.chunk", "id": "", "created": 1706270978, "model": p.s.opts.Model, "system_fingerprint": p.s.opts.Version + "-native",
		"choices": []any{}, "usage": nil,
	}
}

// chunk sends a step.
func (p *chatPlayer) chunk(step Step, finish string) {
	delta := map[string]any{"role": "assistant", "content": step.Text}
	if c := step.Call; c != nil {
		function := map[string]any{"arguments": c.Arguments}
		if c.Name != "" {
			function["name"] = c.Name
		}
		delta = map[string]any{"role": "assistant", "tool_calls": []any{map[string]any{"index": c.N, "id": fmt.Sprint(c.N), "type": "function", "function": function}}}
	}
	choice := map[string]any{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": nil}
	if finish != "" {
		choice["finish_reason"] = finish
	}
	body := p.body()
	body["choices"] = []any{choice}
	event(p.w, body)
}
