// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// message is one turn.
type message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	Thinking   string     `json:"thinking,omitempty"`
	Images     []string   `json:"images,omitempty"` // in base64
	ToolCalls  []toolCall `json:"tool_calls,omitempty"`
	ToolName   string     `json:"tool_name,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
}

// toolCall is a call of a tool. Its arguments are an object, and not a text as in other dialects.
type toolCall struct {
	ID       string   `json:"id,omitempty"`
	Function function `json:"function"`
}

type function struct {
	Index     int             `json:"index"`
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}

// tool is a function that the model may call.
type tool struct {
	Function struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Parameters  json.RawMessage `json:"parameters"`
	} `json:"function"`
}

func tools(list []tool) (out []task.Tool, err error) {
	for i, t := range list {
		f := &t.Function
		one, err := lenient.Tool(lenient.At("tools", i)+".function", f.Name, f.Description, "parameters", f.Parameters)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// conversation is the messages as a task has them. Many clients of this dialect give calls and results no ids, so those that lack one get it.
func conversation(list []message) (out lenient.Turns, err error) {
	var open []task.ToolCall // those that have no result yet
	for i, in := range list {
		at := lenient.At("messages", i)
		m := task.Message{Role: strings.ToLower(in.Role)}
		if err := content(&m, at+".images", in.Content, in.Images); err != nil {
			return out, err
		}
		switch m.Role {
		case task.RoleSystem, task.RoleUser:
		case task.RoleAssistant:
			m.Reasoning = in.Thinking
			for n, c := range in.ToolCalls {
				arguments, err := c.arguments(lenient.At(at+".tool_calls", n) + ".function.arguments")
				if err != nil {
					return out, err
				}
				m.ToolCalls = append(m.ToolCalls, task.ToolCall{ID: cmp.Or(c.ID, fmt.Sprintf("call_%d_%d", i, n)), Name: c.Function.Name, Arguments: arguments})
			}
			open = append(open, m.ToolCalls...)
		case task.RoleTool:
			n := slices.IndexFunc(open, func(c task.ToolCall) bool { return in.ToolCallID != "" && c.ID == in.ToolCallID })
			if n < 0 && in.ToolCallID == "" {
				n = max(slices.IndexFunc(open, func(c task.ToolCall) bool { return in.ToolName != "" && c.Name == in.ToolName }), min(0, len(open)-1))
			}
			if n < 0 {
				return out, lenient.Bad(at, "it is the result of a tool, and no message before it has a call that lacks one: send the assistant's `tool_calls` too")
			}
			m.ToolCallID = open[n].ID
			open = slices.Delete(open, n, n+1)
		default:
			return out, lenient.Bad(at+".role", "it must be system, user, assistant or tool, not %q", task.Clip(in.Role, 40))
		}
		out.Add(at, m)
	}
	return out, nil
}

// arguments are a call's, as a text. Some clients send them as one.
func (c *toolCall) arguments(param string) (string, error) {
	raw := c.Function.Arguments
	var text string
	if !lenient.Missing(raw) && json.Unmarshal(raw, &text) == nil {
		raw = json.RawMessage(text)
	}
	return lenient.Arguments(param, raw)
}

// content gives a message its text, or its images and its text, in that order: that is where Ollama's templates have them.
func content(m *task.Message, param, text string, images []string) error {
	if len(images) == 0 {
		m.Content = text
		return nil
	}
	for i, data := range images {
		image, err := picture(lenient.At(param, i), data)
		if err != nil {
			return err
		}
		m.Parts = append(m.Parts, task.Part{Image: image})
	}
	if text != "" {
		m.Parts = append(m.Parts, task.Part{Text: text})
	}
	return nil
}

// picture is an image in base64, whose type its own bytes tell.
func picture(param, data string) (*task.Image, error) {
	if strings.HasPrefix(data, "data:") {
		return lenient.DataImage(param, data)
	}
	image, err := lenient.Base64Image(param, "image/*", data)
	if err != nil {
		return nil, err
	}
	if image.MIME, _, _ = strings.Cut(http.DetectContentType(image.Data), ";"); !strings.HasPrefix(image.MIME, "image/") {
		return nil, lenient.Bad(param, "its bytes are those of no image: send a PNG, a JPEG, a WebP or a GIF in base64")
	}
	return image, nil
}

// calls are those of an answer. A call whose arguments are no object was cut off, or is none: nobody must run it, so it is returned as text.
func calls(list []task.ToolCall) (whole []toolCall, rest string) {
	for _, c := range list {
		arguments, ok := lenient.Object(c.Arguments)
		if !ok {
			rest += fmt.Sprintf(`{"name":%s,"arguments":%s`, exchange.JSON(c.Name), c.Arguments)
			continue
		}
		whole = append(whole, toolCall{ID: c.ID, Function: function{Index: len(whole), Name: c.Name, Arguments: arguments}})
	}
	return whole, rest
}
