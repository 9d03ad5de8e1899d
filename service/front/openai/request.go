// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// The bounds of the native contract.
const (
	maxStop        = 16
	maxTemperature = 5
)

// common is what completions and chats share. Unknown fields are ignored.
type common struct {
	Model         string         `json:"model"`
	Stream        bool           `json:"stream"`
	StreamOptions *streamOptions `json:"stream_options"`
	MaxTokens     *float64       `json:"max_tokens"`
	N             *float64       `json:"n"`
	Seed          *float64       `json:"seed"`
	Stop          lenient.Texts  `json:"stop"`

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
		return q, lenient.Bad("model", "name the model that is to answer: /v1/models lists them")
	}
	q = lenient.Chat(c.Model)
	if c.N != nil && *c.N != 1 {
		return q, lenient.Cannot("n", "more or less than one choice")
	}
	if len(c.LogitBias) > 0 {
		return q, lenient.Cannot("logit_bias", "a bias")
	}
	for name, penalty := range map[string]*float64{"frequency_penalty": c.FrequencyPenalty, "presence_penalty": c.PresencePenalty} {
		if penalty != nil && *penalty != 0 {
			return q, lenient.Cannot(name, "this penalty")
		}
	}
	if q.MaxTokens, err = lenient.Whole("max_tokens", c.MaxTokens, 1); err != nil {
		return q, err
	}
	if q.Seed, err = lenient.Seed("seed", c.Seed); err != nil {
		return q, err
	}
	if len(c.Stop) > maxStop {
		return q, lenient.Bad("stop", "at most %d lenient.Texts are possible", maxStop)
	}
	q.Params.Stop = c.Stop
	if q.Params.Temperature, err = lenient.Within("temperature", c.Temperature, maxTemperature); err != nil {
		return q, err
	}
	if q.Params.TopP, err = lenient.Within("top_p", c.TopP, 1); err != nil {
		return q, err
	}
	if q.Params.MinP, err = lenient.Within("min_p", c.MinP, 1); err != nil {
		return q, err
	}
	if c.TopK != nil {
		k, err := lenient.Whole("top_k", c.TopK, 0)
		if err != nil {
			return q, err
		}
		q.Params.TopK = &k
	}
	return q, nil
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
		return q, lenient.Cannot("tools", "tools")
	case len(c.Functions) > 0:
		return q, lenient.Cannot("functions", "functions")
	case c.ResponseFormat != nil && c.ResponseFormat.Type != "" && c.ResponseFormat.Type != "text":
		return q, lenient.Cannot("response_format", "the format "+task.Clip(c.ResponseFormat.Type, 40))
	case c.Logprobs:
		return q, lenient.Cannot("logprobs", "log probabilities")
	case len(c.Messages) == 0:
		return q, lenient.Bad("messages", "send at least one message")
	}
	for _, m := range c.Modalities {
		if m != "text" {
			return q, lenient.Cannot("modalities", "an answer that is no text")
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
			return q, lenient.Cannot(at+".role", "the result of a tool")
		default:
			return q, lenient.Bad(at+".role", "it must be system, developer, user or assistant, not %q", task.Clip(m.Role, 40))
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
		return "", lenient.Cannot(at+".tool_calls", "a call of a tool")
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
		return "", lenient.Bad(at+".content", "it must be a text, or a list of parts")
	}
	var all strings.Builder
	for i, p := range parts {
		switch p.Type {
		case "text":
			all.WriteString(p.Text)
		case "refusal":
			all.WriteString(p.Refusal)
		default:
			return "", lenient.Cannot(fmt.Sprintf("%s.content[%d]", at, i), "a part of the type "+task.Clip(p.Type, 40))
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
		return q, lenient.Cannot("suffix", "a suffix")
	case c.Echo:
		return q, lenient.Cannot("echo", "an echo of the prompt")
	case c.BestOf != nil && *c.BestOf != 1:
		return q, lenient.Cannot("best_of", "the best of several answers")
	case c.Logprobs != nil:
		return q, lenient.Cannot("logprobs", "log probabilities")
	}
	var prompt lenient.Texts
	if err := json.Unmarshal(c.Prompt, &prompt); err != nil || len(prompt) != 1 {
		return q, lenient.Bad("prompt", "send one text; a prompt of tokens, and several prompts, cannot be had here")
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
		OutputMode: "text",
	}
	var input lenient.Texts
	switch {
	case c.Model == "":
		return q, lenient.Bad("model", "name the model that is to answer: /v1/models lists them")
	case c.Format != "" && c.Format != "float" && c.Format != "base64":
		return q, lenient.Bad("encoding_format", "it must be float or base64, not %q", task.Clip(c.Format, 40))
	case c.Dimensions != nil:
		return q, lenient.Cannot("dimensions", "another number of dimensions than the model's")
	case json.Unmarshal(c.Input, &input) != nil || len(input) == 0:
		return q, lenient.Bad("input", "send a text, or a list of lenient.Texts; tokens cannot be had here")
	}
	q.Inputs = input
	return q, nil
}
