// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/llama-orch/llama-orch/internal/plainjson"
)

// Content is what a message says: a text, or parts. With parts, Text is empty.
type Content struct {
	Text  string
	Parts []Part
}

// MarshalJSON gives a string, or the list of the parts.
func (c Content) MarshalJSON() ([]byte, error) {
	if c.Parts != nil {
		return plainjson.Encode(c.Parts)
	}
	return plainjson.Encode(c.Text)
}

// UnmarshalJSON reads a string, or a list of parts.
func (c *Content) UnmarshalJSON(text []byte) error {
	*c = Content{}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) {
		return json.Unmarshal(text, &c.Parts)
	}
	return json.Unmarshal(text, &c.Text)
}

// MarshalJSON leaves the content out only where a message calls tools: everywhere else an empty one is an empty text.
func (m Message) MarshalJSON() ([]byte, error) {
	type bare Message
	if m.Content.Text != "" || m.Content.Parts != nil || len(m.ToolCalls) > 0 {
		return plainjson.Encode(bare(m))
	}
	return plainjson.Encode(struct {
		bare
		Content string `json:"content"`
	}{bare: bare(m)})
}

// Say is a message of text.
func Say(role Role, text string) Message { return Message{Role: role, Content: Content{Text: text}} }

// Show is a message of a text and images, each the bytes of a PNG, JPEG, WebP or GIF file.
func Show(role Role, text string, images ...[]byte) (Message, error) {
	var parts []Part
	if text != "" {
		parts = append(parts, Part{Type: PartTypeText, Text: text})
	}
	for i, file := range images {
		kind := MediaType(http.DetectContentType(file))
		if !slices.Contains([]MediaType{MediaTypeImagePNG, MediaTypeImageJPEG, MediaTypeImageWebp, MediaTypeImageGIF}, kind) {
			return Message{}, fmt.Errorf("image %d of a message is %s: give a PNG, JPEG, WebP or GIF file", i, kind)
		}
		parts = append(parts, image(kind, file))
	}
	return Message{Role: role, Content: Content{Parts: parts}}, nil
}

// Result is the message that answers a call of a tool.
func Result(callID, text string) Message {
	return Message{Role: RoleTool, Content: Content{Text: text}, ToolCallID: callID}
}

// Said is the message for the next turn that holds what the model answered: its text, its thinking and its calls.
func Said(text, reasoning string, calls []Call) Message {
	return Message{Role: RoleAssistant, Content: Content{Text: text}, Reasoning: reasoning, ToolCalls: calls}
}

func image(kind MediaType, file []byte) Part {
	return Part{Type: PartTypeImage, MediaType: kind, Data: base64.StdEncoding.EncodeToString(file)}
}
