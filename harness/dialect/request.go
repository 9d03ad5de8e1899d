// SPDX-License-Identifier: GPL-3.0-or-later

package dialect

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/llama-orch/llama-orch/contracts/dialects"
)

// The schemas of requests of OpenAI's API.
const (
	ChatRequest       = "CreateChatCompletionRequest"
	CompletionRequest = "CreateCompletionRequest"
	EmbeddingRequest  = "CreateEmbeddingRequest"
	assistantMessage  = "ChatCompletionRequestAssistantMessage"
	toolMessage       = "ChatCompletionRequestToolMessage"
)

// Requests is the document of what OpenAI's API takes.
type Requests struct{ *document }

// More are fields that a server takes besides, with their schemas.
type More struct {
	Body      map[string]string // of chats and completions
	Chat      map[string]string
	Assistant map[string]string // of an assistant's message
	Tool      map[string]string // of a tool's
}

var requestDifferences = []difference{
	// These are bounds of OpenAI's own service. Nobody who serves other models has them.
	{ChatRequest + "/properties/temperature", `{"type":"number","minimum":0}`},
	{CompletionRequest + "/properties/temperature", `{"type":"number","minimum":0}`},
	{CompletionRequest + "/properties/logprobs", `{"type":"integer","minimum":0,"maximum":20}`},
	// The document says in words that a bias is a number.
	{ChatRequest + "/properties/logit_bias/additionalProperties", `{"type":"number","minimum":-100,"maximum":100}`},
	{CompletionRequest + "/properties/logit_bias/additionalProperties", `{"type":"number","minimum":-100,"maximum":100}`},
}

// LoadRequests reads the document, and adds what a server takes besides.
func LoadRequests(more More) (*Requests, error) {
	differences := slices.Clone(requestDifferences)
	for schema, fields := range map[string][]map[string]string{
		ChatRequest: {more.Body, more.Chat}, CompletionRequest: {more.Body}, assistantMessage: {more.Assistant}, toolMessage: {more.Tool},
	} {
		for _, of := range fields {
			for _, name := range slices.Sorted(maps.Keys(of)) {
				differences = append(differences, difference{schema + "/properties/" + name, of[name]})
			}
		}
	}
	d, err := load(dialects.OpenAIRequests, differences)
	if err != nil {
		return nil, fmt.Errorf("the document of OpenAI's requests: %w", err)
	}
	return &Requests{d}, nil
}

// Shape holds a value against a schema that no document has.
func Shape(schema string) (func(text []byte) error, error) {
	d, err := load([]byte(`{"components":{"schemas":{"It":`+schema+`}}}`), nil)
	if err != nil {
		return nil, err
	}
	return func(text []byte) error {
		if !json.Valid(text) {
			return fmt.Errorf("%q is no JSON", text)
		}
		return d.Fits("It", text)
	}, nil
}
