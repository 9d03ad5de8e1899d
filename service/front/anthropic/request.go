// SPDX-License-Identifier: GPL-3.0-or-later

package anthropic

import (
	"encoding/json"
	"slices"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// messageRequest is the body of /v1/messages and of the counting of its tokens. Unknown fields are ignored.
type messageRequest struct {
	Model         string          `json:"model"`
	Messages      []message       `json:"messages"`
	System        json.RawMessage `json:"system"` // a text, or blocks
	Stream        bool            `json:"stream"`
	MaxTokens     *float64        `json:"max_tokens"`
	StopSequences lenient.Texts   `json:"stop_sequences"`
	Tools         []tool          `json:"tools"`
	ToolChoice    *toolChoice     `json:"tool_choice"`
	Thinking      *thinking       `json:"thinking"`
	OutputConfig  *outputConfig   `json:"output_config"`
	OutputFormat  *outputFormat   `json:"output_format"` // the older place of output_config.format
	Thread        any             `json:"thread"`        // a conversation that the server keeps

	lenient.Sampling

	names lenient.Names // of the task's fields
}

// tool is a function of the client's, or one that Anthropic's servers or models bring along. Those have a type of their own.
type tool struct {
	Type        string          `json:"type"`
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Schema      json.RawMessage `json:"input_schema"`
}

func (t tool) own() bool { return t.Type == "" || t.Type == "custom" }

type toolChoice struct {
	Type            string `json:"type"`
	Name            string `json:"name"`
	DisableParallel *bool  `json:"disable_parallel_tool_use"`
}

type thinking struct {
	Type    string   `json:"type"`
	Budget  *float64 `json:"budget_tokens"`
	Display string   `json:"display"`
}

// hidden reports whether the client wants to know that the model thinks, and not what.
func (t *thinking) hidden() bool { return t != nil && t.Display == "omitted" }

type outputConfig struct {
	Effort string        `json:"effort"`
	Format *outputFormat `json:"format"`
}

type outputFormat struct {
	Type   string          `json:"type"`
	Schema json.RawMessage `json:"schema"`
}

// request is the task of a message.
func (r *messageRequest) request() (task.Request, error) {
	if r.Model == "" {
		return task.Request{}, lenient.NoModel(ModelsPath)
	}
	q := lenient.Request(r.Model, task.Completion)
	q.Chat = &task.Chat{Reasoning: task.Reasoning{Split: true}}
	for _, step := range []func(*task.Request) error{r.alone, r.sampling, r.tools, r.thoughts, r.format, r.turns} {
		if err := step(&q); err != nil {
			return q, err
		}
	}
	return q, nil
}

// threadField is where clients ask the server to keep the conversation, so that they can send what is new alone.
const threadField = "thread"

// alone refuses a request that needs what was said before.
func (r *messageRequest) alone(*task.Request) error {
	if r.Thread != nil {
		return lenient.Bad(threadField, "no conversation is kept here: leave it out, and send all of the messages")
	}
	return nil
}

func (r *messageRequest) sampling(q *task.Request) (err error) {
	q.MaxTokens, err = lenient.Bound("max_tokens", r.MaxTokens)
	q.Lacks(task.SetMaxTokens, err)
	if slices.Contains(r.StopSequences, "") {
		q.Lacks(task.SetStop, lenient.Bad("stop_sequences", "an empty text cannot end an answer: leave it out"))
	}
	q.Params.Stop, err = lenient.Stops("stop_sequences", r.StopSequences)
	q.Lacks(task.SetStop, err)
	r.Sampling.Read("", q)
	return nil
}

// tools takes the client's own tools. Others run on Anthropic's servers, or are known to Anthropic's models alone: they are left out,
// unless the model is made to call one.
func (r *messageRequest) tools(q *task.Request) error {
	for i, t := range r.Tools {
		if !t.own() {
			continue
		}
		at := lenient.At("tools", i)
		tool, err := lenient.Tool(at, t.Name, t.Description, "input_schema", t.Schema)
		if err != nil {
			return err
		}
		q.Chat.Tools, r.names.Tools = append(q.Chat.Tools, tool), append(r.names.Tools, at)
	}
	r.names.Call("tools[].parameters", "input_schema")
	c := r.ToolChoice
	if c == nil {
		return nil
	}
	if c.DisableParallel != nil {
		parallel := !*c.DisableParallel
		q.Chat.ParallelCalls = &parallel
	}
	switch c.Type {
	case "auto", "":
	case "none":
		q.Chat.ToolChoice = task.ChooseNone
	case "any":
		if len(q.Chat.Tools) == 0 {
			return lenient.Bad("tool_choice", "there is no tool that could be called: send tools with an input_schema")
		}
		q.Chat.ToolChoice = task.ChooseRequired
	case "tool":
		if !slices.ContainsFunc(q.Chat.Tools, func(t task.Tool) bool { return t.Name == c.Name }) {
			if slices.ContainsFunc(r.Tools, func(t tool) bool { return t.Name == c.Name && !t.own() }) {
				return lenient.Bad("tool_choice.name", "the tool %q comes from Anthropic and cannot be had here: choose one with an input_schema",
					task.Clip(c.Name, 100))
			}
			return lenient.Bad("tool_choice.name", "no tool has the name %q", task.Clip(c.Name, 100))
		}
		q.Chat.ToolChoice, q.Chat.ToolName = task.ChooseTool, c.Name
	default:
		return lenient.Bad("tool_choice.type", "it must be auto, any, tool or none, not %q", task.Clip(c.Type, 40))
	}
	return nil
}

// thoughts takes what is wanted of a model that thinks.
func (r *messageRequest) thoughts(q *task.Request) (err error) {
	yes, no := true, false
	if t := r.Thinking; t != nil {
		switch t.Type {
		case "adaptive":
			q.Chat.Reasoning.Enabled = &yes
		case "enabled":
			q.Chat.Reasoning.Enabled = &yes
			if q.Chat.Reasoning.Budget, err = lenient.Bound("thinking.budget_tokens", t.Budget); err != nil {
				return err
			}
		case "disabled", "between_tools":
			q.Chat.Reasoning.Enabled = &no
		case "":
		default:
			return lenient.Bad("thinking.type", "it must be adaptive, enabled or disabled, not %q", task.Clip(t.Type, 40))
		}
	}
	if r.OutputConfig == nil {
		return nil
	}
	effort := r.OutputConfig.Effort
	if effort == "xhigh" || effort == "max" { // the templates of open models know three words
		effort = "high"
	}
	q.Chat.Reasoning.Effort, err = lenient.Effort("output_config.effort", effort)
	q.Lacks(task.SetEffort, err)
	return nil
}

func (r *messageRequest) format(q *task.Request) error {
	at, f := "output_format", r.OutputFormat
	if r.OutputConfig != nil && r.OutputConfig.Format != nil {
		at, f = "output_config.format", r.OutputConfig.Format
	}
	if f == nil || f.Type == "" {
		return nil
	}
	if f.Type != "json_schema" {
		return lenient.Cannot(at, "the format "+task.Clip(f.Type, 40))
	}
	schema, err := lenient.Schema(at+".schema", f.Schema)
	if err != nil {
		return err
	}
	if schema == nil {
		return lenient.Bad(at+".schema", "a json_schema format needs a schema")
	}
	r.names.Call("format.schema", at+".schema")
	q.Chat.Format = &task.Format{Kind: task.FormatJSON, Schema: schema}
	return nil
}

// turns takes the messages. What the system says comes first, wherever it stands.
func (r *messageRequest) turns(q *task.Request) error {
	if len(r.Messages) == 0 {
		return lenient.Bad("messages", "send at least one message")
	}
	system, err := blocksOf("system", r.System)
	if err != nil {
		return err
	}
	said, err := systemTurn("system", system)
	if err != nil {
		return err
	}
	var all lenient.Turns
	all.Add("system", said...)
	for i := range r.Messages {
		at := lenient.At("messages", i)
		turns, err := r.Messages[i].turns(at)
		if err != nil {
			return err
		}
		all.Add(at, turns...)
	}
	if all.OneSystem(); len(all.Messages) == 0 {
		return lenient.Bad("messages", "send at least one message that says something")
	}
	q.Messages, r.names.Messages = all.Messages, all.At
	r.names.Call("messages[].content[]", "content") // its blocks may have become several messages
	r.names.Call("messages[].tool_call_id", "content")
	return nil
}
