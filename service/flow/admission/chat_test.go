// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

const (
	png  = "\x89PNG\r\n\x1a\n..."
	jpeg = "\xff\xd8\xff\xe0..."
	webp = "RIFF\x01\x02\x03\x04WEBPVP8 "
	gif  = "GIF89a..."
)

func picture(mime, data string) task.Part {
	return task.Part{Image: &task.Image{MIME: mime, Data: []byte(data)}}
}

// conversation is one that has everything, and nothing wrong.
func conversation() task.Request {
	r := request()
	r.Prompt = ""
	r.Messages = []task.Message{
		{Role: task.RoleSystem, Content: "be brief"},
		{Role: task.RoleUser, Parts: []task.Part{{Text: "see"}, picture("image/png", png), picture("image/jpeg", jpeg), picture("image/webp", webp), picture("image/gif", gif)}},
		{Role: task.RoleAssistant, Reasoning: "hm", ToolCalls: []task.ToolCall{{ID: "c1", Name: "look", Arguments: "{}"}, {ID: "c2", Name: "go", Arguments: "no JSON"}}},
		{Role: task.RoleTool, ToolCallID: "c2", Content: "gone"},
		{Role: task.RoleTool, ToolCallID: "c1", Parts: []task.Part{picture("image/png", png)}},
		{Role: task.RoleAssistant, Content: "well"},
	}
	r.Chat = &task.Chat{
		Tools: []task.Tool{{Name: "look", Parameters: json.RawMessage(` {"type":"object"}`)}, {Name: "go"}}, ToolChoice: task.ChooseTool, ToolName: "go",
		Format: &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{}`)}, TemplateArgs: json.RawMessage(`{}`),
		Reasoning: task.Reasoning{Split: true, Budget: 7}, LogitBias: []task.Bias{{Token: 1, Bias: 1}},
	}
	return r
}

// LO-415
func TestCheckRefusesAChatThatContradictsItself(t *testing.T) {
	wide := Limits{PromptBytes: 1 << 20, Inputs: 100}
	require.NoError(t, Check(conversation(), wide))
	for message, change := range map[string]func(r *task.Request, c *task.Chat){
		"`logprobs` cannot be had with tools that the model may call": func(_ *task.Request, c *task.Chat) { c.Logprobs = &task.Logprobs{} },
		"`top_logprobs` must be a whole number from 0 to 20, not 21":  func(_ *task.Request, c *task.Chat) { c.Logprobs = &task.Logprobs{Top: 21} },
		"`max_tokens` must be at most 3120 with `logprobs` and 20 alternatives, not 3121": func(r *task.Request, c *task.Chat) {
			c.ToolChoice, c.Logprobs, r.MaxTokens = task.ChooseNone, &task.Logprobs{Top: 20}, 3121
		},
		"`messages[0].role` must be one of system, user, assistant, tool, not \"wizard\"":            func(r *task.Request, _ *task.Chat) { r.Messages[0].Role = "wizard" },
		"`messages[1].reasoning` is for assistants, and the role is user":                            func(r *task.Request, _ *task.Chat) { r.Messages[1].Reasoning = "x" },
		"`messages[0].tool_calls` is for assistants, and the role is system":                         func(r *task.Request, _ *task.Chat) { r.Messages[0].ToolCalls = r.Messages[2].ToolCalls },
		"`messages[5].tool_call_id` is for the role tool, and the role is assistant":                 func(r *task.Request, _ *task.Chat) { r.Messages[5].ToolCallID = "c1" },
		"`messages[3].tool_call_id` is missing":                                                      func(r *task.Request, _ *task.Chat) { r.Messages[3].ToolCallID = "" },
		"`messages[4].tool_call_id` is \"c3\", and no message before it has a call of this id":       func(r *task.Request, _ *task.Chat) { r.Messages[4].ToolCallID = "c3" },
		"`messages[1].tool_call_id` is \"c1\", and no message before it":                             func(r *task.Request, _ *task.Chat) { r.Messages[1] = task.Message{Role: "tool", ToolCallID: "c1"} },
		"`messages[2].tool_calls[1].name` is empty":                                                  func(r *task.Request, _ *task.Chat) { r.Messages[2].ToolCalls[1].Name = "" },
		"`messages[1].content[2]` is no image that is known here":                                    func(r *task.Request, _ *task.Chat) { r.Messages[1].Parts[2].Image.Data = []byte("%PDF-1.7") },
		"`messages[1].content[1]` is no image that is known here":                                    func(r *task.Request, _ *task.Chat) { r.Messages[1].Parts[1].Image.Data = nil },
		"`messages[5].content[0]` is an image, and the role is assistant":                            func(r *task.Request, _ *task.Chat) { r.Messages[5].Parts = r.Messages[4].Parts },
		"`tools[1].name` is empty":                                                                   func(_ *task.Request, c *task.Chat) { c.Tools[1].Name = "" },
		"`tools[1].name` is \"look\", as of a tool before it":                                        func(_ *task.Request, c *task.Chat) { c.Tools[1].Name = "look" },
		"`tools[0].parameters` must be a JSON schema that is an object":                              func(_ *task.Request, c *task.Chat) { c.Tools[0].Parameters = json.RawMessage(`[1]`) },
		"`tool_choice` is \"fly\", which is none of auto, none, required and the names of the tools": func(_ *task.Request, c *task.Chat) { c.ToolName = "fly" },
		"`tool_choice` is required, and there are no tools":                                          func(_ *task.Request, c *task.Chat) { c.ToolChoice, c.Tools = task.ChooseRequired, nil },
		"`format.schema` must be a JSON schema that is an object":                                    func(_ *task.Request, c *task.Chat) { c.Format.Schema = json.RawMessage(`{"a"`) },
		"`format.grammar` is empty":                                                                  func(_ *task.Request, c *task.Chat) { c.Format = &task.Format{Kind: task.FormatGrammar, Grammar: " \n"} },
		"`template_args` must be a JSON object":                                                      func(_ *task.Request, c *task.Chat) { c.TemplateArgs = json.RawMessage(`"x"`) },
		"`reasoning.budget` must be a number of tokens, not -1":                                      func(_ *task.Request, c *task.Chat) { c.Reasoning.Budget = -1 },
		"`tools` is of a chat, and a prompt is none: send messages":                                  func(r *task.Request, _ *task.Chat) { r.Prompt, r.Messages = "x", nil },
		"`reasoning` is of a chat": func(r *task.Request, c *task.Chat) {
			r.Prompt, r.Messages, *c = "x", nil, task.Chat{Reasoning: c.Reasoning}
		},
		"only completions take `tools`": func(r *task.Request, _ *task.Chat) { r.Workload, r.Messages, r.Prompt = task.Embedding, nil, "x" },
	} {
		t.Run(message, func(t *testing.T) {
			r := conversation()
			change(&r, r.Chat)
			err := Check(r, wide)
			require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
			require.ErrorContains(t, err, message)
		})
	}
	prompt := request()
	prompt.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatJSON}, LogitBias: []task.Bias{{Token: 1, Bias: 1}}}
	require.NoError(t, Check(prompt, wide), "these are of a prompt too")
}

// LO-415
func TestAllThatMessagesBringIsBounded(t *testing.T) {
	for name, m := range map[string]task.Message{
		"content":   {Role: "user", Content: strings.Repeat("x", 101)},
		"image":     {Role: "user", Parts: []task.Part{picture("image/png", png+strings.Repeat("x", 100))}},
		"reasoning": {Role: "assistant", Reasoning: strings.Repeat("x", 101)},
		"arguments": {Role: "assistant", ToolCalls: []task.ToolCall{{Name: "n", Arguments: strings.Repeat("x", 101)}}},
	} {
		r := request()
		r.Prompt, r.Messages = "", []task.Message{m}
		require.True(t, task.HasCode(Check(r, limits), task.TooLarge), name)
	}
}
