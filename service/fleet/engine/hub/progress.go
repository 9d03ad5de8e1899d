// SPDX-License-Identifier: GPL-3.0-or-later

package hub

import (
	"regexp"
	"strings"
)

// shards matches the line that vLLM writes for each file of weights.
var shards = regexp.MustCompile(`(?i)checkpoint shards: +(\d{1,3})%`)

// steps are what the engines say when they begin something that takes long, and how that is told. The first that matches counts.
var steps = []struct{ sign, told string }{
	{"starting to load model", "reads the weights"},
	{"loading weights took", "has read the weights"},
	{"model loading took", "has loaded the model"},
	{"dynamo bytecode transform", "compiles"},
	{"compiling a graph", "compiles"},
	{"torch.compile takes", "has compiled"},
	{"gpu kv cache size", "has made room for KV"},
	{"graph capturing finished", "has captured CUDA graphs"},
	{"capturing cuda graph", "captures CUDA graphs"},
	{"capturing the model", "captures CUDA graphs"},
	{"starting vllm api server", "begins to listen"},
	{"application startup complete", "begins to listen"},
	{"starting check and download process", "looks for the model's files"},
	{"files are already present", "looks for the model's files"},
	{"starting shard", "starts its processes"},
	{"shard ready", "has loaded the model"},
	{"waiting for shard", "loads the model"},
	{"starting webserver", "begins to listen"},
	{"warming up model", "warms up"},
	{"cuda graphs are enabled", "captures CUDA graphs"},
}

// Progress reads how far a load is from a line of the engine's output; empty: the line does not tell.
func Progress(line string) string {
	if m := shards.FindStringSubmatch(line); m != nil {
		return "reads the weights: " + m[1] + " %"
	}
	lower := strings.ToLower(line)
	for _, s := range steps {
		if strings.Contains(lower, s.sign) {
			return s.told
		}
	}
	return ""
}
