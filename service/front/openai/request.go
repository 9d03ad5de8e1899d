// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strconv"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// maxBias bounds a logit bias, as in the native contract.
const maxBias = 100

// common is what completions, chats and responses share. Unknown fields are ignored.
type common struct {
	Model  string        `json:"model"`
	Stream bool          `json:"stream"`
	N      *float64      `json:"n"`
	Seed   *float64      `json:"seed"`
	Stop   lenient.Texts `json:"stop"`

	lenient.Sampling // llama-server and vLLM have its top_k, min_p and repeat_penalty in this dialect as well

	FrequencyPenalty *float64            `json:"frequency_penalty"`
	PresencePenalty  *float64            `json:"presence_penalty"`
	LogitBias        map[string]*float64 `json:"logit_bias"`
	// llama-server has these as well.
	Grammar    string          `json:"grammar"`
	JSONSchema json.RawMessage `json:"json_schema"`

	names lenient.Names // of the task's fields
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// usage reports whether a stream is to tell its usage.
func (o *streamOptions) usage() bool { return o != nil && o.IncludeUsage }

// request is the task of what they share. Most is the bound of the answer, in tokens, and name how the client calls it.
func (c *common) request(name string, most *float64) (q task.Request, err error) {
	if c.Model == "" {
		return q, lenient.NoModel(modelsPath)
	}
	q = lenient.Request(c.Model, task.Completion)
	switch {
	case c.N != nil && *c.N != 1:
		return q, lenient.Cannot("n", "more or less than one choice")
	case c.FrequencyPenalty != nil && *c.FrequencyPenalty != 0:
		return q, lenient.Cannot("frequency_penalty", "this penalty")
	case c.PresencePenalty != nil && *c.PresencePenalty != 0:
		return q, lenient.Cannot("presence_penalty", "this penalty")
	}
	q.MaxTokens, err = lenient.Bound(name, most)
	q.Lacks(task.SetMaxTokens, err)
	q.Seed, err = lenient.Seed("seed", c.Seed)
	q.Lacks(task.SetSeed, err)
	q.Params.Stop, err = lenient.Stops("stop", c.Stop)
	q.Lacks(task.SetStop, err)
	c.Sampling.Read("", &q)
	return q, nil
}

// ask puts into a chat what the three share beside the sampling.
func (c *common) ask(chat *task.Chat) (err error) {
	if chat.LogitBias, err = biases(c.LogitBias); err != nil {
		return err
	}
	schema, err := lenient.Schema("json_schema", c.JSONSchema)
	if err != nil {
		return err
	}
	if schema != nil {
		c.names.Call("format.schema", "json_schema")
		if err := form(chat, "json_schema", task.Format{Kind: task.FormatJSON, Schema: schema}); err != nil {
			return err
		}
	}
	if c.Grammar != "" {
		c.names.Call("format.grammar", "grammar")
		return form(chat, "grammar", task.Format{Kind: task.FormatGrammar, Grammar: c.Grammar})
	}
	return nil
}

// form sets the form of an answer, which can have one only.
func form(chat *task.Chat, param string, f task.Format) error {
	if chat.Format != nil {
		return lenient.Bad(param, "the answer has a form already, by another parameter: leave one out")
	}
	chat.Format = &f
	return nil
}

// biases are those of a request, in the order of their tokens.
func biases(by map[string]*float64) (all []task.Bias, err error) {
	for text, bias := range by {
		token, err := strconv.Atoi(text)
		if err != nil || token < 0 || token > math.MaxInt32 {
			return nil, lenient.Bad("logit_bias", "its keys are numbers of tokens, not %q", task.Clip(text, 40))
		}
		if bias == nil || math.Abs(*bias) > maxBias {
			return nil, lenient.Bad("logit_bias", "the bias of token %d must be a number from -%d to %d", token, maxBias, maxBias)
		}
		all = append(all, task.Bias{Token: token, Bias: *bias})
	}
	slices.SortFunc(all, func(a, b task.Bias) int { return cmp.Compare(a.Token, b.Token) })
	return all, nil
}

// chatRequest is the body of /v1/chat/completions.
type chatRequest struct {
	common

	Messages            []message       `json:"messages"`
	StreamOptions       *streamOptions  `json:"stream_options"`
	MaxTokens           *float64        `json:"max_tokens"`
	MaxCompletionTokens *float64        `json:"max_completion_tokens"`
	Tools               []tool          `json:"tools"`
	ToolChoice          json.RawMessage `json:"tool_choice"`
	ParallelToolCalls   *bool           `json:"parallel_tool_calls"`
	Functions           []function      `json:"functions"` // the form of tools before there were tools
	FunctionCall        json.RawMessage `json:"function_call"`
	ResponseFormat      *format         `json:"response_format"`
	ReasoningEffort     string          `json:"reasoning_effort"`
	TemplateArgs        json.RawMessage `json:"chat_template_kwargs"`
	Logprobs            bool            `json:"logprobs"`
	TopLogprobs         *float64        `json:"top_logprobs"`
	Modalities          []string        `json:"modalities"`
}

// format is the form of an answer. A response has name and schema in it, a chat under json_schema, and llama-server's users a schema
// beside json_object.
type format struct {
	Type       string          `json:"type"`
	Name       string          `json:"name"`
	Schema     json.RawMessage `json:"schema"`
	Strict     *bool           `json:"strict"`
	JSONSchema *struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
}

// ask puts the form into a chat. Param is how the client calls it.
func (f *format) ask(chat *task.Chat, param string, names *lenient.Names) error {
	if f == nil || f.Type == "" || f.Type == "text" {
		return nil
	}
	if f.Type != "json_object" && f.Type != "json_schema" {
		return lenient.Cannot(param, "the format "+task.Clip(f.Type, 40))
	}
	raw, at := f.Schema, param+".schema"
	if f.JSONSchema != nil {
		raw, at = f.JSONSchema.Schema, param+".json_schema.schema"
	}
	schema, err := lenient.Schema(at, raw)
	if err != nil {
		return err
	}
	names.Call("format.schema", at)
	return form(chat, param, task.Format{Kind: task.FormatJSON, Schema: schema})
}

// legacy reports whether the client speaks of functions, and so does its answer.
func (c *chatRequest) legacy() bool { return len(c.Functions) > 0 }

// request is the task of a chat.
func (c *chatRequest) request() (task.Request, error) {
	name, most := "max_tokens", c.MaxTokens
	if c.MaxCompletionTokens != nil {
		name, most = "max_completion_tokens", c.MaxCompletionTokens
	}
	q, err := c.common.request(name, most)
	if err != nil {
		return q, err
	}
	if len(c.Messages) == 0 {
		return q, lenient.Bad("messages", "send at least one message")
	}
	for _, m := range c.Modalities {
		if m != "text" {
			return q, lenient.Cannot("modalities", "an answer that is no text")
		}
	}
	if q.Messages, err = turns(c.Messages, &c.names); err != nil {
		return q, err
	}
	q.Chat = &task.Chat{Reasoning: task.Reasoning{Split: true}, ParallelCalls: c.ParallelToolCalls}
	if err := c.ask(q.Chat); err != nil {
		return q, err
	}
	if err := c.ResponseFormat.ask(q.Chat, "response_format", &c.names); err != nil {
		return q, err
	}
	if q.Chat.Logprobs, err = lenient.Logprobs(c.Logprobs, c.TopLogprobs); err != nil {
		return q, err
	}
	effort(&q, "reasoning_effort", c.ReasoningEffort)
	if err := arguments(q.Chat, c.TemplateArgs); err != nil {
		return q, err
	}
	if c.legacy() {
		one := false // the old form has room for one call
		q.Chat.ParallelCalls = &one
		return q, functions(q.Chat, c.Functions, c.FunctionCall, &c.names)
	}
	return q, choose(q.Chat, c.Tools, c.ToolChoice, &c.names)
}

// effort is a word for the model's template. "none" is a wish not to think at all.
func effort(q *task.Request, param, word string) {
	if word == "none" {
		off := false
		q.Chat.Reasoning.Enabled = &off
		return
	}
	var err error
	q.Chat.Reasoning.Effort, err = lenient.Effort(param, word)
	q.Lacks(task.SetEffort, err)
}

// arguments are those of the model's template. One of them, enable_thinking, is a wish that is no need: models that do not think may
// ignore it.
func arguments(chat *task.Chat, raw json.RawMessage) error {
	const param = "chat_template_kwargs"
	if lenient.Missing(raw) {
		return nil
	}
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return lenient.Bad(param, "it must be a JSON object")
	}
	if think, ok := all["enable_thinking"]; ok {
		if json.Unmarshal(think, &chat.Reasoning.Enabled) != nil {
			return lenient.Bad(param+".enable_thinking", "it must be true or false")
		}
		delete(all, "enable_thinking")
	}
	if len(all) == 0 {
		return nil
	}
	var err error
	if chat.TemplateArgs, err = json.Marshal(all); err != nil { // the keys in order, for the digest
		return lenient.Bad(param, "%s", err)
	}
	return nil
}

// completionRequest is the body of /v1/completions.
type completionRequest struct {
	common

	StreamOptions *streamOptions  `json:"stream_options"`
	MaxTokens     *float64        `json:"max_tokens"`
	Prompt        json.RawMessage `json:"prompt"`
	Suffix        string          `json:"suffix"`
	Echo          bool            `json:"echo"`
	BestOf        *float64        `json:"best_of"`
	Logprobs      *float64        `json:"logprobs"`
}

// request is the task of a completion.
func (c *completionRequest) request() (task.Request, error) {
	q, err := c.common.request("max_tokens", c.MaxTokens)
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
	}
	var prompt lenient.Texts
	if err := json.Unmarshal(c.Prompt, &prompt); err != nil || len(prompt) != 1 {
		return q, lenient.Bad("prompt", "send one text; a prompt of tokens, and several prompts, cannot be had here")
	}
	q.Prompt = prompt[0]
	chat := task.Chat{}
	if err := c.ask(&chat); err != nil {
		return q, err
	}
	if c.Logprobs != nil {
		top, err := lenient.Alternatives("logprobs", c.Logprobs)
		if err != nil {
			return q, err
		}
		chat.Logprobs = &task.Logprobs{Top: top}
	}
	if chat.Format != nil || len(chat.LogitBias) > 0 || chat.Logprobs != nil {
		q.Chat = &chat
	}
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
	q := lenient.Request(c.Model, task.Embedding)
	var input lenient.Texts
	switch {
	case c.Model == "":
		return q, lenient.NoModel(modelsPath)
	case c.Format != "" && c.Format != "float" && c.Format != "base64":
		return q, lenient.Bad("encoding_format", "it must be float or base64, not %q", task.Clip(c.Format, 40))
	case c.Dimensions != nil:
		return q, lenient.Cannot("dimensions", "another number of dimensions than the model's")
	case json.Unmarshal(c.Input, &input) != nil || len(input) == 0:
		return q, lenient.Bad("input", "send a text, or a list of texts; tokens cannot be had here")
	}
	q.Inputs = input
	return q, nil
}

// rerankRequest is the body of /v1/rerank.
type rerankRequest struct {
	Model     string            `json:"model"`
	Query     string            `json:"query"`
	Documents []json.RawMessage `json:"documents"`
	TopN      *float64          `json:"top_n"`
	Return    bool              `json:"return_documents"`
}

// document is a text, or an object that has it.
func document(param string, raw json.RawMessage) (string, error) {
	var text *string
	if json.Unmarshal(raw, &text) == nil && text != nil {
		return *text, nil
	}
	var object struct {
		Text *string `json:"text"`
	}
	if json.Unmarshal(raw, &object) != nil || object.Text == nil {
		return "", lenient.Bad(param, "it must be a text, or an object with a `text`")
	}
	return *object.Text, nil
}

// request is the task of a rerank.
func (c *rerankRequest) request() (task.Request, error) {
	q := lenient.Request(c.Model, task.Rerank)
	switch {
	case c.Model == "":
		return q, lenient.NoModel(modelsPath)
	case c.Query == "":
		return q, lenient.Bad("query", "send the text to which the documents are compared")
	case len(c.Documents) == 0:
		return q, lenient.Bad("documents", "send a list of texts")
	}
	if _, err := lenient.Whole("top_n", c.TopN, 1); err != nil {
		return q, err
	}
	q.Prompt = c.Query
	q.Inputs = make([]string, len(c.Documents))
	for i, d := range c.Documents {
		var err error
		if q.Inputs[i], err = document(lenient.At("documents", i), d); err != nil {
			return q, err
		}
	}
	return q, nil
}
