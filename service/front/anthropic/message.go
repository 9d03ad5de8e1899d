// SPDX-License-Identifier: GPL-3.0-or-later

package anthropic

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// message is one turn. Its content is a text, or blocks.
type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// block is a block of content, of any type.
type block struct {
	Type string `json:"type"`

	Text     string          `json:"text"`
	Thinking string          `json:"thinking"`
	Source   json.RawMessage `json:"source"` // of an image or a document
	Title    string          `json:"title"`  // of a document

	ID    string          `json:"id"`    // of a tool_use
	Name  string          `json:"name"`  // of a tool_use
	Input json.RawMessage `json:"input"` // of a tool_use

	ToolUseID string          `json:"tool_use_id"` // of a tool_result
	Content   json.RawMessage `json:"content"`     // of a tool_result
	IsError   bool            `json:"is_error"`    // of a tool_result

	ToolName string `json:"tool_name"` // of a tool_reference
}

// The separators of texts that stand in blocks of their own. What a model wrote was cut into blocks by the front, and is put together again.
const (
	paragraph = "\n\n"
	seamless  = ""
)

// blocksOf reads a content. A text is one block.
func blocksOf(at string, raw json.RawMessage) ([]block, error) {
	if lenient.Missing(raw) {
		return nil, nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return []block{{Type: "text", Text: text}}, nil
	}
	var blocks []block
	if json.Unmarshal(raw, &blocks) != nil {
		return nil, lenient.Bad(at, "it must be a text, or a list of blocks of content")
	}
	return blocks, nil
}

// turns are the messages of a task that come of one of the dialect's.
func (m *message) turns(at string) ([]task.Message, error) {
	blocks, err := blocksOf(at+".content", m.Content)
	if err != nil {
		return nil, err
	}
	at += ".content"
	switch m.Role {
	case task.RoleUser:
		return userTurns(at, blocks)
	case task.RoleAssistant:
		return assistantTurn(at, blocks)
	case task.RoleSystem:
		return systemTurn(at, blocks)
	default:
		return nil, lenient.Bad(strings.TrimSuffix(at, ".content")+".role", "it must be user, assistant or system, not %q", task.Clip(m.Role, 40))
	}
}

// userTurns are what a user says. Results of tools are messages of their own, in front of the rest.
func userTurns(at string, blocks []block) (turns []task.Message, err error) {
	var said content
	for i, b := range blocks {
		at := lenient.At(at, i)
		if b.Type == "tool_result" {
			result, err := b.result(at)
			if err != nil {
				return nil, err
			}
			turns = append(turns, result)
			continue
		}
		if err := said.add(at, b); err != nil {
			return nil, err
		}
	}
	if len(said) > 0 || len(turns) == 0 {
		turns = append(turns, said.message(task.RoleUser, paragraph))
	}
	return turns, nil
}

// assistantTurn is what the model has answered before.
func assistantTurn(at string, blocks []block) ([]task.Message, error) {
	var said content
	var thought strings.Builder
	var calls []task.ToolCall
	for i, b := range blocks {
		at := lenient.At(at, i)
		switch b.Type {
		case "thinking": // its signature is ours, and says nothing
			thought.WriteString(b.Thinking)
		case "redacted_thinking": // nobody here can read it
		case "tool_use":
			call, err := b.call(at)
			if err != nil {
				return nil, err
			}
			calls = append(calls, call)
		default:
			if err := said.add(at, b); err != nil {
				return nil, err
			}
		}
	}
	out := said.message(task.RoleAssistant, seamless)
	out.Reasoning, out.ToolCalls = thought.String(), calls
	return []task.Message{out}, nil
}

// billing begins a block in which Claude Code tells Anthropic's servers whom to charge. It is no prompt, and it differs from conversation
// to conversation: in front of everything else it would keep engines from using what they have computed before.
const billing = "x-anthropic-billing-header:"

// systemTurn is what a model is told to be. It is text alone.
func systemTurn(at string, blocks []block) ([]task.Message, error) {
	var said content
	for i, b := range blocks {
		at := lenient.At(at, i)
		if b.Type != "text" {
			return nil, lenient.Bad(at+".type", "what the system says is text, not %q", task.Clip(b.Type, 40))
		}
		if strings.HasPrefix(b.Text, billing) {
			continue
		}
		if err := said.add(at, b); err != nil {
			return nil, err
		}
	}
	out := said.message(task.RoleSystem, paragraph)
	if out.Content == "" {
		return nil, nil
	}
	return []task.Message{out}, nil
}

// call is the call of a tool.
func (b *block) call(at string) (c task.ToolCall, err error) {
	switch {
	case b.ID == "":
		return c, lenient.Bad(at+".id", "a call of a tool needs its id")
	case b.Name == "":
		return c, lenient.Bad(at+".name", "a call of a tool needs the tool's name")
	}
	c = task.ToolCall{ID: b.ID, Name: b.Name}
	c.Arguments, err = lenient.Arguments(at+".input", b.Input)
	return c, err
}

// failed begins the result of a tool that failed: templates have no mark for that.
const failed = "Error: "

// result is the result of a tool.
func (b *block) result(at string) (task.Message, error) {
	if b.ToolUseID == "" {
		return task.Message{}, lenient.Bad(at+".tool_use_id", "a result of a tool needs the id of the call")
	}
	blocks, err := blocksOf(at+".content", b.Content)
	if err != nil {
		return task.Message{}, err
	}
	var got content
	for i, b := range blocks {
		if b.Type == "tool_reference" { // all tools are known to the model from the beginning
			b = block{Type: "text", Text: b.ToolName}
		}
		if err := got.add(lenient.At(at+".content", i), b); err != nil {
			return task.Message{}, err
		}
	}
	if b.IsError {
		if len(got) == 0 || got[0].Image != nil {
			got = slices.Insert(got, 0, task.Part{})
		}
		got[0].Text = failed + got[0].Text
	}
	m := got.message(task.RoleTool, paragraph)
	m.ToolCallID = b.ToolUseID
	return m, nil
}

// content is what a message says, part by part.
type content []task.Part

// message puts the parts together. Only where there is an image they stay apart.
func (c content) message(role, separator string) task.Message {
	texts := make([]string, 0, len(c))
	for _, p := range c {
		if p.Image != nil {
			return task.Message{Role: role, Parts: c}
		}
		texts = append(texts, p.Text)
	}
	return task.Message{Role: role, Content: strings.Join(texts, separator)}
}

// source is where an image or a document is.
type source struct {
	Type      string          `json:"type"`
	MediaType string          `json:"media_type"`
	Data      string          `json:"data"`
	Content   json.RawMessage `json:"content"` // a text, or blocks
}

// add takes a block.
func (c *content) add(at string, b block) error {
	switch b.Type {
	case "text":
		*c = append(*c, task.Part{Text: b.Text})
		return nil
	case "image", "document":
	case "thinking", "redacted_thinking", "tool_use", "tool_result":
		return lenient.Bad(at+".type", "a %s block cannot stand here", b.Type)
	case "":
		return lenient.Bad(at+".type", "a block of content needs its type")
	default:
		return lenient.Cannot(at, "a block of the type "+task.Clip(b.Type, 40))
	}
	var s source
	if lenient.Missing(b.Source) || json.Unmarshal(b.Source, &s) != nil {
		return lenient.Bad(at+".source", "it must be an object with type, media_type and data")
	}
	if b.Type == "document" {
		return c.document(at, b, s)
	}
	switch s.Type {
	case "base64":
		image, err := lenient.Base64Image(at+".source", s.MediaType, s.Data)
		if err != nil {
			return err
		}
		*c = append(*c, task.Part{Image: image})
		return nil
	case "url":
		return lenient.Bad(at+".source", "nothing is fetched from an address here: send the image itself, with a source of the type base64")
	default:
		return lenient.Cannot(at+".source", "an image from a source of the type "+task.Clip(s.Type, 40))
	}
}

// document takes a document that is text.
func (c *content) document(at string, b block, s source) error {
	if b.Title != "" && (s.Type == "text" || s.Type == "content") {
		*c = append(*c, task.Part{Text: b.Title})
	}
	switch s.Type {
	case "text":
		*c = append(*c, task.Part{Text: s.Data})
		return nil
	case "content":
		blocks, err := blocksOf(at+".source.content", s.Content)
		if err != nil {
			return err
		}
		for i, b := range blocks {
			at := lenient.At(at+".source.content", i)
			if b.Type == "document" {
				return lenient.Bad(at+".type", "a document cannot stand in a document")
			}
			if err := c.add(at, b); err != nil {
				return err
			}
		}
		return nil
	default:
		return lenient.Cannot(at+".source", "a document that is not plain text")
	}
}
