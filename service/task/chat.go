// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"encoding/json"
	"slices"
	"strings"
)

// The roles of messages.
const (
	RoleSystem    = "system"
	RoleUser      = "user"
	RoleAssistant = "assistant"
	RoleTool      = "tool" // the result of a call
)

// Message is one turn of a chat. Its content is either Content or, where it has an image, Parts.
type Message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	Parts      []Part     `json:"parts,omitempty"`
	Reasoning  string     `json:"reasoning,omitempty"`    // of an assistant: what it thought before it answered
	ToolCalls  []ToolCall `json:"tool_calls,omitempty"`   // of an assistant
	ToolCallID string     `json:"tool_call_id,omitempty"` // of a tool: the call whose result this is
}

// Part is a piece of a message's content: a text, or an image.
type Part struct {
	Text  string `json:"text,omitempty"`
	Image *Image `json:"image,omitempty"`
}

// Image is a picture as its file has it.
type Image struct {
	MIME string `json:"mime"` // such as image/png
	Data []byte `json:"data"` // base64 in JSON
}

// Bytes is the size of all that the message brings.
func (m Message) Bytes() int {
	n := len(m.Content) + len(m.Reasoning)
	for _, p := range m.Parts {
		n += len(p.Text)
		if p.Image != nil {
			n += len(p.Image.Data)
		}
	}
	for _, c := range m.ToolCalls {
		n += len(c.Name) + len(c.Arguments)
	}
	return n
}

// Chat is what a chat asks of its engine besides its messages. The zero value asks nothing.
type Chat struct {
	Tools         []Tool     `json:"tools,omitempty"`
	ToolChoice    ToolChoice `json:"tool_choice,omitempty"`
	ToolName      string     `json:"tool_name,omitempty"`      // with ChooseTool: which
	ParallelCalls *bool      `json:"parallel_calls,omitempty"` // nil: as the model's template has it
	Format        *Format    `json:"format,omitempty"`         // nil: free text
	Reasoning     Reasoning  `json:"reasoning,omitzero"`
	LogitBias     []Bias     `json:"logit_bias,omitempty"`
	Logprobs      *Logprobs  `json:"logprobs,omitempty"` // nil: nobody asks
	// TemplateArgs is a JSON object of arguments for the model's chat template.
	TemplateArgs json.RawMessage `json:"template_args,omitempty"`
}

// Tool is a function that the model may call.
type Tool struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"` // a JSON schema; empty: none
}

// ToolChoice says whether the model calls tools.
type ToolChoice string

// The choices. Unset leaves it to the model.
const (
	ChooseAuto     ToolChoice = ""
	ChooseNone     ToolChoice = "none"
	ChooseRequired ToolChoice = "required" // at least one call, of any tool
	ChooseTool     ToolChoice = "tool"     // a call of Chat.ToolName
)

// FormatKind is what an answer is made of.
type FormatKind string

// The kinds of formats.
const (
	FormatJSON    FormatKind = "json"    // a JSON value that fits Format.Schema
	FormatGrammar FormatKind = "grammar" // a text of Format.Grammar
)

// Format binds an answer's form. The engine decodes nothing else.
type Format struct {
	Kind    FormatKind      `json:"kind"`
	Schema  json.RawMessage `json:"schema,omitempty"`  // a JSON schema; empty: any object
	Grammar string          `json:"grammar,omitempty"` // in GBNF
}

// Reasoning says what is wanted of a model that thinks before it answers.
type Reasoning struct {
	// Split wants the thinking in events of its own, where the engine can tell it from the answer.
	Split bool `json:"split,omitempty"`
	// Enabled is the wish to have it think, or not; nil: as the model's template has it.
	Enabled *bool `json:"enabled,omitempty"`
	// Effort is a word for the model's template, such as low, medium or high.
	Effort string `json:"effort,omitempty"`
	// Budget bounds the tokens of the thinking; 0: no bound.
	Budget int `json:"budget,omitempty"`
}

// Bias is added to the logit of a token before sampling.
type Bias struct {
	Token int     `json:"token"`
	Bias  float64 `json:"bias"`
}

// Feature is something that only some engines and models can do, and that changes an answer.
type Feature string

// The features, by the names that capabilities and refusals show.
const (
	FeatureTools     Feature = "tools"
	FeatureFormats   Feature = "formats"  // JSON, and JSON schemas
	FeatureGrammars  Feature = "grammars" // in GBNF
	FeatureImages    Feature = "images"
	FeatureReasoning Feature = "reasoning" // can tell the thinking from the answer
	FeatureArguments Feature = "template_arguments"
	FeatureBias      Feature = "logit_bias"
	FeatureLogprobs  Feature = "logprobs"
)

// MediaMarker stands for an image in a rendered prompt.
const MediaMarker = "<__media__>"

// HasImages reports whether a message has an image.
func HasImages(messages []Message) bool {
	for _, m := range messages {
		for _, p := range m.Parts {
			if p.Image != nil {
				return true
			}
		}
	}
	return false
}

// Needs lists the features without which the request cannot be answered as asked.
func (r Request) Needs() []Feature { return Needs(r.Messages, r.Chat) }

// Needs lists the features that a chat cannot do without. A wish that only shapes the thinking is no need.
func Needs(messages []Message, c *Chat) (needs []Feature) {
	if c == nil {
		c = &Chat{}
	}
	for _, n := range []struct {
		needed  bool
		feature Feature
	}{
		{c.CallsTools(), FeatureTools},
		{c.Format != nil && c.Format.Kind == FormatJSON, FeatureFormats},
		{c.Format != nil && c.Format.Kind == FormatGrammar, FeatureGrammars},
		{HasImages(messages), FeatureImages},
		{len(c.TemplateArgs) > 0, FeatureArguments},
		{len(c.LogitBias) > 0, FeatureBias},
		{c.Logprobs != nil, FeatureLogprobs},
	} {
		if n.needed {
			needs = append(needs, n.feature)
		}
	}
	return needs
}

// CallsTools reports whether the model may call tools.
func (c *Chat) CallsTools() bool {
	return c != nil && len(c.Tools) > 0 && c.ToolChoice != ChooseNone
}

// Missing says what of the needs is not among the features, in words, and what to do; empty: nothing.
func Missing(needs, features []Feature) string {
	var lacks []string
	for _, n := range needs {
		if !slices.Contains(features, n) {
			lacks = append(lacks, n.lack())
		}
	}
	return strings.Join(lacks, ", and ")
}

// lack says what an engine without the feature cannot do.
func (f Feature) lack() string {
	switch f {
	case FeatureTools:
		return "takes no tools (its engine, or its model's chat template, knows none)"
	case FeatureFormats:
		return "takes no format (its engine binds an answer to no JSON schema)"
	case FeatureGrammars:
		return "takes no grammar (its engine binds an answer to none)"
	case FeatureImages:
		return "takes no images (its model sees none, or its engine was started without the part that sees)"
	case FeatureArguments:
		return "takes no template arguments"
	case FeatureBias:
		return "takes no logit bias"
	case FeatureLogprobs:
		return "tells no log probabilities"
	case FeatureReasoning:
	}
	return "lacks " + string(f)
}
