// SPDX-License-Identifier: GPL-3.0-or-later

package vllm_test

import (
	"testing"

	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/vllm"
)

// LO-861
func FuzzAnswers(f *testing.F) {
	enginetest.Fuzz(f, enginetest.FuzzOptions{
		New: vllm.Kind().New,
		Calm: map[string]string{
			"/v1/models": `{"data":[{"id":"m","owned_by":"vllm","max_model_len":64}]}`, "/version": `{"version":"0.9.0"}`, "/health": "", "/tokenize": `{"count":3}`,
		},
		Seeds: []string{
			`data: {"choices":[{"index":0,"text":" a","finish_reason":null}]}` + "\n\n" + `data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}` + "\n\n" +
				`data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}` + "\n\ndata: [DONE]\n\n",
			"vllm:num_requests_running{model_name=\"m\"} 2\nvllm:num_requests_waiting 1.0\nvllm:kv_cache_usage_perc 0.5\nvllm:prefix_cache_queries_total 9\nvllm:prefix_cache_hits_total 3\n",
		},
	})
}
