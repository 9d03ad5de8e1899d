// SPDX-License-Identifier: GPL-3.0-or-later

package anthropic

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// The bounds of the native contract.
const (
	maxStop        = 16
	maxTemperature = 5
)

// maxEffort bounds the word that goes to the model's template, in bytes.
const maxEffort = 32

// request is the body of /v1/messages and of the counting of its tokens. Unknown fields are ignored.
type request struct {
	Model         string          `json:"model"`
	Messages      []message       `json:"messages"`
	System        json.RawMessage `json:"system"` // a text, or blocks
	Stream        bool            `json:"stream"`
	MaxTokens     *float64        `json:"max_tokens"`
	StopSequences lenient.Texts   `json:"stop_sequences"`
	Temperature   *float64        `json:"temperature"`
	TopP          *float64        `json:"top_p"`
	TopK          *float64        `json:"top_k"`
	Tools         []tool          `json:"tools"`
	ToolChoice    *toolChoice     `json:"tool_choice"`
	Thinking      *thinking       `json:"thinking"`
	OutputConfig  *outputConfig   `json:"output_config"`
	OutputFormat  *outputFormat   `json:"output_format"` // the older place of output_config.format
	Thread        any             `json:"thread"`        // a conversation that the server keeps
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

// task is the task of a message.
func (r *request) task() (task.Request, error) {
	if r.Model == "" {
		return task.Request{}, lenient.Bad("model", "name the model that is to answer: /v1/models lists them")
	}
	q := lenient.Chat(r.Model)
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
func (r *request) alone(*task.Request) error {
	if r.Thread != nil {
		return lenient.Bad(threadField, "no conversation is kept here: leave it out, and send all of the messages")
	}
	return nil
}

func (r *request) sampling(q *task.Request) (err error) {
	if q.MaxTokens, err = lenient.Bound("max_tokens", r.MaxTokens); err != nil {
		return err
	}
	if len(r.StopSequences) > maxStop {
		return lenient.Bad("stop_sequences", "at most %d texts are possible", maxStop)
	}
	if slices.Contains(r.StopSequences, "") {
		return lenient.Bad("stop_sequences", "an empty text cannot end an answer: leave it out")
	}
	q.Params.Stop = r.StopSequences
	if q.Params.Temperature, err = lenient.Within("temperature", r.Temperature, maxTemperature); err != nil {
		return err
	}
	if q.Params.TopP, err = lenient.Within("top_p", r.TopP, 1); err != nil {
		return err
	}
	if r.TopK != nil {
		k, err := lenient.Whole("top_k", r.TopK, 0)
		if err != nil {
			return err
		}
		q.Params.TopK = &k
	}
	return nil
}

// tools takes the client's own tools. Others run on Anthropic's servers, or are known to Anthropic's models alone: they are left out,
// unless the model is made to call one.
func (r *request) tools(q *task.Request) error {
	for i, t := range r.Tools {
		if !t.own() {
			continue
		}
		at := fmt.Sprintf("tools[%d]", i)
		if t.Name == "" {
			return lenient.Bad(at+".name", "a tool needs a name")
		}
		schema, err := lenient.Schema(at+".input_schema", t.Schema)
		if err != nil {
			return err
		}
		q.Chat.Tools = append(q.Chat.Tools, task.Tool{Name: t.Name, Description: t.Description, Parameters: schema})
	}
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
func (r *request) thoughts(q *task.Request) (err error) {
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
	switch effort := r.OutputConfig.Effort; {
	case effort == "xhigh" || effort == "max": // the templates of open models know three words
		q.Chat.Reasoning.Effort = "high"
	case len(effort) > maxEffort:
		return lenient.Bad("output_config.effort", "it must be a word such as low, medium or high")
	default:
		q.Chat.Reasoning.Effort = effort
	}
	return nil
}

func (r *request) format(q *task.Request) error {
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
	q.Chat.Format = &task.Format{Kind: task.FormatJSON, Schema: schema}
	return nil
}

// turns takes the messages. What the system says comes first, wherever it stands.
func (r *request) turns(q *task.Request) error {
	if len(r.Messages) == 0 {
		return lenient.Bad("messages", "send at least one message")
	}
	system, err := blocksOf("system", r.System)
	if err != nil {
		return err
	}
	if q.Messages, err = systemTurn("system", system); err != nil {
		return err
	}
	for i := range r.Messages {
		turns, err := r.Messages[i].turns(fmt.Sprintf("messages[%d]", i))
		if err != nil {
			return err
		}
		q.Messages = append(q.Messages, turns...)
	}
	if q.Messages = lenient.OneSystem(q.Messages); len(q.Messages) == 0 {
		return lenient.Bad("messages", "send at least one message that says something")
	}
	return nil
}
