// SPDX-License-Identifier: GPL-3.0-or-later

package triton_test

import (
	"testing"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/triton"
)

// LO-861
func FuzzAnswers(f *testing.F) {
	enginetest.Fuzz(f, enginetest.FuzzOptions{
		New: func(at engine.Endpoint) engine.Engine { return triton.New(at) },
		Calm: map[string]string{
			"/v2":                       `{"name":"triton","version":"2.50.0","extensions":["classification"]}`,
			"/v2/repository/index":      `[{"name":"ensemble","version":"1","state":"READY"}]`,
			"/v2/models/ensemble":       `{"name":"ensemble","versions":["1"],"platform":"ensemble","inputs":[{"name":"text_input"},{"name":"stream"},{"name":"max_tokens"}],"outputs":[{"name":"text_output"}]}`,
			"/v2/health/ready":          "",
			"/v2/models/ensemble/ready": "",
		},
		Seeds: []string{
			": ping\r\n\r\n" + `data: {"model_name":"ensemble","text_output":"a"}` + "\n\n" + `data: {"text_output":"\n\nb"}` + "\n\n" + `data: {"text_output":""}` + "\n\n",
			`data: {"error":"Encountered error: Prompt length (9) exceeds maximum input length (8)"}` + "\n\n",
			"nv_trt_llm_request_metrics{model=\"tensorrt_llm\",request_type=\"active\",version=\"1\"} 2\n",
		},
	})
}
