// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// responseRequest is the body of /v1/responses. Unknown fields are ignored.
type responseRequest struct {
	common

	Input              json.RawMessage `json:"input"`
	Instructions       *string         `json:"instructions"`
	MaxOutputTokens    *float64        `json:"max_output_tokens"`
	Tools              []tool          `json:"tools"`
	ToolChoice         json.RawMessage `json:"tool_choice"`
	ParallelToolCalls  *bool           `json:"parallel_tool_calls"`
	Text               *textForm       `json:"text"`
	Reasoning          *thinking       `json:"reasoning"`
	TemplateArgs       json.RawMessage `json:"chat_template_kwargs"` // llama-server's
	Background         bool            `json:"background"`
	Store              *bool           `json:"store"`
	PreviousResponseID string          `json:"previous_response_id"`
	Conversation       json.RawMessage `json:"conversation"`
	Prompt             json.RawMessage `json:"prompt"`
	TopLogprobs        *float64        `json:"top_logprobs"`
	Include            []string        `json:"include"`
	Metadata           json.RawMessage `json:"metadata"`
}

type textForm struct {
	Format *format `json:"format"`
}

type thinking struct {
	Effort string `json:"effort"`
}

// kept reports whether the response is kept for later requests. OpenAI's document has it so where the client says nothing.
func (c *responseRequest) kept() bool { return c.Store == nil || *c.Store }

// request is the task of a response that may go on from earlier ones.
func (c *responseRequest) request(e *earlier) (task.Request, error) {
	q, err := c.common.request("max_output_tokens", c.MaxOutputTokens)
	if err != nil {
		return q, err
	}
	switch {
	case c.Background && !c.kept():
		return q, lenient.Bad("background", "a response in the background is fetched later, so it has to be kept: leave `store` out, or send true")
	case !lenient.Missing(c.Conversation):
		return q, lenient.Cannot("conversation", "a conversation that the server keeps, but for the one that `previous_response_id` goes on from,")
	case !lenient.Missing(c.Prompt):
		return q, lenient.Cannot("prompt", "a prompt that is stored")
	}
	in := conversation{earlier: e}
	if c.Instructions != nil && *c.Instructions != "" {
		in.Add("instructions", task.Message{Role: task.RoleSystem, Content: *c.Instructions})
	}
	if err := in.goOn(c.PreviousResponseID); err != nil {
		return q, err
	}
	if err := in.input(c.Input); err != nil {
		return q, err
	}
	in.OneSystem()
	q.Messages, c.names.Messages = in.Messages, in.At
	c.names.Call("messages[].tool_call_id", "call_id")
	c.names.Call("messages[].content[]", "") // the images of a message, or of an output
	q.Chat = &task.Chat{Reasoning: task.Reasoning{Split: true}, ParallelCalls: c.ParallelToolCalls}
	if err := c.ask(q.Chat); err != nil {
		return q, err
	}
	if c.Text != nil {
		if err := c.Text.Format.ask(q.Chat, "text.format", &c.names); err != nil {
			return q, err
		}
	}
	top, err := lenient.Alternatives("top_logprobs", c.TopLogprobs)
	if err != nil {
		return q, err
	}
	if top > 0 || slices.Contains(c.Include, includeLogprobs) {
		q.Chat.Logprobs = &task.Logprobs{Top: top}
		c.names.Call("logprobs", "include")
	}
	if c.Reasoning != nil {
		effort(&q, "reasoning.effort", c.Reasoning.Effort)
	}
	if err := arguments(q.Chat, c.TemplateArgs); err != nil {
		return q, err
	}
	return q, choose(q.Chat, c.Tools, c.ToolChoice, &c.names)
}

// conversation puts messages together from items. What a model said in one go are several items here, and one message to its template.
type conversation struct {
	lenient.Turns

	earlier *earlier
}

// assistant is the message to which an item of the model belongs. Param names the item.
func (c *conversation) assistant(param string) *task.Message {
	if last := len(c.Messages) - 1; last < 0 || c.Messages[last].Role != task.RoleAssistant {
		c.Add(param, task.Message{Role: task.RoleAssistant})
	}
	return &c.Messages[len(c.Messages)-1]
}

// input reads a text, or a list of items. An empty text is one: clients load a model so.
func (c *conversation) input(raw json.RawMessage) error {
	if lenient.Missing(raw) {
		return lenient.Bad("input", "send a text, or a list of items")
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		c.Add("input", task.Message{Role: task.RoleUser, Content: text})
		return nil
	}
	var items []inputItem
	if err := json.Unmarshal(raw, &items); err != nil {
		return lenient.Bad("input", "it must be a text, or a list of items")
	}
	if len(items) == 0 {
		return lenient.Bad("input", "send at least one item")
	}
	for i := range items {
		if err := c.item(lenient.At("input", i), &items[i]); err != nil {
			return err
		}
	}
	return nil
}

// inputItem is an item of a conversation.
type inputItem struct {
	Type      string          `json:"type"`
	ID        string          `json:"id"`
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	CallID    string          `json:"call_id"`
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
	Input     string          `json:"input"`
	Output    json.RawMessage `json:"output"`
}

// item reads one item.
func (c *conversation) item(param string, item *inputItem) error {
	switch item.Type {
	case "message", "":
		if item.Role == "" {
			return lenient.Bad(param, "it has neither a `type` that is known here nor a `role`")
		}
		return c.message(param, item)
	case "reasoning":
		return c.thought(param, item)
	case "function_call", "custom_tool_call":
		if item.Name == "" {
			return lenient.Bad(param+".name", "a call needs the name of its tool")
		}
		arguments := (&calledIn{Arguments: item.Arguments}).arguments()
		if item.Type == "custom_tool_call" { // of a model that had such tools
			arguments = string(exchange.JSON(map[string]string{"input": item.Input}))
		}
		c.call(param, task.ToolCall{ID: item.CallID, Name: item.Name, Arguments: arguments})
		return nil
	case "function_call_output", "custom_tool_call_output":
		text, parts, err := content(param+".output", item.Output)
		if err != nil {
			return err
		}
		c.Add(param, task.Message{Role: task.RoleTool, ToolCallID: item.CallID, Content: text, Parts: parts})
		return nil
	case "web_search_call", "file_search_call", "image_generation_call", "code_interpreter_call", "mcp_list_tools":
		return nil // what a provider did by itself: the model's next message has what came of it
	case "item_reference":
		return c.reference(param, item.ID)
	default:
		return lenient.Cannot(param, fmt.Sprintf("an item of the type %q", task.Clip(item.Type, 40)))
	}
}

// message reads a message of any role.
func (c *conversation) message(param string, item *inputItem) error {
	text, parts, err := content(param+".content", item.Content)
	if err != nil {
		return err
	}
	if parts != nil && item.Role != "user" {
		return lenient.Cannot(param+".content", fmt.Sprintf("an image in a message of the role %q", task.Clip(item.Role, 40)))
	}
	switch item.Role {
	case "system", "developer":
		c.Add(param, task.Message{Role: task.RoleSystem, Content: text})
	case "user":
		c.Add(param, task.Message{Role: task.RoleUser, Content: text, Parts: parts})
	case "assistant":
		c.say(param, text)
	default:
		return lenient.Bad(param+".role", "it must be system, developer, user or assistant, not %q", task.Clip(item.Role, 40))
	}
	return nil
}

// thought reads what a model thought. A summary is not what it thought, and what is encrypted cannot be read.
func (c *conversation) thought(param string, item *inputItem) error {
	var all []part
	if !lenient.Missing(item.Content) && json.Unmarshal(item.Content, &all) != nil {
		return lenient.Bad(param+".content", "it must be a list of parts")
	}
	var text strings.Builder
	for _, p := range all {
		text.WriteString(p.Text)
	}
	c.think(param, text.String())
	return nil
}

func (c *conversation) think(param, text string) {
	if text != "" {
		m := c.assistant(param)
		m.Reasoning = joined(m.Reasoning, text)
	}
}

func (c *conversation) say(param, text string) {
	m := c.assistant(param)
	m.Content = joined(m.Content, text)
}

func (c *conversation) call(param string, call task.ToolCall) {
	m := c.assistant(param)
	m.ToolCalls = append(m.ToolCalls, call)
}

// joined puts two texts of one message together.
func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "\n" + b
}
