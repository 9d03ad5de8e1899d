// SPDX-License-Identifier: GPL-3.0-or-later

package scripted

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// What llama-server documents of the bodies that this engine takes: the name of each parameter, and what its value is. It ignores what it does not
// know. Here that is an error, since a parameter that is written wrongly has no effect and nobody would see it.
var (
	samplingParameters = map[string]kind{
		"stream": isBool, "stream_options": isObject, "verbose": isBool, "timings_per_token": isBool, "cache_prompt": isBool,
		"return_tokens": isBool, "return_progress": isBool, "sse_ping_interval": isNumber, "n_predict": isNumber, "max_tokens": isNumber,
		"max_completion_tokens": isNumber, "n_indent": isNumber, "n_keep": isNumber, "n_discard": isNumber, "n_cmpl": isNumber, "n": isNumber,
		"n_cache_reuse": isNumber, "t_max_predict_ms": isNumber, "response_fields": isTexts, "top_k": isNumber, "top_p": isNumber,
		"min_p": isNumber, "top_n_sigma": isNumber, "xtc_probability": isNumber, "xtc_threshold": isNumber, "typical_p": isNumber,
		"temperature": isNumber, "dynatemp_range": isNumber, "dynatemp_exponent": isNumber, "repeat_last_n": isNumber,
		"repeat_penalty": isNumber, "frequency_penalty": isNumber, "presence_penalty": isNumber, "dry_multiplier": isNumber,
		"dry_base": isNumber, "dry_allowed_length": isNumber, "dry_penalty_last_n": isNumber, "mirostat": isNumber,
		"mirostat_tau": isNumber, "mirostat_eta": isNumber, "adaptive_target": isNumber, "adaptive_decay": isNumber, "seed": isNumber,
		"n_probs": isNumber, "min_keep": isNumber, "backend_sampling": isBool, "post_sampling_probs": isBool, "lora": isArray,
		"dry_sequence_breakers": isTexts, "json_schema": isObject, "grammar": isText, "logit_bias": isBias, "ignore_eos": isBool,
		"stop": isTexts, "samplers": isTexts, "id_slot": isNumber,
	}
	completionParameters = with(samplingParameters, map[string]kind{"prompt": isText})
	chatParameters       = with(samplingParameters, map[string]kind{
		"messages": isArray, "tools": isArray, "tool_choice": isText, "parallel_tool_calls": isBool, "response_format": isObject,
		"chat_template_kwargs": isObject, "reasoning_format": isText, "reasoning_effort": isText, "reasoning_budget_tokens": isNumber,
		"reasoning_budget_message": isText, "add_generation_prompt": isBool, "continue_final_message": isText, "model": isText,
		"logprobs": isBool, "top_logprobs": isNumber,
	})
	tokenizeParameters   = map[string]kind{"content": isText, "add_special": isBool, "parse_special": isBool, "with_pieces": isBool}
	detokenizeParameters = map[string]kind{"tokens": isArray}
	eraseParameters      = map[string]kind{"filename": isText}
)

func with(a, b map[string]kind) map[string]kind {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// kind is what a value has to be.
type kind func(json.RawMessage) bool

func of[T any](v json.RawMessage) bool { var t T; return json.Unmarshal(v, &t) == nil }

func isBool(v json.RawMessage) bool   { return of[bool](v) }
func isNumber(v json.RawMessage) bool { return of[float64](v) }
func isText(v json.RawMessage) bool   { return of[string](v) }
func isArray(v json.RawMessage) bool  { return of[[]json.RawMessage](v) }
func isObject(v json.RawMessage) bool { return of[map[string]json.RawMessage](v) }
func isTexts(v json.RawMessage) bool  { return of[[]string](v) || isText(v) }

// isBias: pairs of a token and a bias.
func isBias(v json.RawMessage) bool {
	var pairs [][]json.RawMessage
	if json.Unmarshal(v, &pairs) != nil {
		return isObject(v)
	}
	for _, p := range pairs {
		if len(p) != 2 || !of[int](p[0]) && !isText(p[0]) || !isNumber(p[1]) && !isBool(p[1]) {
			return false
		}
	}
	return true
}

// take reads a body whole, notes it, and decodes it. If it is not what llama-server documents, it answers and returns false.
func (e *Engine) take(w http.ResponseWriter, r *http.Request, known map[string]kind, into any, check func() error) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err == nil {
		err = fits(body, known)
	}
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err == nil && check != nil {
		err = check()
	}
	e.note(r.URL.Path, body, err)
	if err != nil {
		writeError(w, Failure{http.StatusBadRequest, err.Error(), "invalid_request_error"}, nil)
		return false
	}
	return true
}

func fits(body []byte, known map[string]kind) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return fmt.Errorf("parse error: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		is, ok := known[name]
		switch v := bytes.TrimSpace(fields[name]); {
		case !ok:
			return fmt.Errorf("Field '%s': llama-server documents no such parameter here", name) //nolint:staticcheck // as the server writes it
		case string(v) != "null" && !is(v):
			return fmt.Errorf("Field '%s': %.100s is no value for it", name, v) //nolint:staticcheck // as the server writes it
		}
	}
	return nil
}

// sampling are the parameters that both bodies have, and that change what this engine does.
type sampling struct {
	Stream        bool     `json:"stream"`
	NPredict      *int     `json:"n_predict"`
	MaxTokens     *int     `json:"max_tokens"`
	Stop          []string `json:"stop"`
	Progress      bool     `json:"return_progress"`
	Verbose       bool     `json:"verbose"`
	Fields        []string `json:"response_fields"`
	Slot          *int     `json:"id_slot"`
	NProbs        int      `json:"n_probs"`
	StreamOptions struct {
		Usage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// limit is how many tokens the answer may have at most.
func (s sampling) limit(ctx, prompt int) int {
	most := ctx - prompt
	for _, n := range []*int{s.NPredict, s.MaxTokens} {
		if n != nil && *n >= 0 {
			return min(most, *n)
		}
	}
	return most
}

func (s sampling) slot() int {
	if s.Slot == nil {
		return -1
	}
	return *s.Slot
}

type completionRequest struct {
	sampling
	Prompt string `json:"prompt"`
}

type chatRequest struct {
	sampling
	Messages        []message                  `json:"messages"`
	Tools           []tool                     `json:"tools"`
	ToolChoice      string                     `json:"tool_choice"`
	Grammar         string                     `json:"grammar"`
	Schema          json.RawMessage            `json:"json_schema"`
	Format          format                     `json:"response_format"`
	Arguments       map[string]json.RawMessage `json:"chat_template_kwargs"`
	ReasoningFormat string                     `json:"reasoning_format"`
	Effort          string                     `json:"reasoning_effort"`
	Logprobs        bool                       `json:"logprobs"`
	GenerationTurn  *bool                      `json:"add_generation_prompt"`
	Continues       string                     `json:"continue_final_message"`
}

type format struct {
	Type   string          `json:"type"`
	Schema json.RawMessage `json:"schema"`
	Wrap   struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
}

type message struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	Reasoning  string          `json:"reasoning_content"`
	ToolCalls  []call          `json:"tool_calls"`
	ToolCallID string          `json:"tool_call_id"`
	Name       string          `json:"name"`
	// text and images are made from Content.
	text   string
	images int
}

type call struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"function"`
}

type tool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Parameters  json.RawMessage `json:"parameters"`
	} `json:"function"`
}

// check refuses what llama-server refuses of a chat.
func (c *chatRequest) check(o Options) error {
	if len(c.Messages) == 0 {
		return errors.New("'messages' is required")
	}
	for i := range c.Messages {
		if err := c.Messages[i].read(o.Vision); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
	}
	for _, t := range c.Tools {
		if t.Type != "function" || t.Function.Name == "" || len(t.Function.Parameters) > 0 && !isObject(t.Function.Parameters) {
			return fmt.Errorf("a tool is not {type: function, function: {name, parameters}}: %q", t.Function.Name)
		}
	}
	switch {
	case !slices.Contains([]string{"", "auto", "none", "required"}, c.ToolChoice):
		return fmt.Errorf("Invalid tool_choice: %s", c.ToolChoice) //nolint:staticcheck // as the server writes it
	case !slices.Contains([]string{"", "none", "auto", "deepseek", "deepseek-legacy"}, c.ReasoningFormat):
		return fmt.Errorf("Unknown reasoning format: %s", c.ReasoningFormat) //nolint:staticcheck // as the server writes it
	case !slices.Contains([]string{"", "text", "json_object", "json_schema"}, c.Format.Type):
		return errors.New(`response_format type must be one of "text" or "json_object", but got: ` + c.Format.Type)
	case len(c.Schema) > 0 && c.Grammar != "":
		return errors.New("Cannot use both json_schema and grammar") //nolint:staticcheck // as the server writes it
	case c.Grammar != "" && c.callsTools():
		return errors.New("Cannot use custom grammar constraints with tools.") //nolint:staticcheck // as the server writes it
	case c.Logprobs && c.Stream && len(c.Tools) > 0:
		return errors.New("logprobs is not supported with tools + stream")
	}
	if c.Continues != "" {
		switch last := c.Messages[len(c.Messages)-1]; {
		case !slices.Contains([]string{"content", "reasoning_content"}, c.Continues):
			return fmt.Errorf("continue_final_message is %q", c.Continues)
		case c.GenerationTurn == nil || *c.GenerationTurn:
			return errors.New("Cannot set both add_generation_prompt and continue_final_message to true.") //nolint:staticcheck // as the server writes it
		case last.Role != "assistant":
			return errors.New("the final message is no assistant's")
		case len(last.ToolCalls) > 0:
			return errors.New("Cannot continue an assistant message that contains tool calls.") //nolint:staticcheck // as the server writes it
		}
	}
	if thinking, ok := c.Arguments["enable_thinking"]; ok && !isBool(thinking) {
		return errors.New(`invalid type for "enable_thinking" (expected boolean, got string)`)
	}
	return nil
}

func (c *chatRequest) callsTools() bool { return len(c.Tools) > 0 && c.ToolChoice != "none" }

func (m *message) read(vision bool) error {
	if !slices.Contains([]string{"system", "developer", "user", "assistant", "tool"}, m.Role) {
		return fmt.Errorf("the role is %q", m.Role)
	}
	if m.Content == nil && len(m.ToolCalls) == 0 {
		return errors.New("Expected 'content' or 'tool_calls'") //nolint:staticcheck // as the server writes it
	}
	for _, c := range m.ToolCalls {
		if c.Type != "function" || c.Function.Name == "" || len(c.Function.Arguments) == 0 {
			return errors.New("a tool call is not {type: function, function: {name, arguments}}")
		}
	}
	if m.Content == nil || string(m.Content) == "null" || json.Unmarshal(m.Content, &m.text) == nil {
		return nil
	}
	var parts []struct {
		Type  string  `json:"type"`
		Text  *string `json:"text"`
		Image struct {
			URL string `json:"url"`
		} `json:"image_url"`
	}
	if json.Unmarshal(m.Content, &parts) != nil {
		return errors.New("Expected 'content' to be a string or an array") //nolint:staticcheck // as the server writes it
	}
	for _, p := range parts {
		switch {
		case p.Type == "text" && p.Text != nil:
			m.text += *p.Text
		case p.Type == "image_url" && !vision:
			return errors.New("image input is not supported - hint: if this is unexpected, you may need to provide the mmproj")
		case p.Type == "image_url":
			head, data, ok := strings.Cut(p.Image.URL, ",")
			if _, err := base64.StdEncoding.DecodeString(data); !ok || err != nil || !strings.HasPrefix(head, "data:image/") || !strings.HasSuffix(head, ";base64") {
				return errors.New("Invalid uri-encoded base64 value") //nolint:staticcheck // as the server writes it
			}
			m.text += mediaMarker
			m.images++
		default:
			return errors.New("unsupported content[].type")
		}
	}
	return nil
}
