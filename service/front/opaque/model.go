// SPDX-License-Identifier: GPL-3.0-or-later

package opaque

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
)

// maxModel is how long a model's name may be.
const maxModel = 4096

// model is the model that a request names: in its body, as far as that was read, or else in its query. Empty: none.
func (in *window) model(r *http.Request) string {
	name := ""
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil:
	case kind == "application/json":
		name = modelOfJSON(in.data)
	case kind == "multipart/form-data":
		name = modelOfForm(in.data, params["boundary"])
	case kind == "application/x-www-form-urlencoded" && in.whole:
		if values, err := url.ParseQuery(string(in.data)); err == nil {
			name = values.Get("model")
		}
	}
	if name == "" {
		name = r.URL.Query().Get("model")
	}
	return name[:min(len(name), maxModel)]
}

// modelOfJSON is the text of the member `model` of an object, which may be cut off behind it. As in every JSON, the last one counts.
func modelOfJSON(data []byte) (name string) {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return ""
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return name
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return name
		}
		if key == "model" {
			name = ""
			_ = json.Unmarshal(value, &name) // what is no text names no model
		}
	}
	return name
}

// modelOfForm is the value of the field `model` of a form, which may be cut off behind it.
func modelOfForm(data []byte, boundary string) string {
	if boundary == "" {
		return ""
	}
	for form := multipart.NewReader(bytes.NewReader(data), boundary); ; {
		part, err := form.NextRawPart()
		if err != nil {
			return ""
		}
		if part.FormName() != "model" || part.FileName() != "" {
			continue
		}
		value, err := io.ReadAll(io.LimitReader(part, maxModel))
		if err != nil { // it is cut off
			return ""
		}
		return string(value)
	}
}
