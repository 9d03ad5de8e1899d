// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"testing"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
)

// LO-861
func FuzzAnswers(f *testing.F) {
	enginetest.Fuzz(f, enginetest.FuzzOptions{
		New:  func(at engine.Endpoint) engine.Engine { return llamacpp.New(at) },
		Calm: map[string]string{"/props": props, "/tokenize": `{"tokens":[1,2,3]}`, "/apply-template": `{"prompt":"rain"}`, "/health": `{"status":"ok"}`},
		Seeds: []string{
			token("a") + ": ping\n\n" + token("\xe8\x9b") + token("b") + last,
			`data: {"error":{"code":500,"message":"boom","type":"server_error"}}` + "\n\n",
			delta(`{"reasoning_content":"hm"}`) + delta(`{"tool_calls":[{"index":0,"id":"a","function":{"name":"weather","arguments":"{\"a\":"}}]}`) +
				delta(`{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}`) +
				`data: {"choices":[{"finish_reason":"tool_calls","index":0,"delta":{}}],"timings":{"prompt_ms":1},"__verbose":{"id_slot":0,"tokens_cached":3}}` + "\n\n" +
				`data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}` + "\n\ndata: [DONE]\n\n",
			`{"results":[{"index":1,"relevance_score":0.9},{"index":0,"relevance_score":-3}],"usage":{"prompt_tokens":12}}`,
			`[{"index":0,"embedding":[[1,0]]},{"index":1,"embedding":[[0,1e300]]}]`,
			`[{"id":0,"id_task":4,"n_ctx":256,"is_processing":true,"kv_bytes":5}]`,
			"llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\n",
			`{"id_slot":0,"n_saved":3,"n_written":9,"n_restored":3,"n_read":9}`,
		},
	})
}
