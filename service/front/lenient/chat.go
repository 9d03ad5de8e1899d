// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// Request is a task of the dialects, before anything is read into it.
func Request(model string, w task.Workload) task.Request {
	return task.Request{
		ModelRef: model, Workload: w, Priority: task.Interactive, AtMost: w == task.Completion, Placement: task.Placement{Mode: task.Auto},
		OutputMode: "text",
	}
}

// NoModel refuses a request that names no model. List is the path that lists them.
func NoModel(list string) error {
	return Bad("model", "name the model that is to answer: %s lists them", list)
}

// Missing reports whether a value is not there. Null is the same.
func Missing(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || string(raw) == "null"
}

// BetweenSystems stands between the messages that OneSystem merges.
const BetweenSystems = "\n\n"

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
	out[0] = task.Message{Role: task.RoleSystem, Content: strings.Join(system, BetweenSystems)}
	return out
}

// Schema is a JSON schema: an object. Null and nothing are none.
func Schema(param string, raw json.RawMessage) (json.RawMessage, error) {
	if Missing(raw) {
		return nil, nil
	}
	if raw = bytes.TrimSpace(raw); raw[0] != '{' {
		return nil, Bad(param, "a JSON schema is a JSON object")
	}
	return raw, nil
}

// Tool is a function that the model may call. Param names it, and schema its field for the parameters.
func Tool(param, name, description, schema string, parameters json.RawMessage) (task.Tool, error) {
	if name == "" {
		return task.Tool{}, Bad(param+".name", "a tool needs a name")
	}
	parameters, err := Schema(param+"."+schema, parameters)
	return task.Tool{Name: name, Description: description, Parameters: parameters}, err
}

// Arguments are those of a call that must be a JSON object, as a text. Missing ones are an empty object.
func Arguments(param string, raw json.RawMessage) (string, error) {
	if Missing(raw) {
		return "{}", nil
	}
	var compact bytes.Buffer
	if bytes.TrimSpace(raw)[0] != '{' || json.Compact(&compact, raw) != nil {
		return "", Bad(param, "it must be a JSON object")
	}
	return compact.String(), nil
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
