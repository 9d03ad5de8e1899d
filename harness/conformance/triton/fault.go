// SPDX-License-Identifier: GPL-3.0-or-later

package triton

import (
	"encoding/json"
	"strings"

	"github.com/llama-orch/llama-orch/harness/conformance/fault"
)

// Shape is what faults have to know of the generate extension. The last response of an answer is one without text.
var Shape = fault.Shape{
	Streams: func(path string, _ []byte) bool { return strings.HasSuffix(path, "/generate_stream") },
	Says:    func(data string) bool { return !strings.Contains(data, `"text_output":""`) },
	Ends:    func(data string) bool { return strings.Contains(data, `"text_output":""`) },
	Error: func(_ int, text string) string {
		body, _ := json.Marshal(failure(text)) // texts always encode
		return string(body)
	},
}
