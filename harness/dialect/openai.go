// SPDX-License-Identifier: GPL-3.0-or-later

package dialect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/llama-orch/llama-orch/contracts/dialects"
)

// OpenAI is the document of OpenAI's API.
type OpenAI struct{ *document }

var openAIDifferences = []difference{
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
	// OpenAI's API sends it while nothing else happens. Clients wait for an event, and take no comment for one. Here it repeats the number of the
	// event before it.
	{"KeepAlive", `{"type":"object","properties":{"type":{"const":"keepalive"},"sequence_number":{"type":"integer"}},"required":["type","sequence_number"]}`},
	// The document has no schema of this answer, but an example.
	{"DeletedResponse", `{"type":"object","required":["id","object","deleted"],"properties":{"id":{"type":"string"},"object":{"const":"response"},"deleted":{"const":true}}}`},
	// OpenAI has no rerank. This is Jina's and Cohere's, as llama-server has it.
	{"Rerank", `{"type":"object","required":["id","object","model","results","usage"],"properties":{
		"id":{"type":"string"},"object":{"const":"list"},"model":{"type":"string"},
		"results":{"type":"array","items":{"type":"object","required":["index","relevance_score"],"properties":{
			"index":{"type":"integer"},"relevance_score":{"type":"number"},"document":{"type":"object","required":["text"],"properties":{"text":{"type":"string"}}}}}},
		"usage":{"type":"object","required":["prompt_tokens","total_tokens"],"properties":{"prompt_tokens":{"type":"integer"},"total_tokens":{"type":"integer"}}}}}`},
}

// openAIAnswers names the schema of each path's answer.
var openAIAnswers = map[string]string{
	"/v1/chat/completions": "CreateChatCompletionResponse", "/v1/completions": "CreateCompletionResponse",
	"/v1/embeddings": "CreateEmbeddingResponse", "/v1/models": "ListModelsResponse",
	"/v1/responses": "Response", "/v1/rerank": "Rerank", "/v1/reranking": "Rerank",
}

// openAIChunks names the schema of the chunks of each path that has them.
var openAIChunks = map[string]string{"/v1/chat/completions": "CreateChatCompletionStreamResponse", "/v1/completions": "CreateCompletionResponse"}

const keepAlive = "keepalive"

// openAIEvents names the schema of each event of a response.
var openAIEvents = map[string]string{
	"response.created": "ResponseCreatedEvent", "response.queued": "ResponseQueuedEvent", "response.in_progress": "ResponseInProgressEvent",
	"response.output_item.added": "ResponseOutputItemAddedEvent", "response.output_item.done": "ResponseOutputItemDoneEvent",
	"response.content_part.added": "ResponseContentPartAddedEvent", "response.content_part.done": "ResponseContentPartDoneEvent",
	"response.output_text.delta": "ResponseTextDeltaEvent", "response.output_text.done": "ResponseTextDoneEvent",
	"response.reasoning_text.delta": "ResponseReasoningTextDeltaEvent", "response.reasoning_text.done": "ResponseReasoningTextDoneEvent",
	"response.function_call_arguments.delta": "ResponseFunctionCallArgumentsDeltaEvent",
	"response.function_call_arguments.done":  "ResponseFunctionCallArgumentsDoneEvent",
	"response.completed":                     "ResponseCompletedEvent", "response.incomplete": "ResponseIncompleteEvent",
	"response.failed": "ResponseFailedEvent", "error": "ResponseErrorEvent", keepAlive: "KeepAlive",
}

// LoadOpenAI reads the document.
func LoadOpenAI() (*OpenAI, error) {
	d, err := load(dialects.OpenAI, openAIDifferences)
	if err != nil {
		return nil, fmt.Errorf("the document of OpenAI: %w", err)
	}
	return &OpenAI{d}, nil
}

// Check holds a whole body against the document: an answer, a refusal, or a stream.
func (d *OpenAI) Check(path string, status int, contentType string, body []byte) error {
	path = strings.TrimSuffix(path, "/")
	if status != http.StatusOK {
		return d.Fits("ErrorResponse", body)
	}
	if strings.HasPrefix(contentType, eventStream) {
		return d.stream(path, string(body))
	}
	return d.Fits(openAIAnswer(path, body), body)
}

// openAIAnswer names the schema of an answer.
func openAIAnswer(path string, body []byte) string {
	_, later := strings.CutPrefix(path, laterPath)
	switch {
	case strings.HasPrefix(path, "/v1/models/"):
		return "Model"
	case later && strings.HasSuffix(path, "/input_items"):
		return "ResponseItemList"
	case later && bytes.Contains(body, []byte(`"deleted":`)):
		return "DeletedResponse"
	case later:
		return "Response"
	}
	return openAIAnswers[path]
}

// laterPath is where responses are found that were made before.
const laterPath = "/v1/responses/"

// stream holds the events of a stream against the document.
func (d *OpenAI) stream(path, body string) error {
	next := -1 // the number of the next event; -1: any
	if !strings.HasPrefix(path, laterPath) {
		next = 0
	}
	for name, data := range frames(body) {
		if data == "[DONE]" {
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
		schema, chunked := openAIChunks[path]
		switch {
		case chunked && is.Error != nil:
			schema = "ErrorResponse"
		case !chunked:
			if schema = openAIEvents[is.Type]; schema == "" || is.Type != name {
				return fmt.Errorf("the event %q has the name %q, and the document none of that type", data, name)
			}
			wanted := next
			if is.Type == keepAlive { // it repeats the number before it
				wanted = max(next-1, 0)
			}
			if is.Sequence == nil || next >= 0 && *is.Sequence != wanted {
				return fmt.Errorf("the event %q is not number %d", data, wanted)
			}
			if next < 0 || is.Type != keepAlive {
				next = *is.Sequence + 1
			}
		}
		if err := d.Fits(schema, []byte(data)); err != nil {
			return err
		}
	}
	return nil
}
