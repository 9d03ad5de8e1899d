// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/json"
	"slices"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// function is what a model may call.
type function struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Parameters  json.RawMessage `json:"parameters"`
	Strict      *bool           `json:"strict"`
}

// tool is an entry of `tools`. A chat has the function in an object of its own, a response beside the type.
type tool struct {
	Type        string          `json:"type"`
	Function    *function       `json:"function"`
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Parameters  json.RawMessage `json:"parameters"`
	Strict      *bool           `json:"strict"`
}

// function is that of the tool, or nil where it has another type.
func (t *tool) function() *function {
	switch {
	case t.Type != "function" && (t.Type != "" || t.Function == nil):
		return nil
	case t.Function != nil:
		return t.Function
	default:
		return &function{Name: t.Name, Description: t.Description, Parameters: t.Parameters, Strict: t.Strict}
	}
}

// choice is a `tool_choice` that is an object. A chat has the names in objects of their own, a response beside the type.
type choice struct {
	Type     string   `json:"type"`
	Name     string   `json:"name"`
	Function function `json:"function"`
	allowed
	Allowed allowed `json:"allowed_tools"`
}

// allowed are those of the tools that may be called this time.
type allowed struct {
	Mode  string `json:"mode"`
	Tools []tool `json:"tools"`
}

// choose puts tools, and the choice among them, into a chat. Tools of the provider's own, such as a web search, are left out where the
// model need not call them: agents send them always.
func choose(chat *task.Chat, tools []tool, raw json.RawMessage, names *lenient.Names) error {
	foreign := "" // the type of a tool that was left out
	for i := range tools {
		f := tools[i].function()
		if f == nil {
			foreign = tools[i].Type
			if foreign == "" {
				return lenient.Bad(lenient.At("tools", i), "a tool is {\"type\": \"function\", \"function\": {\"name\": …, \"parameters\": …}}")
			}
			continue
		}
		at := lenient.At("tools", i)
		if tools[i].Function != nil {
			at += ".function"
		}
		if err := offer(chat, at, f, names); err != nil {
			return err
		}
	}
	return pick(chat, "tool_choice", raw, foreign, names)
}

// functions does the same in the old form.
func functions(chat *task.Chat, list []function, raw json.RawMessage, names *lenient.Names) error {
	for i := range list {
		if err := offer(chat, lenient.At("functions", i), &list[i], names); err != nil {
			return err
		}
	}
	return pick(chat, "function_call", raw, "", names)
}

func offer(chat *task.Chat, param string, f *function, names *lenient.Names) error {
	names.Tools = append(names.Tools, param)
	tool, err := lenient.Tool(param, f.Name, f.Description, "parameters", f.Parameters)
	chat.Tools = append(chat.Tools, tool)
	return err
}

// pick reads the choice among the tools.
func pick(chat *task.Chat, param string, raw json.RawMessage, foreign string, names *lenient.Names) error {
	if lenient.Missing(raw) {
		return nil
	}
	var word string
	if json.Unmarshal(raw, &word) == nil {
		return mode(chat, param, word, foreign)
	}
	var c choice
	if json.Unmarshal(raw, &c) != nil {
		return lenient.Bad(param, "it must be auto, none, required, or an object that names a function")
	}
	switch c.Type {
	case "function", "":
		return named(chat, param, c)
	case "allowed_tools":
		list := c.allowed
		if len(c.Allowed.Tools) > 0 {
			list = c.Allowed
		}
		all, at := chat.Tools, names.Tools
		chat.Tools, names.Tools = nil, nil
		for i, t := range all {
			if slices.ContainsFunc(list.Tools, func(a tool) bool {
				f := a.function()
				return f != nil && f.Name == t.Name
			}) {
				chat.Tools, names.Tools = append(chat.Tools, t), append(names.Tools, at[i])
			}
		}
		return mode(chat, param, list.Mode, foreign)
	default:
		return lenient.Cannot(param, "a tool of the type "+task.Clip(c.Type, 40))
	}
}

func named(chat *task.Chat, param string, c choice) error {
	name := c.Name
	if c.Function.Name != "" {
		name = c.Function.Name
	}
	if !slices.ContainsFunc(chat.Tools, func(t task.Tool) bool { return t.Name == name }) {
		return lenient.Bad(param, "there is no function %q among the tools", task.Clip(name, 100))
	}
	chat.ToolChoice, chat.ToolName = task.ChooseTool, name
	return nil
}

func mode(chat *task.Chat, param, word, foreign string) error {
	switch word {
	case "auto", "":
	case "none":
		if len(chat.Tools) > 0 {
			chat.ToolChoice = task.ChooseNone
		}
	case "required", "any":
		switch {
		case len(chat.Tools) > 0:
			chat.ToolChoice = task.ChooseRequired
		case foreign != "":
			return lenient.Cannot(param, "a tool of the type "+task.Clip(foreign, 40))
		default:
			return lenient.Bad(param, "there is no tool that could be called: send `tools`")
		}
	default:
		return lenient.Bad(param, "it must be auto, none or required, not %q", task.Clip(word, 40))
	}
	return nil
}
