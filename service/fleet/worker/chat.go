// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// chat is the body of POST /apply-template: that of llama-server's chat endpoint, as far as a template can use it. What the model answers is not read
// here, so tools and formats have no effect beyond what the template writes of them.
type chat struct {
	Messages  []map[string]any           `json:"messages"`
	Tools     []any                      `json:"tools"`
	Arguments map[string]json.RawMessage `json:"chat_template_kwargs"`
	Effort    string                     `json:"reasoning_effort"`
}

// used is what the template may use, by name, as a JSON object.
func (c chat) used() (json.RawMessage, error) {
	if len(c.Messages) == 0 {
		return nil, invalid(`"messages" must be a non-empty array`)
	}
	for i, m := range c.Messages {
		if err := readable(m); err != nil {
			return nil, invalid("message %d: %v", i, err)
		}
	}
	used := map[string]any{"messages": c.Messages, "add_generation_prompt": true}
	if len(c.Tools) > 0 {
		used["tools"] = c.Tools
	}
	if c.Effort != "" {
		used["reasoning_effort"] = c.Effort
	}
	for name, v := range c.Arguments {
		used[name] = v
	}
	return json.Marshal(used)
}

// readable makes of a message what templates expect: a text as content, and the arguments of calls as objects.
func readable(m map[string]any) error {
	switch content := m["content"].(type) {
	case string:
	case nil:
		m["content"] = ""
	case []any:
		text, err := joined(content)
		if err != nil {
			return err
		}
		m["content"] = text
	default:
		return fmt.Errorf(`"content" must be a text, or an array of parts`)
	}
	calls, _ := m["tool_calls"].([]any) // it may have none
	for _, call := range calls {
		if call, ok := call.(map[string]any); ok {
			if function, ok := call["function"].(map[string]any); ok {
				if text, ok := function["arguments"].(string); ok && json.Valid([]byte(text)) {
					function["arguments"] = json.RawMessage(text)
				}
			}
		}
	}
	return nil
}

// joined is the text of a content's parts.
func joined(parts []any) (string, error) {
	var b strings.Builder
	for _, p := range parts {
		p, _ := p.(map[string]any)
		text, ok := p["text"].(string)
		if !ok || p["type"] != "text" {
			return "", fmt.Errorf("the built-in worker takes parts of text only")
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// object reads a JSON object as a template wants it: whole numbers stay whole.
func object(data []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var all map[string]any
	if err := d.Decode(&all); err != nil {
		return nil, err
	}
	for name, v := range all {
		all[name] = plain(v)
	}
	return all, nil
}

func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.Atoi(v.String()); err == nil {
			return n
		}
		f, _ := v.Float64() // what is too large is infinite
		return f
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = plain(v[name])
		}
	}
	return v
}
