// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// checkChat refuses messages, and what is asked besides them, that contradict themselves, whatever front they came by (LO-415). It names fields
// as the native API does.
func checkChat(req task.Request) error {
	calls := map[string]bool{} // the ids of calls so far
	for i, m := range req.Messages {
		if err := checkMessage(m, i, calls); err != nil {
			return err
		}
		for _, c := range m.ToolCalls {
			calls[c.ID] = true
		}
	}
	if req.Chat == nil {
		return nil
	}
	c := *req.Chat
	if req.Workload != task.Completion {
		return task.Errorf(task.InvalidParams, "only completions take `tools`, `format`, `reasoning`, `logit_bias`, `logprobs` and `template_args`: leave them out")
	}
	if len(req.Messages) == 0 {
		for _, f := range []struct {
			asked bool
			name  string
		}{
			{len(c.Tools) > 0, "tools"},
			{c.ToolChoice != task.ChooseAuto, "tool_choice"},
			{c.ParallelCalls != nil, "parallel_tool_calls"},
			{c.Reasoning != task.Reasoning{}, "reasoning"},
			{len(c.TemplateArgs) > 0, "template_args"},
		} {
			if f.asked {
				return task.RefuseField(f.name, "is of a chat, and a prompt is none: send messages")
			}
		}
	}
	if err := checkLogprobs(req); err != nil {
		return err
	}
	for _, check := range []func(task.Chat) error{checkTools, checkFormat} {
		if err := check(c); err != nil {
			return err
		}
	}
	if c.Reasoning.Budget < 0 {
		return task.RefuseField("reasoning.budget", "must be a number of tokens, not %d", c.Reasoning.Budget)
	}
	if len(c.TemplateArgs) > 0 && !object(c.TemplateArgs) {
		return task.RefuseField("template_args", "must be a JSON object")
	}
	return nil
}

func checkMessage(m task.Message, i int, calls map[string]bool) error {
	at := fmt.Sprintf("messages[%d]", i)
	switch m.Role {
	case task.RoleSystem, task.RoleUser, task.RoleAssistant, task.RoleTool:
	default:
		return task.RefuseField(at+".role", "must be one of system, user, assistant, tool, not %q", task.Clip(m.Role, maxQuote))
	}
	switch assistant, tool := m.Role == task.RoleAssistant, m.Role == task.RoleTool; {
	case m.Reasoning != "" && !assistant:
		return task.RefuseField(at+".reasoning", "is for assistants, and the role is %s", m.Role)
	case len(m.ToolCalls) > 0 && !assistant:
		return task.RefuseField(at+".tool_calls", "is for assistants, and the role is %s", m.Role)
	case m.ToolCallID != "" && !tool:
		return task.RefuseField(at+".tool_call_id", "is for the role tool, and the role is %s", m.Role)
	case tool && m.ToolCallID == "":
		return task.RefuseField(at+".tool_call_id", "is missing: give the id of the call whose result this is")
	case tool && !calls[m.ToolCallID]:
		return task.RefuseField(at+".tool_call_id", "is %q, and no message before it has a call of this id: send the message with the call too",
			task.Clip(m.ToolCallID, maxQuote))
	}
	for j, c := range m.ToolCalls {
		if c.Name == "" {
			return task.RefuseField(fmt.Sprintf("%s.tool_calls[%d].name", at, j), "is empty: give the tool's name")
		}
	}
	for j, p := range m.Parts {
		if p.Image == nil {
			continue
		}
		at := fmt.Sprintf("%s.content[%d]", at, j)
		switch {
		case m.Role != task.RoleUser && m.Role != task.RoleTool:
			return task.RefuseField(at, "is an image, and the role is %s: images come from users and tools", m.Role)
		case p.Image.Type() == "":
			return task.RefuseField(at, "is no image that is known here: send a PNG, JPEG, WebP or GIF file in base64")
		}
	}
	return nil
}

func checkTools(c task.Chat) error {
	names := make([]string, len(c.Tools))
	for i, t := range c.Tools {
		at := fmt.Sprintf("tools[%d]", i)
		switch {
		case t.Name == "":
			return task.RefuseField(at+".name", "is empty: give it a name")
		case slices.Contains(names[:i], t.Name):
			return task.RefuseField(at+".name", "is %q, as of a tool before it: each name once", task.Clip(t.Name, maxQuote))
		case len(t.Parameters) > 0 && !object(t.Parameters):
			return task.RefuseField(at+".parameters", "must be a JSON schema that is an object")
		}
		names[i] = t.Name
	}
	switch c.ToolChoice {
	case task.ChooseAuto, task.ChooseNone:
	case task.ChooseRequired:
		if len(names) == 0 {
			return task.RefuseField("tool_choice", "is required, and there are no tools")
		}
	case task.ChooseTool:
		if !slices.Contains(names, c.ToolName) {
			return task.RefuseField("tool_choice", "is %q, which is none of auto, none, required and the names of the tools", task.Clip(c.ToolName, maxQuote))
		}
	}
	return nil
}

func checkFormat(c task.Chat) error {
	switch f := c.Format; {
	case f == nil:
	case f.Kind == task.FormatGrammar && strings.TrimSpace(f.Grammar) == "":
		return task.RefuseField("format.grammar", "is empty: give a grammar in GBNF")
	case f.Kind == task.FormatJSON && len(f.Schema) > 0 && !object(f.Schema):
		return task.RefuseField("format.schema", "must be a JSON schema that is an object")
	}
	return nil
}

func checkLogprobs(req task.Request) error {
	l := req.Chat.Logprobs
	switch {
	case l == nil:
	case l.Top < 0 || l.Top > task.MaxTopLogprobs:
		return task.RefuseField("top_logprobs", "must be a whole number from 0 to %d, not %d", task.MaxTopLogprobs, l.Top)
	case req.Chat.CallsTools():
		return task.RefuseField("logprobs", "cannot be had with tools that the model may call: leave one of the two out, or set `tool_choice` to none")
	case !req.AtMost && req.MaxTokens > l.MostTokens():
		return task.RefuseField("max_tokens", "must be at most %d with `logprobs` and %d alternatives, not %d", l.MostTokens(), l.Top, req.MaxTokens)
	}
	return nil
}

// object reports whether JSON is an object.
func object(raw json.RawMessage) bool {
	return bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte{'{'}) && json.Valid(raw)
}

// maxQuote is how many bytes of what the client sent a message repeats.
const maxQuote = 64
