// SPDX-License-Identifier: GPL-3.0-or-later

// Package dialect holds what the fronts send against the documents of their dialects' owners (LO-419).
package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/llama-orch/llama-orch/contracts/openai"
)

// OpenAI is the document of OpenAI's API, closed: an object has no field but those that the document names.
type OpenAI struct{ schemas map[string]*jsonschema.Schema }

// difference is where the front differs on purpose, or where the document is not true of OpenAI's own API. The schema at that place is
// put in the document. .docs/fronts.md tells users of those that they can see.
type difference struct{ at, schema string }

var differences = []difference{
	// Thinking has no place in the document's chats. llama-server, vLLM and clients have it here.
	{"ChatCompletionResponseMessage/properties/reasoning_content", `{"type":"string"}`},
	{"ChatCompletionStreamResponseDelta/properties/reasoning_content", `{"type":"string"}`},
	// Clients want to know how much they may send.
	{"Model/properties/context_length", `{"type":"integer"}`},
	// The document forgets that encoding_format may ask for base64.
	{"Embedding/properties/embedding", `{"anyOf":[{"type":"array","items":{"type":"number"}},{"type":"string"}]}`},
	// OpenAI's API sends this code, and its clients look for it.
	{"ResponseError/anyOf/0/properties/code", `{"anyOf":[{"$ref":"#/components/schemas/ResponseErrorCode"},{"const":"context_length_exceeded"}]}`},
	// The document has no chunks of completions, and says that they look like whole ones. The reason of all but the last is null.
	{"CreateCompletionResponse/properties/choices/items/properties/finish_reason", `{"enum":["stop","length",null]}`},
	{"CreateCompletionResponse/properties/usage", `{"anyOf":[{"$ref":"#/components/schemas/CompletionUsage"},{"type":"null"}]}`},
	// OpenAI's API sends it while nothing else happens. Clients wait for an event, and take no comment for one.
	{"KeepAlive", `{"type":"object","properties":{"type":{"const":"keepalive"},"sequence_number":{"type":"integer"}},"required":["type","sequence_number"]}`},
	// OpenAI has no rerank. This is Jina's and Cohere's, as llama-server has it.
	{"Rerank", `{"type":"object","required":["id","object","model","results","usage"],"properties":{
		"id":{"type":"string"},"object":{"const":"list"},"model":{"type":"string"},
		"results":{"type":"array","items":{"type":"object","required":["index","relevance_score"],"properties":{
			"index":{"type":"integer"},"relevance_score":{"type":"number"},"document":{"type":"object","required":["text"],"properties":{"text":{"type":"string"}}}}}},
		"usage":{"type":"object","required":["prompt_tokens","total_tokens"],"properties":{"prompt_tokens":{"type":"integer"},"total_tokens":{"type":"integer"}}}}}`},
}

// answers names the schema of each path's answer.
var answers = map[string]string{
	"/v1/chat/completions": "CreateChatCompletionResponse", "/v1/completions": "CreateCompletionResponse",
	"/v1/embeddings": "CreateEmbeddingResponse", "/v1/models": "ListModelsResponse",
	"/v1/responses": "Response", "/v1/rerank": "Rerank", "/v1/reranking": "Rerank",
}

// chunks names the schema of the chunks of each path that has them.
var chunks = map[string]string{"/v1/chat/completions": "CreateChatCompletionStreamResponse", "/v1/completions": "CreateCompletionResponse"}

// events names the schema of each event of a response.
var events = map[string]string{
	"response.created": "ResponseCreatedEvent", "response.in_progress": "ResponseInProgressEvent",
	"response.output_item.added": "ResponseOutputItemAddedEvent", "response.output_item.done": "ResponseOutputItemDoneEvent",
	"response.content_part.added": "ResponseContentPartAddedEvent", "response.content_part.done": "ResponseContentPartDoneEvent",
	"response.output_text.delta": "ResponseTextDeltaEvent", "response.output_text.done": "ResponseTextDoneEvent",
	"response.reasoning_text.delta": "ResponseReasoningTextDeltaEvent", "response.reasoning_text.done": "ResponseReasoningTextDoneEvent",
	"response.function_call_arguments.delta": "ResponseFunctionCallArgumentsDeltaEvent",
	"response.function_call_arguments.done":  "ResponseFunctionCallArgumentsDoneEvent",
	"response.completed":                     "ResponseCompletedEvent", "response.incomplete": "ResponseIncompleteEvent",
	"response.failed": "ResponseFailedEvent", "error": "ResponseErrorEvent", "keepalive": "KeepAlive",
}

// LoadOpenAI reads the document.
func LoadOpenAI() (*OpenAI, error) {
	var root map[string]any
	if err := json.Unmarshal(openai.Document, &root); err != nil {
		return nil, fmt.Errorf("read OpenAI's document: %w", err)
	}
	components, _ := root["components"].(map[string]any)
	schemas, ok := components["schemas"].(map[string]any)
	if !ok {
		return nil, errors.New("OpenAI's document has no schemas")
	}
	for _, d := range differences {
		if err := put(schemas, d); err != nil {
			return nil, err
		}
	}
	for name, s := range schemas {
		schemas[name] = closed(merged(s, schemas))
	}
	return compile(root, schemas)
}

func compile(root, schemas map[string]any) (*OpenAI, error) {
	text, err := json.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("write OpenAI's document: %w", err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read OpenAI's document again: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("openai.json", doc); err != nil {
		return nil, fmt.Errorf("take OpenAI's document: %w", err)
	}
	d := &OpenAI{schemas: map[string]*jsonschema.Schema{}}
	for name := range schemas {
		if d.schemas[name], err = c.Compile("openai.json#/components/schemas/" + name); err != nil {
			return nil, fmt.Errorf("compile the schema %s: %w", name, err)
		}
	}
	return d, nil
}

// put puts a difference in its place. What it hangs on must be there.
func put(schemas map[string]any, d difference) error {
	var schema any
	if err := json.Unmarshal([]byte(d.schema), &schema); err != nil {
		return fmt.Errorf("read the difference at %s: %w", d.at, err)
	}
	steps := strings.Split(d.at, "/")
	last := len(steps) - 1
	var at any = schemas
	for _, step := range steps[:last] {
		switch in := at.(type) {
		case map[string]any:
			at = in[step]
		case []any:
			n, err := strconv.Atoi(step)
			if err != nil || n < 0 || n >= len(in) {
				return fmt.Errorf("the document has no place %s", d.at)
			}
			at = in[n]
		}
	}
	in, ok := at.(map[string]any)
	if !ok {
		return fmt.Errorf("the document has no place %s", d.at)
	}
	in[steps[last]] = schema
	return nil
}

// merged makes one object of those that an allOf joins: only one object can be closed.
func merged(s any, schemas map[string]any) any {
	of, _ := s.(map[string]any)
	all, ok := of["allOf"].([]any)
	if !ok {
		return s
	}
	properties, required := map[string]any{}, []any{}
	for _, one := range all {
		part, _ := one.(map[string]any)
		if ref, ok := part["$ref"].(string); ok {
			part, _ = schemas[ref[strings.LastIndex(ref, "/")+1:]].(map[string]any)
		}
		more, _ := part["properties"].(map[string]any)
		maps.Copy(properties, more)
		names, _ := part["required"].([]any)
		required = append(required, names...)
	}
	return map[string]any{"type": "object", "properties": properties, "required": required}
}

// closed forbids fields that the document does not name, and says in JSON schema's words what may be null.
func closed(v any) any {
	switch s := v.(type) {
	case []any:
		for i := range s {
			s[i] = closed(s[i])
		}
	case map[string]any:
		for k := range s {
			s[k] = closed(s[k])
		}
		if _, said := s["additionalProperties"]; !said && s["properties"] != nil {
			s["additionalProperties"] = false
		}
		if s["nullable"] == true {
			delete(s, "nullable")
			return map[string]any{"anyOf": []any{s, map[string]any{"type": "null"}}}
		}
	}
	return v
}

// Fits holds JSON against the schema of that name.
func (d *OpenAI) Fits(name string, text []byte) error {
	schema := d.schemas[name]
	if schema == nil {
		return fmt.Errorf("the document has no schema %q", name)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("%q is no JSON: %w", text, err)
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return nil
}

// Check holds a whole body against the document: an answer, a refusal, or a stream.
func (d *OpenAI) Check(path string, status int, contentType string, body []byte) error {
	path = strings.TrimSuffix(path, "/")
	if status != http.StatusOK {
		return d.Fits("ErrorResponse", body)
	}
	if strings.HasPrefix(contentType, "text/event-stream") {
		return d.stream(path, string(body))
	}
	schema, ok := answers[path]
	if !ok && strings.HasPrefix(path, "/v1/models/") {
		schema = "Model"
	}
	return d.Fits(schema, body)
}

// stream holds the events of a stream against the document. What stands behind the last empty line was cut off.
func (d *OpenAI) stream(path, body string) error {
	sequence := 0
	for frame := range strings.SplitSeq(body[:strings.LastIndex(body, "\n\n")+2], "\n\n") {
		name, data := "", ""
		for line := range strings.SplitSeq(frame, "\n") {
			if v, ok := strings.CutPrefix(line, "event: "); ok {
				name = v
			}
			if v, ok := strings.CutPrefix(line, "data: "); ok {
				data += v
			}
		}
		if data == "" || data == "[DONE]" {
			continue
		}
		var is struct {
			Type     string          `json:"type"`
			Sequence *int            `json:"sequence_number"`
			Error    json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal([]byte(data), &is); err != nil {
			return fmt.Errorf("the event %q: %w", data, err)
		}
		schema, chunked := chunks[path]
		switch {
		case chunked && is.Error != nil:
			schema = "ErrorResponse"
		case !chunked:
			if schema = events[is.Type]; schema == "" || is.Type != name {
				return fmt.Errorf("the event %q has the name %q, and the document none of that type", data, name)
			}
			if is.Sequence == nil || *is.Sequence != sequence {
				return fmt.Errorf("the event %q is not number %d", data, sequence)
			}
			sequence++
		}
		if err := d.Fits(schema, []byte(data)); err != nil {
			return err
		}
	}
	return nil
}
