// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"encoding/json"
	"fmt"
	"strings"
)

// The kinds of requests that clients of fronts send.
const (
	chat     = "chat"
	message  = "message" // Anthropic's
	response = "response"
)

// dialect says where a kind of request is sent, and how its answers are read.
type dialect struct {
	path  string
	event func(name string, data []byte, to *said) error // of a stream
	whole func(data []byte, to *said) error              // an answer as a whole, or an error in its place
}

var dialects = map[string]dialect{
	chat:     {"/v1/chat/completions", chatChunk, chatAnswer},
	message:  {"/v1/messages", messageEvent, messageAnswer},
	response: {"/v1/responses", responseEvent, responseAnswer},
}

// said is what an answer says, whatever its dialect.
type said struct {
	text  string
	parts string // of a response's stream: the pieces of its text that came
	done  bool   // it says that it is whole
	fault *told  // the error that it says
	sum   string // the SHA-256 of the text, by the receipt
	after bool   // something stands behind its end
	wrong error  // why it is not of its dialect
}

// told is an error as a client is told it.
type told struct {
	Message string `json:"message"`
	Type    string `json:"type"`
	Code    string `json:"code"`
	again   bool   // the request may be sent again, by the words that clients look for
}

// read reads the frames of a stream.
func (d dialect) read(frames []string) (s said) {
	for _, frame := range frames {
		if strings.HasPrefix(frame, ":") {
			s.proves(frame)
			continue
		}
		name, data, ok := parts(frame)
		if !ok {
			s.wrong = fmt.Errorf("a frame is %q", frame)
			return s
		}
		s.after = s.after || s.done || s.fault != nil
		if err := d.event(name, []byte(data), &s); err != nil {
			s.wrong = fmt.Errorf("in %q: %w", frame, err)
			return s
		}
	}
	return s
}

// proves reads a receipt.
func (s *said) proves(receipt string) {
	for word := range strings.FieldsSeq(receipt) {
		if sum, is := strings.CutPrefix(word, "Transcript-Sha256="); is {
			s.sum = sum
		}
	}
}

// parts are the name and the data of a frame, which has both in this order, or the data alone.
func parts(frame string) (name, data string, ok bool) {
	body, ended := strings.CutSuffix(frame, "\n\n")
	if rest, named := strings.CutPrefix(body, "event: "); named {
		name, body, _ = strings.Cut(rest, "\n")
	}
	data, ok = strings.CutPrefix(body, "data: ")
	return name, data, ok && ended && !strings.Contains(data, "\n")
}

// readWhole reads an answer that was sent as a whole.
func (d dialect) readWhole(body string) (s said) {
	if err := d.whole([]byte(body), &s); err != nil {
		s.wrong = fmt.Errorf("in %q: %w", body, err)
	}
	return s
}

func into(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("it is no such JSON: %w", err)
	}
	return nil
}

// openAIs takes an error of OpenAI's dialect.
func openAIs(e *told, to *said) error {
	if e.Message == "" || e.Type == "" || e.Code == "" {
		return fmt.Errorf("the error %+v lacks a message, a type or a code", *e)
	}
	e.again = strings.Contains(e.Message, "overloaded")
	to.fault = e
	return nil
}

func chatChunk(name string, data []byte, to *said) error {
	if string(data) == "[DONE]" {
		to.done = true
		return nil
	}
	var c struct {
		Object  string `json:"object"`
		Choices []struct {
			Delta struct {
				Content string `json:"content"`
			} `json:"delta"`
		} `json:"choices"`
		Error *told `json:"error"`
	}
	if err := into(data, &c); err != nil {
		return err
	}
	switch {
	case c.Error != nil:
		return openAIs(c.Error, to)
	case name != "" || c.Object != "chat.completion.chunk" || len(c.Choices) != 1:
		return fmt.Errorf("it is no chunk of a chat, with one choice")
	}
	to.text += c.Choices[0].Delta.Content
	return nil
}

func chatAnswer(data []byte, to *said) error {
	var c struct {
		Choices []struct {
			Message struct {
				Content string `json:"content"`
			} `json:"message"`
			Finish string `json:"finish_reason"`
		} `json:"choices"`
		Error *told `json:"error"`
	}
	if err := into(data, &c); err != nil {
		return err
	}
	switch {
	case c.Error != nil:
		return openAIs(c.Error, to)
	case len(c.Choices) != 1 || c.Choices[0].Finish == "":
		return fmt.Errorf("it has not one choice with a finish reason")
	}
	to.text, to.done = c.Choices[0].Message.Content, true
	return nil
}

// anthropics is an answer, an event or an error of Anthropic's dialect.
type anthropics struct {
	Type  string `json:"type"`
	Delta struct {
		Text string `json:"text"`
	} `json:"delta"`
	Content []struct {
		Text string `json:"text"`
	} `json:"content"`
	Stop      string `json:"stop_reason"`
	Error     *told  `json:"error"`
	RequestID string `json:"request_id"`
}

func (a anthropics) failed(to *said) error {
	if a.Error == nil || a.Error.Message == "" || a.Error.Type == "" || a.RequestID == "" {
		return fmt.Errorf("the error lacks a message, a type or the request's id")
	}
	a.Error.again = a.Error.Type == "overloaded_error"
	to.fault = a.Error
	return nil
}

func messageEvent(name string, data []byte, to *said) error {
	var a anthropics
	if err := into(data, &a); err != nil {
		return err
	}
	switch {
	case name != a.Type:
		return fmt.Errorf("the event is %q, and its type %q", name, a.Type)
	case name == "error":
		return a.failed(to)
	case name == "content_block_delta":
		to.text += a.Delta.Text
	case name == "message_stop":
		to.done = true
	}
	return nil
}

func messageAnswer(data []byte, to *said) error {
	var a anthropics
	if err := into(data, &a); err != nil {
		return err
	}
	switch {
	case a.Type == "error":
		return a.failed(to)
	case a.Type != "message" || a.Stop == "":
		return fmt.Errorf("it is no message with a stop reason")
	}
	for _, c := range a.Content {
		to.text += c.Text
	}
	to.done = true
	return nil
}

// The states of a response.
const (
	statusQueued     = "queued"
	statusInProgress = "in_progress"
	statusCompleted  = "completed"
	statusIncomplete = "incomplete"
	statusFailed     = "failed"
	statusCancelled  = "cancelled"
)

// responseView is what is judged of a response.
type responseView struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Output []struct {
		Content []struct {
			Text string `json:"text"`
		} `json:"content"`
	} `json:"output"`
	Error *told `json:"error"`
}

// over reports whether a response has ended.
func (v responseView) over() bool { return v.Status != statusQueued && v.Status != statusInProgress }

func (v responseView) text() (text string) {
	for _, item := range v.Output {
		for _, part := range item.Content {
			text += part.Text
		}
	}
	return text
}

func (v responseView) take(to *said) error {
	switch v.Status {
	case statusCompleted, statusIncomplete:
		to.text, to.done = v.text(), true
	case statusFailed:
		if v.Error == nil || v.Error.Message == "" || v.Error.Code == "" {
			return fmt.Errorf("it failed without an error with a message and a code")
		}
		v.Error.again = strings.Contains(v.Error.Message, "overloaded")
		to.fault = v.Error
	case statusCancelled:
		to.fault = &told{Code: statusCancelled}
	default:
		to.text = v.text()
	}
	return nil
}

// numbered is what every event of a response has.
type numbered struct {
	Type     string          `json:"type"`
	Number   *int            `json:"sequence_number"`
	Delta    string          `json:"delta"`
	Response json.RawMessage `json:"response"`
	told
}

// tooFar is the error of a reader who holds more events than a response came to.
const tooFar = "starting_after"

func responseEvent(name string, data []byte, to *said) error {
	var e numbered
	if err := into(data, &e); err != nil {
		return err
	}
	if e.Type != name || e.Number == nil {
		return fmt.Errorf("the event is %q, its type %q, and it needs a number", name, e.Type)
	}
	switch name {
	case "response.output_text.delta":
		to.text += e.Delta
		to.parts += e.Delta
	case "response.completed", "response.incomplete", "response.failed":
		var v responseView
		if err := into(e.Response, &v); err != nil {
			return err
		}
		return v.take(to)
	case "error":
		to.fault = &told{Code: tooFar, Message: e.told.Message}
	}
	return nil
}

func responseAnswer(data []byte, to *said) error {
	var v struct {
		responseView
		Object string `json:"object"`
	}
	if err := into(data, &v); err != nil {
		return err
	}
	if v.Object == "" && v.Error != nil {
		return openAIs(v.Error, to)
	}
	return v.take(to)
}
