// SPDX-License-Identifier: GPL-3.0-or-later

package openai_test

import (
	"testing"

	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
)

// calm are the answers of a server that tells its version and its context.
var calm = map[string]string{
	"/v1/models": `{"data":[{"id":"m","owned_by":"vllm","max_model_len":64}]}`,
	"/version":   `{"version":"0.9.0"}`,
	"/health":    "",
	"/tokenize":  `{"count":3,"tokens":[1,2,3],"max_model_len":64}`,
}

const (
	piece = `data: {"id":"1","choices":[{"index":0,"text":" a","finish_reason":null}]}` + "\n\n"
	ended = `data: {"id":"1","choices":[{"index":0,"text":"","finish_reason":"length"}]}` + "\n\n" +
		`data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}` + "\n\ndata: [DONE]\n\n"
)

// LO-861
func FuzzAnswers(f *testing.F) {
	enginetest.Fuzz(f, enginetest.FuzzOptions{New: openai.Kind().New, Calm: calm, Seeds: []string{
		piece + ended,
		piece + `data: {"error":{"message":"out of memory","code":500}}` + "\n\n",
		`data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"weather","arguments":"{\"a\":"}}]}}]}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}},{"index":1,"function":{"name":"weather","arguments":""}}]}}]}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}` + "\n\ndata: [DONE]\n\n",
		`{"data":[{"index":1,"embedding":[0.5,1e300]},{"index":0,"embedding":[1,2]}],"usage":{"prompt_tokens":2}}`,
		`{"results":[{"index":1,"relevance_score":0.9},{"index":0,"relevance_score":-3}],"usage":{"total_tokens":12}}`,
		`{"data":[{"id":"m","owned_by":"library"}],"version":"0.5.0","capabilities":["tools","vision"]}`,
		`{"data":[{"id":"m","owned_by":"organization_owner","compatibility_type":"gguf","type":"vlm","loaded_context_length":64,"capabilities":["tool_use"]}]}`,
		`{"data":[{"id":"m","owned_by":"llamacpp"}],"build_info":"b1","default_generation_settings":{"n_ctx":64},"modalities":{"vision":true}}`,
	}})
}
