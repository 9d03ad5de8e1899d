// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// common is what requests share: all of them the model, chats and completions the rest. Unknown fields are ignored.
type common struct {
	Model     string          `json:"model"`
	Name      string          `json:"name"` // its older name
	KeepAlive json.RawMessage `json:"keep_alive"`
	Stream    *bool           `json:"stream"`

	Format      json.RawMessage `json:"format"`
	Think       json.RawMessage `json:"think"`
	Options     options         `json:"options"`
	Logprobs    bool            `json:"logprobs"`
	TopLogprobs *float64        `json:"top_logprobs"`
	RenderOnly  bool            `json:"_debug_render_only"`

	names lenient.Names // of the task's fields
}

// shown is the model as the client names it.
func (c *common) shown() string { return cmp.Or(c.Model, c.Name) }

// unload reports whether the model is to leave the memory afterwards. Any other keep_alive is checked, and has no effect.
func (c *common) unload() (bool, error) {
	if absent(c.KeepAlive) {
		return false, nil
	}
	text := strings.Trim(string(c.KeepAlive), `"`)
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		return seconds == 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return false, lenient.Bad("keep_alive", "it must be a number of seconds, or a duration such as \"5m\"")
	}
	return d == 0, nil
}

// absent reports whether a value is missing. Some clients send an empty text then.
func absent(raw json.RawMessage) bool {
	return lenient.Missing(raw) || string(bytes.TrimSpace(raw)) == `""`
}

// streams reports whether the answer is wanted as a stream.
func (c *common) streams() bool { return c.Stream == nil || *c.Stream }

// options are those that a pool can follow, and those that would change the answer and that no pool can. What only changes how a model is
// loaded is the configuration's to say, and so is num_ctx.
type options struct {
	NumPredict *float64      `json:"num_predict"`
	Seed       *float64      `json:"seed"`
	Stop       lenient.Texts `json:"stop"`

	lenient.Sampling

	Mirostat         *float64 `json:"mirostat"`
	TypicalP         *float64 `json:"typical_p"`
	TFSZ             *float64 `json:"tfs_z"`
	FrequencyPenalty *float64 `json:"frequency_penalty"`
	PresencePenalty  *float64 `json:"presence_penalty"`
}

// apply reads the options into the task.
func (o *options) apply(q *task.Request) error {
	for _, never := range []struct {
		param string
		value *float64
		off   float64 // besides 0
	}{
		{"mirostat", o.Mirostat, 0},
		{"typical_p", o.TypicalP, 1},
		{"tfs_z", o.TFSZ, 1},
		{"frequency_penalty", o.FrequencyPenalty, 0},
		{"presence_penalty", o.PresencePenalty, 0},
	} {
		if never.value != nil && *never.value != 0 && *never.value != never.off {
			return lenient.Cannot("options."+never.param, "this way to sample")
		}
	}
	var err error
	if o.NumPredict != nil && *o.NumPredict > 0 { // else as many as the context holds
		q.MaxTokens, err = lenient.Bound("options.num_predict", o.NumPredict)
		q.Lacks(task.SetMaxTokens, err)
	}
	if o.Seed != nil && *o.Seed != -1 { // which asks for any seed
		q.Seed, err = lenient.Seed("options.seed", o.Seed)
		q.Lacks(task.SetSeed, err)
	}
	q.Params.Stop, err = lenient.Stops("options.stop", o.Stop)
	q.Lacks(task.SetStop, err)
	o.Sampling.Read("options.", q)
	return nil
}

// request is the task of what chats and completions share.
func (c *common) request(model string) (q task.Request, err error) {
	q = lenient.Request(model, task.Completion)
	if c.RenderOnly {
		return q, lenient.Cannot("_debug_render_only", "a prompt without an answer")
	}
	if err := c.Options.apply(&q); err != nil {
		return q, err
	}
	q.Chat = &task.Chat{Reasoning: task.Reasoning{Split: true}}
	if q.Chat.Format, err = format(c.Format); err != nil {
		return q, err
	}
	if q.Chat.Logprobs, err = lenient.Logprobs(c.Logprobs, c.TopLogprobs); err != nil {
		return q, err
	}
	c.names.Call("format.schema", "format")
	return q, think(c.Think, &q)
}

// format is "json", or a JSON schema.
func format(raw json.RawMessage) (*task.Format, error) {
	if absent(raw) {
		return nil, nil
	}
	var word string
	if json.Unmarshal(raw, &word) == nil {
		if word != "json" {
			return nil, lenient.Bad("format", "it must be \"json\" or a JSON schema, not %q", task.Clip(word, 40))
		}
		return &task.Format{Kind: task.FormatJSON}, nil
	}
	schema, err := lenient.Schema("format", raw)
	if err != nil {
		return nil, err
	}
	return &task.Format{Kind: task.FormatJSON, Schema: schema}, nil
}

// think is a wish that shapes the thinking: true, false, or how much.
func think(raw json.RawMessage, q *task.Request) (err error) {
	if absent(raw) {
		return nil
	}
	yes := true
	var level string
	switch {
	case json.Unmarshal(raw, &yes) == nil:
	case json.Unmarshal(raw, &level) != nil:
		return lenient.Bad("think", "it must be true, false, or a level such as \"low\"")
	}
	q.Chat.Reasoning.Enabled = &yes
	q.Chat.Reasoning.Effort, err = lenient.Effort("think", level)
	q.Lacks(task.SetEffort, err)
	return nil
}

// chatRequest is the body of /api/chat.
type chatRequest struct {
	common

	Messages []message `json:"messages"`
	Tools    []tool    `json:"tools"`
}

// request is the task of a chat.
func (c *chatRequest) request(model string) (task.Request, error) {
	q, err := c.common.request(model)
	if err != nil {
		return q, err
	}
	if q.Chat.Tools, err = tools(c.Tools); err != nil {
		return q, err
	}
	for i := range c.Tools {
		c.names.Tools = append(c.names.Tools, lenient.At("tools", i)+".function")
	}
	turns, err := conversation(c.Messages)
	turns.OneSystem()
	q.Messages, c.names.Messages = turns.Messages, turns.At
	c.names.Call("messages[].content[]", "images[]") // they are the first of the parts
	c.names.Call("messages[].tool_calls[].name", "tool_calls[].function.name")
	return q, err
}

// generateRequest is the body of /api/generate.
type generateRequest struct {
	common

	Prompt   string          `json:"prompt"`
	System   string          `json:"system"`
	Images   []string        `json:"images"`
	Raw      bool            `json:"raw"`
	Suffix   string          `json:"suffix"`
	Template string          `json:"template"`
	Context  json.RawMessage `json:"context"`
}

// request is the task of a completion: with the prompt as it is, or as a chat of one turn.
func (g *generateRequest) request(model string) (task.Request, error) {
	q, err := g.common.request(model)
	if err != nil {
		return q, err
	}
	context := string(bytes.TrimSpace(g.Context))
	switch {
	case g.Suffix != "":
		return q, lenient.Cannot("suffix", "a suffix")
	case g.Template != "":
		return q, lenient.Bad("template", "the model's own template is used: leave it out, or send a whole prompt with `raw`")
	case context != "" && context != "null" && context != "[]":
		return q, lenient.Bad("context", "a conversation is not kept as tokens: send its messages to /api/chat")
	case g.Raw && g.System != "":
		return q, lenient.Bad("system", "with `raw` the prompt is used as it is: write the system prompt into it")
	case g.Raw && len(g.Images) > 0:
		return q, lenient.Bad("images", "with `raw` there is no place for images: leave `raw` out")
	}
	if g.Raw {
		q.Prompt, q.Chat.Reasoning = g.Prompt, task.Reasoning{} // no template is told of it
		return q, nil
	}
	if g.System != "" {
		q.Messages = append(q.Messages, task.Message{Role: task.RoleSystem, Content: g.System})
	}
	g.names.Messages = make([]string, len(q.Messages)+1) // their fields are those of the body
	g.names.Call("messages[].content[]", "images[]")
	user := task.Message{Role: task.RoleUser}
	err = content(&user, "images", g.Prompt, g.Images)
	q.Messages = append(q.Messages, user)
	return q, err
}

// embedRequest is the body of /api/embed and of /api/embeddings, which has one prompt in place of an input.
type embedRequest struct {
	common

	Input      lenient.Texts `json:"input"`
	Prompt     string        `json:"prompt"`
	Dimensions *float64      `json:"dimensions"`
}

// request is the task of embeddings.
func (e *embedRequest) request(model string, inputs []string) (task.Request, error) {
	q := lenient.Request(model, task.Embedding)
	q.Inputs = inputs
	if e.Dimensions != nil && *e.Dimensions != 0 {
		return q, lenient.Cannot("dimensions", "another number of dimensions than the model's")
	}
	return q, nil
}
