// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"context"
	"encoding/json"
	"time"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// lookWithin bounds the questions by which a stranger is recognised.
const lookWithin = 5 * time.Second

// look is what an engine shows of itself that no other does.
type look struct {
	product, kind string
	path          string
	shows         func(answer []byte) bool
}

// looks are in the order of asking: what many have comes last.
var looks = []look{
	{"TGI", task.TGI, "/info", fields("model_id", "max_total_tokens")},
	{"Triton", task.Triton, "/v2", fields("version", "extensions")},
	{"SGLang", task.OpenAI, "/get_model_info", fields("model_path")},
	{"SGLang", task.OpenAI, "/v1/models", ownedBy("sglang")},
	{"LM Studio", task.OpenAI, "/api/v0/models", fields("data")},
	{"Ollama", task.OpenAI, "/api/version", fields("version")},
	{"llama-server", task.LlamaCpp, "/props", fields("default_generation_settings", "total_slots")},
	{"vLLM", task.VLLM, "/v1/models", ownedBy("vllm")},
	{"a server of OpenAI's API", task.OpenAI, "/v1/models", fields("data")},
}

// Recognise looks for the engine that answers at an endpoint: how people call it, and the kind that a pool of it has. Both are empty where nothing is
// recognised.
func Recognise(ctx context.Context, at Endpoint) (product, kind string) {
	ctx, stop := awake.WithTimeout(ctx, lookWithin)
	defer stop()
	c := httpsse.New(httpsse.Options{BaseURL: at.URL, APIKey: at.Key, Engine: "unknown", Network: at.Network})
	defer c.Close()
	for _, l := range looks {
		if answer, err := c.Text(ctx, l.path); err == nil && l.shows(answer) {
			return l.product, l.kind
		}
	}
	return "", ""
}

// fields looks for a JSON object with these fields.
func fields(names ...string) func([]byte) bool {
	return func(answer []byte) bool {
		var object map[string]json.RawMessage
		if json.Unmarshal(answer, &object) != nil {
			return false
		}
		for _, name := range names {
			if len(object[name]) == 0 {
				return false
			}
		}
		return true
	}
}

// ownedBy looks for a list of OpenAI's API whose models have that owner.
func ownedBy(owner string) func([]byte) bool {
	return func(answer []byte) bool {
		var list struct {
			Data []struct {
				Owner string `json:"owned_by"`
			} `json:"data"`
		}
		return json.Unmarshal(answer, &list) == nil && len(list.Data) > 0 && list.Data[0].Owner == owner
	}
}
