// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/llama-orch/llama-orch/internal/plainjson"
)

// Message is one turn of a chat, in JSON as the API takes it. It has parts only if it has an image.
type Message struct {
	Role       string
	Content    string
	Parts      []Part
	Reasoning  string
	ToolCalls  []ToolCall
	ToolCallID string
}

// Part is a text or an image.
type Part struct {
	Type      string `json:"type"` // text or image
	Text      string `json:"text,omitempty"`
	MediaType string `json:"media_type,omitempty"`
	Data      []byte `json:"data,omitempty"`   // of an image
	SHA256    string `json:"sha256,omitempty"` // of an image, in place of Data, where a digest is over it
}

// ToolCall is a call that an assistant made.
type ToolCall struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// message is the form of a Message in JSON.
type message struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	Reasoning  string          `json:"reasoning,omitempty"`
	ToolCalls  []ToolCall      `json:"tool_calls,omitempty"`
	ToolCallID string          `json:"tool_call_id,omitempty"`
}

// MarshalJSON writes the content as a text, or as a list of parts.
func (m Message) MarshalJSON() ([]byte, error) {
	var content any = m.Content
	if len(m.Parts) > 0 {
		content = m.Parts
	}
	text, err := plainjson.Encode(content)
	if err != nil {
		return nil, err
	}
	return plainjson.Encode(message{Role: m.Role, Content: text, Reasoning: m.Reasoning, ToolCalls: m.ToolCalls, ToolCallID: m.ToolCallID})
}

// UnmarshalJSON takes what the API takes. Texts that follow each other become one.
func (m *Message) UnmarshalJSON(text []byte) error {
	var in message
	if err := json.Unmarshal(text, &in); err != nil {
		return fmt.Errorf("a message: %w", err)
	}
	*m = Message{Role: in.Role, Reasoning: in.Reasoning, ToolCalls: in.ToolCalls, ToolCallID: in.ToolCallID}
	if !bytes.HasPrefix(in.Content, []byte{'['}) {
		if len(in.Content) == 0 {
			return nil
		}
		if err := json.Unmarshal(in.Content, &m.Content); err != nil {
			return fmt.Errorf("the content of a message: %w", err)
		}
		return nil
	}
	var parts []Part
	if err := json.Unmarshal(in.Content, &parts); err != nil {
		return fmt.Errorf("the content of a message: %w", err)
	}
	var texts strings.Builder
	images := false
	for _, p := range parts {
		if n := len(m.Parts); p.Type == "text" && n > 0 && m.Parts[n-1].Type == "text" {
			m.Parts[n-1].Text += p.Text
		} else {
			m.Parts = append(m.Parts, p)
		}
		texts.WriteString(p.Text)
		images = images || p.Type != "text"
	}
	if !images {
		m.Content, m.Parts = texts.String(), nil
	}
	return nil
}

// Chat is what a request asks besides its messages, with the names that the API has.
type Chat struct {
	Tools             []Tool             `json:"tools,omitempty"`
	ToolChoice        string             `json:"tool_choice,omitempty"` // empty: auto
	ParallelToolCalls *bool              `json:"parallel_tool_calls,omitempty"`
	Format            *AnswerFormat      `json:"format,omitempty"`
	Reasoning         *Thinking          `json:"reasoning,omitempty"`
	LogitBias         map[string]float64 `json:"logit_bias,omitempty"`
	Logprobs          bool               `json:"logprobs,omitempty"`
	TopLogprobs       int                `json:"top_logprobs,omitempty"`
	TemplateArgs      json.RawMessage    `json:"template_args,omitempty"`
}

// Tool is a function that the model may call.
type Tool struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"`
}

// AnswerFormat binds an answer's form.
type AnswerFormat struct {
	Type    string          `json:"type"` // json_object, json_schema or grammar
	Schema  json.RawMessage `json:"schema,omitempty"`
	Grammar string          `json:"grammar,omitempty"`
}

// Thinking is what is wanted of a model that thinks.
type Thinking struct {
	Split   bool   `json:"split,omitempty"`
	Enabled *bool  `json:"enabled,omitempty"`
	Effort  string `json:"effort,omitempty"`
	Budget  int    `json:"budget,omitempty"`
}

// plain is the chat in its one form: what says nothing is left out.
func (c Chat) plain() Chat {
	absent := func(raw *json.RawMessage) {
		if string(*raw) == "null" {
			*raw = nil
		}
	}
	c.Tools = append([]Tool(nil), c.Tools...)
	for i := range c.Tools {
		absent(&c.Tools[i].Parameters)
	}
	absent(&c.TemplateArgs)
	if c.ToolChoice == "auto" {
		c.ToolChoice = ""
	}
	if c.Format != nil {
		f := *c.Format
		absent(&f.Schema)
		c.Format = &f
	}
	if c.Reasoning != nil && *c.Reasoning == (Thinking{}) {
		c.Reasoning = nil
	}
	return c
}

// Empty reports whether nothing is asked.
func (c Chat) Empty() bool {
	text, err := plainjson.Encode(c.plain())
	return err == nil && string(text) == "{}"
}

// DigestMessages is the digest of messages: over their JSON, in which an image's data is replaced by its SHA-256.
func DigestMessages(messages []Message) string {
	hashed := make([]Message, len(messages))
	for i, m := range messages {
		m.Parts = append([]Part(nil), m.Parts...)
		for j := range m.Parts {
			if p := &m.Parts[j]; p.Data != nil {
				p.SHA256, p.Data = Digest(p.Data), nil
			}
		}
		hashed[i] = m
	}
	return digestJSON(hashed)
}

// DigestChat is that of what is asked besides the messages.
func DigestChat(c Chat) string { return digestJSON(c.plain()) }
