// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/base64"
	"encoding/json"

	"github.com/llama-orch/llama-orch/service/task"
)

// Message is a turn. Content is a text, or the parts of one with images.
type Message struct {
	Role       string `json:"role"`
	Content    any    `json:"content,omitempty"` // an empty text stays
	Thinking   string `json:"reasoning_content,omitempty"`
	Reasoning  string `json:"reasoning,omitempty"` // the same by its other name
	ToolCalls  []Call `json:"tool_calls,omitempty"`
	ToolCallID string `json:"tool_call_id,omitempty"`
	Name       string `json:"name,omitempty"` // of the tool whose result it is
}

// Part is a piece of a message's content.
type Part struct {
	Type  string `json:"type"`
	Text  string `json:"text,omitempty"`
	Image *Image `json:"image_url,omitempty"`
}

// Image is a picture, as a data URL.
type Image struct {
	URL string `json:"url"`
}

// Call is a call of a tool that the model has made.
type Call struct {
	ID       string         `json:"id,omitempty"`
	Type     string         `json:"type"`
	Function CalledFunction `json:"function"`
}

// CalledFunction is what is called.
type CalledFunction struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// Tool is one that the model may call.
type Tool struct {
	Type     string       `json:"type"`
	Function ToolFunction `json:"function"`
}

// ToolFunction describes it.
type ToolFunction struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"`
	Arguments   json.RawMessage `json:"arguments,omitempty"` // the same by its other name
}

// function is the only type of tools.
const function = "function"

// History is what a server takes of earlier turns beyond OpenAI's document.
type History struct {
	Names     bool   // a tool's result may name the tool
	LoneCalls bool   // a turn with calls and no text has no content
	Reasoning string // the field in which an assistant's thinking is given back: reasoning_content or reasoning; empty: it is not
}

// Messages puts turns as a server takes them.
func Messages(messages []task.Message, h History) []Message {
	all := make([]Message, len(messages))
	names := map[string]string{} // of the called tools, by the calls' ids
	for i, m := range messages {
		all[i] = Message{Role: m.Role, Content: m.Content, ToolCallID: m.ToolCallID}
		if h.Names {
			all[i].Name = names[m.ToolCallID]
		}
		switch h.Reasoning {
		case "reasoning_content":
			all[i].Thinking = m.Reasoning
		case "reasoning":
			all[i].Reasoning = m.Reasoning
		}
		for _, c := range m.ToolCalls {
			names[c.ID] = c.Name
			all[i].ToolCalls = append(all[i].ToolCalls, Call{c.ID, function, CalledFunction{c.Name, c.Arguments}})
		}
		switch {
		case len(m.Parts) > 0:
			all[i].Content = parts(m.Parts)
		case h.LoneCalls && m.Content == "" && len(m.ToolCalls) > 0:
			all[i].Content = nil
		}
	}
	return all
}

func parts(all []task.Part) []Part {
	out := make([]Part, len(all))
	for i, p := range all {
		out[i] = Part{Type: "text", Text: p.Text}
		if p.Image != nil {
			out[i] = Part{Type: "image_url", Image: &Image{"data:" + p.Image.MIME + ";base64," + base64.StdEncoding.EncodeToString(p.Image.Data)}}
		}
	}
	return out
}

// Tools puts the tools of a chat, and the choice among them. Not every server takes a name as a choice, so a tool that is chosen by name is the only one.
func Tools(c *task.Chat) (tools []Tool, choice string) {
	for _, t := range c.Tools {
		if c.ToolChoice != task.ChooseTool || t.Name == c.ToolName {
			tools = append(tools, Tool{function, ToolFunction{Name: t.Name, Description: t.Description, Parameters: t.Parameters}})
		}
	}
	switch c.ToolChoice {
	case task.ChooseNone:
		choice = "none"
	case task.ChooseRequired, task.ChooseTool:
		choice = "required"
	case task.ChooseAuto:
	}
	return tools, choice
}
