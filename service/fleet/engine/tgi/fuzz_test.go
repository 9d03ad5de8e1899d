// SPDX-License-Identifier: GPL-3.0-or-later

package tgi_test

import (
	"testing"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/tgi"
)

// LO-861
func FuzzAnswers(f *testing.F) {
	enginetest.Fuzz(f, enginetest.FuzzOptions{
		New:  func(at engine.Endpoint) engine.Engine { return tgi.New(at) },
		Calm: map[string]string{"/info": info, "/tokenize": `[{},{}]`, "/health": ""},
		Seeds: []string{
			": ping\n\n" + one + last + one,
			`data:{"error":"boom","error_type":"overloaded"}` + "\n\n",
			`data: {"choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"","type":"function","function":{"name":"weather","arguments":"{}"}}]},"finish_reason":null}]}` + "\n\n" +
				`data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}` + "\n\ndata: [DONE]\n\n",
			"tgi_queue_size 2\ntgi_batch_current_size 1\n",
		},
	})
}
