// SPDX-License-Identifier: GPL-3.0-or-later

// Package plainjson writes JSON in which <, > and & stand as they are. What people, models and digests see is then what was meant.
package plainjson

import (
	"bytes"
	"encoding/json"
)

// Encode is json.Marshal without escapes for HTML.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), err
}
