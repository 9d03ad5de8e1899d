// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// capabilities is what /props tells of what only some engines and models can do.
type capabilities struct {
	Template     string `json:"chat_template"`
	ToolTemplate string `json:"chat_template_tool_use"`
	Caps         *struct {
		Tools     bool `json:"supports_tools"`      // it describes them to the model
		ToolCalls bool `json:"supports_tool_calls"` // it writes them, so that the server can read them
	} `json:"chat_template_caps"` // nil: it is no llama-server that reads what its model answers
	Modalities struct {
		Vision bool `json:"vision"`
	} `json:"modalities"`
	Marker string         `json:"media_marker"`
	Told   []task.Feature `json:"features"` // by the built-in worker
	// Exact is told by the built-in worker alone: whether it can reuse a part of its slot's KV without changing a byte.
	Exact *bool `json:"cache_exact"`
}

// always are the features that every llama-server has, but for a model that cannot think.
var always = []task.Feature{task.FeatureFormats, task.FeatureGrammars, task.FeatureReasoning, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs}

func (c capabilities) features() []task.Feature {
	var all []task.Feature
	if c.Caps == nil {
		for _, f := range builtIn {
			if slices.Contains(c.Told, f) {
				all = append(all, f)
			}
		}
		return all
	}
	if c.Caps.Tools && c.Caps.ToolCalls {
		all = append(all, task.FeatureTools)
	}
	if c.Modalities.Vision {
		all = append(all, task.FeatureImages)
	}
	for _, f := range always {
		if f != task.FeatureReasoning || c.thinks() {
			all = append(all, f)
		}
	}
	return all
}

// marks of thinking, one of which stands in every template whose model's thinking llama-server tells from the answer, unless it knows tools.
var marks = []string{"think", "reason", "thought", "channel"}

// thinks reports whether llama-server may find thinking in what the model answers. It does so by what stands in the template. Of one that knows tools, any
// answer may have a form of its own, which only llama-server knows.
func (c capabilities) thinks() bool {
	if c.Template == "" || c.Caps.Tools || c.Caps.ToolCalls {
		return true
	}
	template := strings.ToLower(c.Template)
	return slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(template, mark) })
}

// dated reports whether a template may print the date: it uses one of the three ways to learn it.
func (c capabilities) dated() bool {
	for _, way := range []string{"strftime_now", dateArgument, dateTimeArgument} {
		if strings.Contains(c.Template, way) || strings.Contains(c.ToolTemplate, way) {
			return true
		}
	}
	return false
}

// builtIn are the features that the built-in worker can have.
var builtIn = []task.Feature{task.FeatureGrammars, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs}

// features are what a worker can have. A llama-server's tools depend on its model's template, which it reads when it loads.
func features(w engine.Worker) []task.Feature {
	if w.BuiltIn {
		return builtIn
	}
	all := []task.Feature{task.FeatureTools}
	if w.Model == "" || sees(w.Args) { // one that others run may see
		all = append(all, task.FeatureImages)
	}
	return append(all, always...)
}

// sees reports whether a llama-server's arguments bring the part of the model that sees.
func sees(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		name, _, _ := strings.Cut(arg, "=")
		return name == "-mm" || name == "-mmu" || strings.HasPrefix(name, "--mmproj")
	})
}
