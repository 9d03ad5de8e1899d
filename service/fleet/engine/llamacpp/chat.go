// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/task"
)

// chat is what the bodies of the chat endpoint, of /apply-template, and of the count of a chat's tokens have in common.
type chat struct {
	Messages        []openai.Message           `json:"messages"`
	Tools           []openai.Tool              `json:"tools,omitempty"`
	ToolChoice      string                     `json:"tool_choice,omitempty"`
	ParallelCalls   *bool                      `json:"parallel_tool_calls,omitempty"`
	Arguments       map[string]json.RawMessage `json:"chat_template_kwargs,omitempty"`
	ReasoningFormat string                     `json:"reasoning_format,omitempty"`
	Effort          string                     `json:"reasoning_effort,omitempty"`
	Budget          int                        `json:"reasoning_budget_tokens,omitempty"`
	Continues       string                     `json:"continue_final_message,omitempty"`
	GenerationTurn  *bool                      `json:"add_generation_prompt,omitempty"` // nil: there is one
	form
}

// form is a format. The native endpoint takes it too.
type form struct {
	Schema  json.RawMessage `json:"json_schema,omitempty"`
	Grammar string          `json:"grammar,omitempty"`
}

// chatOf puts a chat as llama-server takes it.
func chatOf(messages []task.Message, c *task.Chat) chat {
	out := chat{Messages: openai.Messages(messages, openai.History{Names: true, Reasoning: "reasoning_content"}), ReasoningFormat: "none"}
	if c == nil {
		return out
	}
	if c.Reasoning.Split {
		out.ReasoningFormat = "deepseek" // the thinking comes in a field of its own, as in that model's API
	}
	out.ParallelCalls, out.Effort, out.Budget = c.ParallelCalls, c.Reasoning.Effort, c.Reasoning.Budget
	out.Tools, out.ToolChoice = openai.Tools(c)
	out.form = formOf(c.Format)
	if len(c.TemplateArgs) > 0 {
		_ = json.Unmarshal(c.TemplateArgs, &out.Arguments) // admission has checked that it is an object
	}
	if c.Reasoning.Enabled != nil {
		out.argument("enable_thinking", *c.Reasoning.Enabled)
	}
	return out
}

func formOf(f *task.Format) (out form) {
	switch {
	case f == nil:
	case f.Kind == task.FormatGrammar:
		out.Grammar = f.Grammar
	case len(f.Schema) == 0:
		out.Schema = json.RawMessage(`{"type":"object"}`)
	default:
		out.Schema = f.Schema
	}
	return out
}

// argument gives the template an argument, unless the client has given it.
func (c *chat) argument(name string, value any) {
	if _, given := c.Arguments[name]; given {
		return
	}
	if c.Arguments == nil {
		c.Arguments = map[string]json.RawMessage{}
	}
	c.Arguments[name], _ = json.Marshal(value) // texts and truth values always encode
}

// The arguments by which templates that print today's date are told it. llama-server gives them, and whoever asks may.
const (
	dateArgument     = "date_string"
	dateForm         = "02 Jan 2006"
	dateTimeArgument = "datetime"
	dateTimeForm     = "Jan 02 2006"
)

// onDay is the chat with a day for the template to print.
func (c chat) onDay(day time.Time) chat {
	given := c.Arguments
	c.Arguments = nil
	for name, v := range given {
		c.argument(name, v)
	}
	c.argument(dateArgument, day.Format(dateForm))
	c.argument(dateTimeArgument, day.Format(dateTimeForm))
	return c
}

// onChatEndpoint reports whether only the chat endpoint can do what a job asks: it alone tells text, thinking and calls apart, and binds an answer
// to a format behind the thinking. It costs the engine more, which reads the whole answer again at each token.
func (e *Engine) onChatEndpoint(job *engine.Job, told *told) bool {
	if len(job.Messages) == 0 {
		return false
	}
	c := job.Chat
	if task.HasImages(job.Messages) || c.CallsTools() {
		return true
	}
	if c == nil {
		return false
	}
	thinks := (c.Reasoning.Split || c.Reasoning.Budget > 0) && slices.Contains(told.features, task.FeatureReasoning)
	bound := c.Format != nil && slices.Contains(told.features, task.FeatureFormats) // who knows grammars alone has no such endpoint, and binds the answer itself
	return bound || thinks
}

// ApplyTemplate asks /apply-template. A llama-server answers 500 where the template fails. It would do so again, so that is a refusal and
// not an outage (LO-805).
func (e *Engine) ApplyTemplate(ctx context.Context, messages []task.Message, c *task.Chat) (string, error) {
	return e.render(ctx, chatOf(messages, c), task.HasImages(messages))
}

func (e *Engine) render(ctx context.Context, c chat, images bool) (string, error) {
	var body struct {
		Prompt string `json:"prompt"`
	}
	err := e.c.Post(ctx, "/apply-template", c, &body)
	var status *httpsse.StatusError
	if errors.As(err, &status) && status.Status == http.StatusInternalServerError {
		refused := task.Errorf(task.InvalidParams, "the engine cannot use the model's chat template: %s", status.Message).Because(err)
		refused.Engine = Name
		return "", refused
	}
	if err != nil || !images {
		return body.Prompt, err
	}
	told, err := e.told(ctx)
	if err == nil && told.marker != "" { // it is random, and another one after a restart
		body.Prompt = strings.ReplaceAll(body.Prompt, told.marker, task.MediaMarker)
	}
	return body.Prompt, err
}

// CountChat asks for the tokens of a chat, those of its images included.
func (e *Engine) CountChat(ctx context.Context, messages []task.Message, c *task.Chat) (int, error) {
	var body struct {
		Tokens int `json:"input_tokens"`
	}
	if err := e.c.Post(ctx, "/v1/chat/completions/input_tokens", chatOf(messages, c), &body); err != nil {
		return 0, err
	}
	if err := engine.Believe(engine.Tokens("input_tokens", body.Tokens)); err != nil {
		return 0, e.c.Reset(err)
	}
	return body.Tokens, nil
}

// asRecorded renders a job's messages again, and makes sure that the prompt is the recorded one. A template may print today's date: then the day on which the task was
// admitted is given to it. Where that does not help, it is for whoever runs the job to say whether the new prompt will do (LO-412).
func (e *Engine) asRecorded(ctx context.Context, job *engine.Job) (chat, error) {
	c, images := chatOf(job.Messages, job.Chat), task.HasImages(job.Messages)
	now, err := e.render(ctx, c, images)
	if err != nil || job.Prompt == now {
		return c, err
	}
	if job.Prompt != "" && !job.RenderedOn.IsZero() {
		for _, day := range []time.Time{job.RenderedOn.Local(), job.RenderedOn.UTC()} { //nolint:gosmopolitan // the engine prints its local date, and is mostly on this machine
			pinned := c.onDay(day)
			then, err := e.render(ctx, pinned, images)
			if err != nil || then == job.Prompt {
				return pinned, err
			}
		}
	}
	if job.Prompt != "" && job.Rendered != nil {
		if err := job.Rendered(now); err != nil {
			return c, err
		}
	}
	job.Prompt, job.PromptTokens = now, 0
	return c, nil
}
