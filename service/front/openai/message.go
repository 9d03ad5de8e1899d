// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// message is one turn of a chat.
type message struct {
	Role             string          `json:"role"`
	Content          json.RawMessage `json:"content"`
	Name             string          `json:"name"`
	ToolCalls        []callIn        `json:"tool_calls"`
	FunctionCall     *calledIn       `json:"function_call"` // the form of calls before there were tools
	ToolCallID       string          `json:"tool_call_id"`
	ReasoningContent string          `json:"reasoning_content"`
	Reasoning        json.RawMessage `json:"reasoning"` // others call it so; some put more than a text there
}

type callIn struct {
	ID       string    `json:"id"`
	Type     string    `json:"type"`
	Function *calledIn `json:"function"`
}

type calledIn struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}

// arguments are those of a call: a text, or by some clients the object itself.
func (c *calledIn) arguments() string {
	var text string
	if json.Unmarshal(c.Arguments, &text) != nil {
		text = string(c.Arguments)
	}
	return lenient.WholeArguments(text)
}

// part is a part of a message's content.
type part struct {
	Type     string          `json:"type"`
	Text     string          `json:"text"`
	Refusal  string          `json:"refusal"`
	ImageURL json.RawMessage `json:"image_url"`
}

// content is a text, or a list of parts. Parts are only returned where there is an image among them.
func content(param string, raw json.RawMessage) (string, []task.Part, error) {
	if lenient.Missing(raw) {
		return "", nil, nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, nil, nil
	}
	var in []part
	if json.Unmarshal(raw, &in) != nil {
		return "", nil, lenient.Bad(param, "it must be a text, or a list of parts")
	}
	var all strings.Builder
	var parts []task.Part
	images := false
	for i, p := range in {
		text := p.Text
		switch p.Type {
		case "text", "input_text", "output_text":
		case "refusal":
			text = p.Refusal
		case "image_url", "input_image":
			image, err := p.image(lenient.At(param, i) + ".image_url")
			if err != nil {
				return "", nil, err
			}
			images = true
			parts = append(parts, task.Part{Image: image})
			continue
		default:
			return "", nil, lenient.Cannot(lenient.At(param, i), fmt.Sprintf("a part of the type %q", task.Clip(p.Type, 40)))
		}
		all.WriteString(text)
		parts = append(parts, task.Part{Text: text})
	}
	if images {
		return "", parts, nil
	}
	return all.String(), nil, nil
}

// image is the one of the part: an address, or an object that has it.
func (p *part) image(param string) (*task.Image, error) {
	var url string
	if json.Unmarshal(p.ImageURL, &url) != nil {
		var object struct {
			URL string `json:"url"`
		}
		if json.Unmarshal(p.ImageURL, &object) != nil {
			return nil, lenient.Bad(param, "send the image as data:image/png;base64,…")
		}
		url = object.URL
	}
	return lenient.DataImage(param, url)
}

// turns are the messages of a task.
func turns(in []message, names *lenient.Names) ([]task.Message, error) {
	var out lenient.Turns
	called := "" // the id of the last call in the old form, which has none
	for i := range in {
		m := &in[i]
		where := lenient.At("messages", i)
		text, parts, err := content(where+".content", m.Content)
		if err != nil {
			return nil, err
		}
		if parts != nil && m.Role != "user" && m.Role != "tool" {
			return nil, lenient.Cannot(where+".content", fmt.Sprintf("an image in a message of the role %q", task.Clip(m.Role, 40)))
		}
		turn := task.Message{Role: m.Role, Content: text, Parts: parts}
		switch m.Role {
		case "system", "developer":
			turn.Role = task.RoleSystem
		case "user":
		case "assistant":
			if m.FunctionCall != nil {
				called = fmt.Sprintf("call_%d", i)
				turn.ToolCalls = []task.ToolCall{{ID: called, Name: m.FunctionCall.Name, Arguments: m.FunctionCall.arguments()}}
			}
			if err := m.assistant(&turn, where); err != nil {
				return nil, err
			}
		case "tool":
			turn.ToolCallID = m.ToolCallID
		case "function":
			turn.Role, turn.ToolCallID = task.RoleTool, called
		default:
			return nil, lenient.Bad(where+".role", "it must be system, developer, user, assistant or tool, not %q", task.Clip(m.Role, 40))
		}
		out.Add(where, turn)
	}
	out.OneSystem()
	names.Messages = out.At
	names.Call("messages[].tool_calls[].name", "tool_calls[].function.name")
	return out.Messages, nil
}

// assistant reads what only an assistant's message has.
func (m *message) assistant(turn *task.Message, where string) error {
	turn.Reasoning = m.ReasoningContent
	if turn.Reasoning == "" && json.Unmarshal(m.Reasoning, &turn.Reasoning) != nil {
		turn.Reasoning = ""
	}
	for i, c := range m.ToolCalls {
		if c.Function == nil {
			return lenient.Cannot(lenient.At(where+".tool_calls", i), fmt.Sprintf("a call of the type %q", task.Clip(c.Type, 40)))
		}
		turn.ToolCalls = append(turn.ToolCalls, task.ToolCall{ID: c.ID, Name: c.Function.Name, Arguments: c.Function.arguments()})
	}
	return nil
}
