// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"maps"

	"github.com/llama-orch/llama-orch/harness/conformance/fault"
	"github.com/llama-orch/llama-orch/harness/dialect"
)

// flavour is how one server differs from the others.
type flavour struct {
	owner     string
	more      dialect.More
	reasoning string // the field of the thinking
	late      bool   // the usage comes with the reason for the end, and not behind it
	noUsage   bool   // it tells none
	noDone    bool   // it does not end with [DONE]
	short     bool   // a completion without max_tokens has 16
	refuses   bool   // more tokens than fit are refused, and not cut
	stopsAs   string // the reason for the end of an answer that calls tools; empty: tool_calls
	error     func(status int, message string) map[string]any
	rerank    bool
	counts    bool // POST /tokenize
	health    string
}

const (
	number = `{"type":"number"}`
	whole  = `{"type":"integer"}`
	text   = `{"type":"string"}`
	object = `{"type":"object"}`
)

// openAIError is the form of errors that the document has.
func openAIError(status int, message string) map[string]any {
	kind := "server_error"
	if status < 500 {
		kind = "invalid_request_error"
	}
	return map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": nil}}
}

// codedError has the status as its code, as vLLM, SGLang and llama-server have it.
func codedError(status int, message string) map[string]any {
	return map[string]any{"error": map[string]any{"message": message, "type": "BadRequestError", "param": nil, "code": status}}
}

// samplers are what vLLM and SGLang document beyond OpenAI.
var samplers = map[string]string{
	"top_k": `{"type":"integer","minimum":-1}`, "min_p": `{"type":"number","minimum":0,"maximum":1}`,
	"repetition_penalty": `{"type":"number","exclusiveMinimum":0}`,
}

func and(a map[string]string, name, schema string) map[string]string {
	b := maps.Clone(a)
	b[name] = schema
	return b
}

// flavours are the servers that this one can be.
var flavours = map[string]flavour{
	"vllm": {
		owner: "vllm", reasoning: "reasoning", short: true, refuses: true, error: codedError, rerank: true, counts: true, health: "/health",
		more: dialect.More{
			Body:      and(samplers, "structured_outputs", `{"type":"object","required":["grammar"],"properties":{"grammar":{"type":"string","minLength":1}}}`),
			Chat:      map[string]string{"chat_template_kwargs": object},
			Assistant: map[string]string{"reasoning": text},
		},
	},
	"sglang": {
		owner: "sglang", reasoning: "reasoning_content", short: true, refuses: true, error: codedError, counts: true, health: "/health",
		more: dialect.More{
			Body: and(samplers, "ebnf", text), Chat: map[string]string{"chat_template_kwargs": object}, Assistant: map[string]string{"reasoning_content": text},
		},
	},
	"ollama": {
		owner: "library", reasoning: "reasoning", stopsAs: "stop", error: openAIError, health: "/api/version",
		more: dialect.More{Assistant: map[string]string{"reasoning": text}},
	},
	"lmstudio": {
		owner: "organization_owner", reasoning: "reasoning_content", late: true, short: true, error: openAIError,
		more: dialect.More{Body: map[string]string{"top_k": whole, "repeat_penalty": number}},
	},
	"llama-server": {
		owner: "llamacpp", reasoning: "reasoning_content", error: codedError, rerank: true, health: "/health",
		more: dialect.More{
			Body: map[string]string{"top_k": whole, "min_p": number, "repeat_penalty": number, "grammar": text},
			Chat: map[string]string{"chat_template_kwargs": object}, Assistant: map[string]string{"reasoning_content": text},
			Tool: map[string]string{"name": text},
		},
	},
	"unknown": {owner: "somebody", short: true, error: openAIError},
	// bare is one more that nobody knows: it tells no usage, and ends without [DONE].
	"bare": {owner: "somebody", noUsage: true, noDone: true, short: true, error: openAIError},
}

// Names are the servers that this one can be.
func Names() []string {
	return []string{"vllm", "sglang", "ollama", "lmstudio", "llama-server", "unknown", "bare"}
}

// Shape is how these servers stream.
var Shape = fault.Shape{Streams: streams, Says: says, Ends: ends, Error: func(status int, message string) string {
	return encode(codedError(status, message))
}}
