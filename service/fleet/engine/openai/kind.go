// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"net/http"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// Kind is any server with OpenAI's API that somebody else runs. Which one it is, is found out at the probe.
func Kind() engine.Kind {
	return engine.Kind{
		Name: task.OpenAI,
		New: func(at engine.Endpoint) engine.Engine {
			return New(at, Profile{Kind: task.OpenAI, Product: Any.Product})
		},
		Features: func(engine.Worker) []task.Feature {
			return with(task.FeatureGrammars, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs)
		},
		Own: Own,
	}
}

// own are the paths by which these servers change what they serve, or how: models, adapters, weights, caches, sleep.
var own = []string{
	"/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/", "/api/v1/models/", "/models/", "/slots/", "/lora-adapters", "/props",
	"/cors-proxy", "/tools", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/load_lora_adapter", "/unload_lora_adapter", "/sleep", "/wake_up",
	"/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/collective_rpc", "/pause", "/resume", "/scale_elastic_ep", "/start_profile", "/stop_profile",
	"/flush_cache", "/update_weights", "/init_weights_update_group", "/release_memory_occupation", "/resume_memory_occupation", "/set_internal_state",
}

// Own reports whether a request changes a server with OpenAI's API.
func Own(method, path string) bool {
	if method == http.MethodGet || method == http.MethodHead {
		return path == "/cors-proxy" || path == "/flush_cache"
	}
	for _, p := range own {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}
