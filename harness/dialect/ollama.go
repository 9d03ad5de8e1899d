// SPDX-License-Identifier: GPL-3.0-or-later

package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/llama-orch/llama-orch/contracts/dialects"
)

// Ollama is the document of Ollama's API. It requires no field of any answer, so what clients cannot do without is required here.
type Ollama struct{ *document }

var ollamaDifferences = []difference{
	{"ChatResponse/required", `["model","created_at","message","done","done_reason"]`},
	{"ChatResponse/properties/message/required", `["role","content"]`},
	{"ChatStreamEvent/required", `["model","created_at","message","done"]`},
	{"ChatStreamEvent/properties/message/required", `["role","content"]`},
	{"GenerateResponse/required", `["model","created_at","response","done","done_reason"]`},
	{"GenerateStreamEvent/required", `["model","created_at","response","done"]`},
	{"ToolCall/required", `["function"]`},
	{"ToolCall/properties/function/required", `["name","arguments"]`},
	{"EmbedResponse/required", `["model","embeddings"]`},
	{"ListResponse/required", `["models"]`},
	{"ModelSummary/required", `["name","model","modified_at","size","digest","details"]`},
	{"PsResponse/required", `["models"]`},
	{"Ps/required", `["name","model","size","digest","details","expires_at","size_vram","context_length"]`},
	{"ShowResponse/required", `["details","model_info","capabilities","modified_at"]`},
	{"StatusEvent/required", `["status"]`},
	{"StatusResponse/required", `["status"]`},
	{"VersionResponse/required", `["version"]`},
	{"ErrorResponse/required", `["error"]`},
	// Ollama's API sends these, and its clients have them in their types. The document forgets them.
	{"ToolCall/properties/id", `{"type":"string"}`},
	{"ToolCall/properties/function/properties/index", `{"type":"integer"}`},
	{"ModelSummary/properties/details/properties/parent_model", `{"type":"string"}`},
	{"ChatStreamEvent/properties/logprobs", `{"type":"array","items":{"$ref":"#/components/schemas/Logprob"}}`},
	{"GenerateStreamEvent/properties/logprobs", `{"type":"array","items":{"$ref":"#/components/schemas/Logprob"}}`},
	{"Logprob/required", `["token","logprob","bytes","top_logprobs"]`},
	{"ChatEnd", `{"allOf":[{"$ref":"#/components/schemas/ChatResponse"},` + streamEnd + `]}`},
	{"GenerateEnd", `{"allOf":[{"$ref":"#/components/schemas/GenerateResponse"},` + streamEnd + `]}`},
	// The older /api/embeddings is no longer in the document.
	{"EmbeddingResponse", `{"type":"object","required":["embedding"],"properties":{"embedding":{"type":"array","items":{"type":"number"}}}}`},
}

// streamEnd is what the last line of a stream has besides: its counts and times, and the receipt, which is ours.
const streamEnd = `{"required":["total_duration","load_duration","prompt_eval_count","prompt_eval_duration","eval_count","eval_duration","receipt"],
	"properties":{"receipt":{"type":"object","additionalProperties":{"type":"string"}}}}`

// ollamaAnswers names the schema of each path's answer, and of the lines of a stream: all but the last, and the last one.
var ollamaAnswers = map[string]struct{ whole, line, end string }{
	"/api/chat":       {"ChatResponse", "ChatStreamEvent", "ChatEnd"},
	"/api/generate":   {"GenerateResponse", "GenerateStreamEvent", "GenerateEnd"},
	"/api/pull":       {"StatusResponse", "StatusEvent", "StatusEvent"},
	"/api/embed":      {whole: "EmbedResponse"},
	"/api/embeddings": {whole: "EmbeddingResponse"},
	"/api/tags":       {whole: "ListResponse"},
	"/api/ps":         {whole: "PsResponse"},
	"/api/show":       {whole: "ShowResponse"},
	"/api/version":    {whole: "VersionResponse"},
}

// LoadOllama reads the document.
func LoadOllama() (*Ollama, error) {
	d, err := load(dialects.Ollama, ollamaDifferences)
	if err != nil {
		return nil, fmt.Errorf("the document of Ollama: %w", err)
	}
	return &Ollama{d}, nil
}

// Check holds a whole body against the document: an answer, a refusal, or a stream.
func (d *Ollama) Check(path string, status int, contentType string, body []byte) error {
	path = strings.TrimSuffix(path, "/")
	switch {
	case status != http.StatusOK:
		return d.Fits("ErrorResponse", body)
	case path == "" && string(body) == "Ollama is running", path == "/api/delete" && len(body) == 0:
		return nil
	case contentType == lineStream:
		return d.lines(path, body)
	default:
		return d.Fits(ollamaAnswers[path].whole, body)
	}
}

// lines holds the lines of a stream against the document. What stands behind the last line feed was cut off.
func (d *Ollama) lines(path string, body []byte) error {
	schemas, ended := ollamaAnswers[path], false
	for line := range bytes.Lines(body[:bytes.LastIndexByte(body, '\n')+1]) {
		var is struct {
			Done  bool            `json:"done"`
			Error json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(line, &is); err != nil {
			return fmt.Errorf("the line %q: %w", line, err)
		}
		if ended {
			return errors.New("lines follow the last one")
		}
		schema := schemas.line
		switch {
		case is.Error != nil:
			schema, ended = "ErrorResponse", true
		case is.Done:
			schema, ended = schemas.end, true
		}
		if err := d.Fits(schema, line); err != nil {
			return err
		}
	}
	return nil
}
