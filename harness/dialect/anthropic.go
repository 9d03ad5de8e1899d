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

// Anthropic is what the types of Anthropic's SDK say of their API.
type Anthropic struct{ *document }

var anthropicDifferences = []difference{
	// The SDK's stream knows these, and its types have them not among the events.
	{"Ping", `{"type":"object","required":["type"],"properties":{"type":{"const":"ping"}}}`},
	// Anthropic's API sends it with 413. The SDK's types forget it.
	{"ErrorResponse/properties/error", `{"anyOf":[{"$ref":"#/components/schemas/ErrorObject"},{"$ref":"#/components/schemas/TooLarge"}]}`},
	{"TooLarge", `{"type":"object","required":["type","message"],"properties":{"type":{"const":"request_too_large"},"message":{"type":"string"}}}`},
	// The SDK looks for this code, which its types have as one of their own (ThreadUnsupportedRequestErrorDetails).
	{"InvalidRequestErrorObject/properties/details", `{"type":"object","required":["error_code"],"properties":{"error_code":{"const":"thread_unsupported_request"}}}`},
}

// anthropicAnswers names the type of each path's answer.
var anthropicAnswers = map[string]string{
	"/v1/messages": "Message", "/v1/messages/count_tokens": "MessageTokensCount", "/v1/models": "ModelPage",
}

// anthropicEvents names the type of each event.
var anthropicEvents = map[string]string{
	"message_start": "RawMessageStartEvent", "message_delta": "RawMessageDeltaEvent", "message_stop": "RawMessageStopEvent",
	"content_block_start": "RawContentBlockStartEvent", "content_block_delta": "RawContentBlockDeltaEvent", "content_block_stop": "RawContentBlockStopEvent",
	"ping": "Ping", "error": "ErrorResponse",
}

// LoadAnthropic reads the types.
func LoadAnthropic() (*Anthropic, error) {
	d, err := load(dialects.Anthropic, anthropicDifferences)
	if err != nil {
		return nil, fmt.Errorf("the types of Anthropic's SDK: %w", err)
	}
	return &Anthropic{d}, nil
}

// Check holds a whole body against the types: an answer, a refusal, or a stream.
func (d *Anthropic) Check(path string, status int, contentType string, body []byte) error {
	path = strings.TrimSuffix(path, "/")
	if status != http.StatusOK {
		return d.Fits("ErrorResponse", body)
	}
	if strings.HasPrefix(contentType, eventStream) {
		return d.stream(string(body))
	}
	schema, ok := anthropicAnswers[path]
	switch {
	case strings.HasPrefix(path, "/v1/messages/batches") && strings.HasSuffix(path, "/results"):
		return eachLine(body, func(line []byte) error { return d.Fits("MessageBatchIndividualResponse", line) })
	case path == "/v1/messages/batches":
		schema = "MessageBatch"
		if !bytes.Contains(body, []byte(`"type":"message_batch"`)) || bytes.HasPrefix(body, []byte(`{"data"`)) {
			schema = "MessageBatchPage"
		}
	case strings.HasPrefix(path, "/v1/messages/batches/"):
		schema = "MessageBatch"
		if bytes.Contains(body, []byte(`"message_batch_deleted"`)) {
			schema = "DeletedMessageBatch"
		}
	case !ok && strings.HasPrefix(path, "/v1/models/"):
		schema = "ModelInfo"
	}
	return d.Fits(schema, body)
}

// stream holds the events of a stream against the types, and their order against what the SDK takes: it puts the message together from
// blocks, each of which begins and ends, with numbers from 0.
func (d *Anthropic) stream(body string) error {
	var s blocks
	for name, data := range frames(body) {
		var is struct {
			Type  string `json:"type"`
			Index int    `json:"index"`
		}
		if err := json.Unmarshal([]byte(data), &is); err != nil {
			return fmt.Errorf("the event %q: %w", data, err)
		}
		if is.Type != name {
			return fmt.Errorf("the event %q has the name %q", data, name)
		}
		if is.Type != "ping" && is.Type != "error" { // which may come anywhere
			if err := s.follow(is.Type, is.Index); err != nil {
				return fmt.Errorf("the event %q: %w", data, err)
			}
		}
		if err := d.Fits(anthropicEvents[is.Type], []byte(data)); err != nil {
			return err
		}
	}
	return nil
}

// blocks is how far a message has come.
type blocks struct {
	begun, told, over bool
	open              []bool // by number
}

// follow takes an event, which must be one that can come now.
func (s *blocks) follow(kind string, index int) error {
	known := index >= 0 && index < len(s.open)
	switch {
	case s.over:
		return errors.New("it follows the end of the message")
	case !s.begun && kind != "message_start", s.begun && kind == "message_start":
		return errors.New("a message begins with one message_start")
	case kind == "content_block_start" && index != len(s.open):
		return fmt.Errorf("the next block is number %d", len(s.open))
	case kind == "content_block_delta" && !known, kind == "content_block_stop" && (!known || !s.open[index]):
		return errors.New("no such block is open")
	case kind == "message_stop" && !s.told:
		return errors.New("nothing said why the message ended")
	}
	switch kind {
	case "message_start":
		s.begun = true
	case "content_block_start":
		s.open = append(s.open, true)
	case "content_block_stop":
		s.open[index] = false
	case "message_delta":
		for n, open := range s.open {
			if open {
				return fmt.Errorf("block %d is still open", n)
			}
		}
		s.told = true
	case "message_stop":
		s.over = true
	}
	return nil
}
