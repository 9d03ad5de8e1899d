// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// The bounds of the native contract.
const (
	maxStop        = 16
	maxTemperature = 5
)

// paramError is a refusal that names a parameter.
type paramError struct {
	param string
	err   *task.Error
}

func (b *paramError) Error() string { return b.err.Error() }
func (b *paramError) Unwrap() error { return b.err }

// bad refuses a parameter.
func bad(param, format string, args ...any) error {
	return &paramError{param, task.Errorf(task.InvalidParams, "`%s`: "+format, append([]any{param}, args...)...)}
}

// cannot refuses what would change the answer and cannot be had (LO-403).
func cannot(param, what string) error {
	return bad(param, "%s cannot be had here yet: leave it out", what)
}

// common is what completions and chats share. Unknown fields are ignored.
type common struct {
	Model         string         `json:"model"`
	Stream        bool           `json:"stream"`
	StreamOptions *streamOptions `json:"stream_options"`
	MaxTokens     *float64       `json:"max_tokens"`
	N             *float64       `json:"n"`
	Seed          *float64       `json:"seed"`
	Stop          texts          `json:"stop"`

	Temperature      *float64 `json:"temperature"`
	TopP             *float64 `json:"top_p"`
	FrequencyPenalty *float64 `json:"frequency_penalty"`
	PresencePenalty  *float64 `json:"presence_penalty"`
	// llama-server and vLLM have these two in this dialect as well.
	TopK *float64 `json:"top_k"`
	MinP *float64 `json:"min_p"`

	LogitBias map[string]any `json:"logit_bias"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// usage reports whether a stream is to tell its usage.
func (c *common) usage() bool { return c.StreamOptions != nil && c.StreamOptions.IncludeUsage }

// request is the task of what both share.
func (c *common) request() (q task.Request, err error) {
	if c.Model == "" {
		return q, bad("model", "name the model that is to answer: /v1/models lists them")
	}
	q = task.Request{
		ModelRef: c.Model, Workload: task.Completion, Priority: task.Interactive, AtMost: true, Placement: task.Placement{Mode: task.Auto},
		OnDisconnect: task.Continue, OutputMode: "text",
	}
	if c.N != nil && *c.N != 1 {
		return q, cannot("n", "more or less than one choice")
	}
	if len(c.LogitBias) > 0 {
		return q, cannot("logit_bias", "a bias")
	}
	for name, penalty := range map[string]*float64{"frequency_penalty": c.FrequencyPenalty, "presence_penalty": c.PresencePenalty} {
		if penalty != nil && *penalty != 0 {
			return q, cannot(name, "this penalty")
		}
	}
	if q.MaxTokens, err = whole32("max_tokens", c.MaxTokens, 1); err != nil {
		return q, err
	}
	if c.Seed != nil {
		if *c.Seed != math.Trunc(*c.Seed) {
			return q, bad("seed", "it must be a whole number")
		}
		seed := uint32(math.Mod(math.Abs(*c.Seed), task.MaxSeed+1))
		q.Seed = &seed
	}
	if len(c.Stop) > maxStop {
		return q, bad("stop", "at most %d texts are possible", maxStop)
	}
	q.Params.Stop = c.Stop
	if q.Params.Temperature, err = within("temperature", c.Temperature, maxTemperature); err != nil {
		return q, err
	}
	if q.Params.TopP, err = within("top_p", c.TopP, 1); err != nil {
		return q, err
	}
	if q.Params.MinP, err = within("min_p", c.MinP, 1); err != nil {
		return q, err
	}
	if c.TopK != nil {
		k, err := whole32("top_k", c.TopK, 0)
		if err != nil {
			return q, err
		}
		q.Params.TopK = &k
	}
	return q, nil
}

func within(param string, v *float64, most float64) (*float64, error) {
	if v != nil && (*v < 0 || *v > most) {
		return nil, bad(param, "it must be from 0 to %g, not %g", most, *v)
	}
	return v, nil
}

// whole32 is a whole number; 0 where it is missing.
func whole32(param string, v *float64, least int) (int, error) {
	if v == nil {
		return 0, nil
	}
	if *v != math.Trunc(*v) || *v < float64(least) || *v > math.MaxInt32 {
		return 0, bad(param, "it must be a whole number from %d, not %g", least, *v)
	}
	return int(*v), nil
}

// texts is one text, or several.
type texts []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *texts) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = nil
		if string(b) != "null" {
			*t = texts{one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(t))
}

// chatRequest is the body of /v1/chat/completions.
type chatRequest struct {
	common

	Messages            []message       `json:"messages"`
	MaxCompletionTokens *float64        `json:"max_completion_tokens"`
	Tools               []any           `json:"tools"`
	ToolChoice          any             `json:"tool_choice"`
	Functions           []any           `json:"functions"`
	ResponseFormat      *responseFormat `json:"response_format"`
	Logprobs            bool            `json:"logprobs"`
	Modalities          []string        `json:"modalities"`
}

type responseFormat struct {
	Type string `json:"type"`
}

// message is one turn.
type message struct {
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	ToolCalls []any           `json:"tool_calls"`
}

// part is a part of a message's content.
type part struct {
	Type    string `json:"type"`
	Text    string `json:"text"`
	Refusal string `json:"refusal"`
}

// request is the task of a chat.
func (c *chatRequest) request() (task.Request, error) {
	if c.MaxCompletionTokens != nil {
		c.MaxTokens = c.MaxCompletionTokens
	}
	q, err := c.common.request()
	if err != nil {
		return q, err
	}
	switch {
	case len(c.Tools) > 0 && c.ToolChoice != "none":
		return q, cannot("tools", "tools")
	case len(c.Functions) > 0:
		return q, cannot("functions", "functions")
	case c.ResponseFormat != nil && c.ResponseFormat.Type != "" && c.ResponseFormat.Type != "text":
		return q, cannot("response_format", "the format "+task.Clip(c.ResponseFormat.Type, 40))
	case c.Logprobs:
		return q, cannot("logprobs", "log probabilities")
	case len(c.Messages) == 0:
		return q, bad("messages", "send at least one message")
	}
	for _, m := range c.Modalities {
		if m != "text" {
			return q, cannot("modalities", "an answer that is no text")
		}
	}
	var system []string
	for i, m := range c.Messages {
		at := fmt.Sprintf("messages[%d]", i)
		text, err := m.text(at)
		if err != nil {
			return q, err
		}
		switch m.Role {
		case "system", "developer":
			system = append(system, text)
		case "user", "assistant":
			q.Messages = append(q.Messages, task.Message{Role: m.Role, Content: text})
		case "tool", "function":
			return q, cannot(at+".role", "the result of a tool")
		default:
			return q, bad(at+".role", "it must be system, developer, user or assistant, not %q", task.Clip(m.Role, 40))
		}
	}
	if len(system) > 0 {
		first := task.Message{Role: "system", Content: strings.Join(system, "\n\n")}
		q.Messages = append([]task.Message{first}, q.Messages...)
	}
	return q, nil
}

// text is the content of a message, put together from its parts.
func (m *message) text(at string) (string, error) {
	if len(m.ToolCalls) > 0 {
		return "", cannot(at+".tool_calls", "a call of a tool")
	}
	if len(m.Content) == 0 || string(m.Content) == "null" {
		return "", nil
	}
	var text string
	if json.Unmarshal(m.Content, &text) == nil {
		return text, nil
	}
	var parts []part
	if json.Unmarshal(m.Content, &parts) != nil {
		return "", bad(at+".content", "it must be a text, or a list of parts")
	}
	var all strings.Builder
	for i, p := range parts {
		switch p.Type {
		case "text":
			all.WriteString(p.Text)
		case "refusal":
			all.WriteString(p.Refusal)
		default:
			return "", cannot(fmt.Sprintf("%s.content[%d]", at, i), "a part of the type "+task.Clip(p.Type, 40))
		}
	}
	return all.String(), nil
}

// completionRequest is the body of /v1/completions.
type completionRequest struct {
	common

	Prompt   json.RawMessage `json:"prompt"`
	Suffix   string          `json:"suffix"`
	Echo     bool            `json:"echo"`
	BestOf   *float64        `json:"best_of"`
	Logprobs *float64        `json:"logprobs"`
}

// request is the task of a completion.
func (c *completionRequest) request() (task.Request, error) {
	q, err := c.common.request()
	if err != nil {
		return q, err
	}
	switch {
	case c.Suffix != "":
		return q, cannot("suffix", "a suffix")
	case c.Echo:
		return q, cannot("echo", "an echo of the prompt")
	case c.BestOf != nil && *c.BestOf != 1:
		return q, cannot("best_of", "the best of several answers")
	case c.Logprobs != nil:
		return q, cannot("logprobs", "log probabilities")
	}
	var prompt texts
	if err := json.Unmarshal(c.Prompt, &prompt); err != nil || len(prompt) != 1 {
		return q, bad("prompt", "send one text; a prompt of tokens, and several prompts, cannot be had here")
	}
	q.Prompt = prompt[0]
	return q, nil
}

// embeddingsRequest is the body of /v1/embeddings.
type embeddingsRequest struct {
	Model      string          `json:"model"`
	Input      json.RawMessage `json:"input"`
	Format     string          `json:"encoding_format"`
	Dimensions *float64        `json:"dimensions"`
}

// request is the task of embeddings.
func (c *embeddingsRequest) request() (task.Request, error) {
	q := task.Request{
		ModelRef: c.Model, Workload: task.Embedding, Priority: task.Interactive, Placement: task.Placement{Mode: task.Auto},
		OnDisconnect: task.Continue, OutputMode: "text",
	}
	var input texts
	switch {
	case c.Model == "":
		return q, bad("model", "name the model that is to answer: /v1/models lists them")
	case c.Format != "" && c.Format != "float" && c.Format != "base64":
		return q, bad("encoding_format", "it must be float or base64, not %q", task.Clip(c.Format, 40))
	case c.Dimensions != nil:
		return q, cannot("dimensions", "another number of dimensions than the model's")
	case json.Unmarshal(c.Input, &input) != nil || len(input) == 0:
		return q, bad("input", "send a text, or a list of texts; tokens cannot be had here")
	}
	q.Inputs = input
	return q, nil
}
