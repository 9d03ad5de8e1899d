// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// Chat is a task of the dialects for a chat or a completion, before anything is read into it.
func Chat(model string) task.Request {
	return task.Request{
		ModelRef: model, Workload: task.Completion, Priority: task.Interactive, AtMost: true, Placement: task.Placement{Mode: task.Auto},
		OutputMode: "text",
	}
}

// OneSystem merges the system messages into one at the beginning: some templates take no other (LO-403).
func OneSystem(messages []task.Message) []task.Message {
	var system []string
	out := make([]task.Message, 1, len(messages)+1)
	for _, m := range messages {
		if m.Role == task.RoleSystem {
			system = append(system, m.Content)
		} else {
			out = append(out, m)
		}
	}
	if len(system) == 0 {
		return out[1:]
	}
	out[0] = task.Message{Role: task.RoleSystem, Content: strings.Join(system, "\n\n")}
	return out
}

// Schema is a JSON schema: an object. Null and nothing are none.
func Schema(param string, raw json.RawMessage) (json.RawMessage, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] != '{' {
		return nil, Bad(param, "a JSON schema is a JSON object")
	}
	return raw, nil
}

// DataImage is an image that a data URI holds, such as data:image/png;base64,….
func DataImage(param, uri string) (*task.Image, error) {
	rest, ok := strings.CutPrefix(uri, "data:")
	if !ok {
		return nil, Bad(param, "nothing is fetched from an address here: send the image itself, as data:image/png;base64,…")
	}
	head, data, ok := strings.Cut(rest, ",")
	mime, base64ed := strings.CutSuffix(head, ";base64")
	if !ok || !base64ed {
		return nil, Bad(param, "send the image as data:image/png;base64,…")
	}
	return Base64Image(param, mime, data)
}

// Base64Image is an image in base64.
func Base64Image(param, mime, data string) (*task.Image, error) {
	data = strings.TrimRight(data, "=")
	raw, err := base64.RawStdEncoding.DecodeString(data)
	if err != nil {
		if raw, err = base64.RawURLEncoding.DecodeString(data); err != nil {
			return nil, Bad(param, "the image is not valid base64: %s", err)
		}
	}
	if !strings.HasPrefix(mime, "image/") {
		return nil, Bad(param, "%q is no type of an image", task.Clip(mime, 40))
	}
	if mime == "image/jpg" { // many say so
		mime = "image/jpeg"
	}
	return &task.Image{MIME: mime, Data: raw}, nil
}
