// SPDX-License-Identifier: GPL-3.0-or-later

package tgi

import (
	"encoding/json"
	"strings"

	"github.com/llama-orch/llama-orch/harness/conformance/fault"
)

// Shape is what faults have to know of /generate_stream.
var Shape = fault.Shape{
	Streams: func(path string, _ []byte) bool { return strings.HasSuffix(path, "/generate_stream") },
	Says: func(data string) bool {
		return strings.Contains(data, `"token"`) && !strings.Contains(data, `"details":{`)
	},
	Ends: func(data string) bool { return strings.Contains(data, `"details":{`) },
	Error: func(_ int, text string) string {
		body, _ := json.Marshal(map[string]string{"error": text, "error_type": "generation"}) // texts always encode
		return string(body)
	},
}
