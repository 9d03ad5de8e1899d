// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"github.com/llama-orch/llama-orch/service/task"
)

// Profile says how a server deviates from OpenAI's document, and what it can do beyond it. What a profile does not name is never sent.
type Profile struct {
	Name string // as the engine's version shows it; empty: the server is found out at the probe
	Kind string // of the pool, in labels and errors
	// Product is what people call the server.
	Product string

	// By these a server is known: what stands as owned_by at its models, or a field that the answer of a path has.
	Owners []string
	Sign   Question

	Health  string   // path; empty: that of the models
	Version Question // empty: it tells none
	Ctx     Question // of the context that it runs with; empty: max_model_len of the model
	Tells   []Telling

	TopK, MinP bool
	NoTopK     int    // that keeps all tokens
	Penalty    string // the field of the repeat penalty: repetition_penalty or repeat_penalty; empty: it takes none
	Grammar    string // the field of a grammar; empty: it takes none
	Arguments  bool   // chat_template_kwargs
	Effort     bool   // reasoning_effort
	History    History
	Plain      Plain

	Earlier *Earlier
	Trials  []Trial

	Usage bool // it tells the usage at the end, as asked
	// Counts: POST /tokenize counts tokens, and those of chats where CountsChats.
	Counts, CountsChats bool
	Short               bool           // a completion without max_tokens is short
	Rerank              string         // path; empty: it does not rerank
	Features            []task.Feature // that its engines can have
}

// Plain is where a server falls short of OpenAI's document.
type Plain struct {
	Tools      bool // the schema of a tool stands in its `arguments`, and parallel_tool_calls is not known
	Formats    bool // a format is {"type": "json", "value": SCHEMA}
	OpenTopP   bool // a top_p of 1 is taken for a mistake
	ErrorFirst bool // the status in an error event is true before the first token alone
}

// Question is asked of a server: with GET, or with POST and the model's name.
type Question struct {
	Path string
	Post bool
	// Field is the path of what matters in the answer, such as version or data.0.type. A step `=` is the item of a list whose id is the model's name.
	Field string
}

// Telling is how a server tells what its model can do: by words. What the words stand for, and is not told, the model cannot do.
type Telling struct {
	Question

	Words map[string]task.Feature
}

// Earlier is how versions before one differ.
type Earlier struct {
	Before  [2]int // major and minor
	Grammar string
	History History
}

// Trial is a request that a server refuses as wrong where its model lacks a feature that it does not tell of otherwise.
type Trial struct {
	Feature task.Feature
	Path    string
	Body    func(model string) any
}

// The fields that a grammar is sent in.
const (
	structuredOutputs = "structured_outputs"
	guidedGrammar     = "guided_grammar"
	ebnf              = "ebnf"
	gbnf              = "grammar"
)

const (
	repetitionPenalty = "repetition_penalty"
	repeatPenalty     = "repeat_penalty"
	reasoningContent  = "reasoning_content"
	reasoning         = "reasoning"
)

// chats are the features that every one of these servers has, as far as its model does.
var chats = []task.Feature{task.FeatureTools, task.FeatureFormats, task.FeatureImages, task.FeatureReasoning}

// with are those features and more.
func with(more ...task.Feature) []task.Feature {
	return append(append([]task.Feature{}, chats...), more...)
}

// VLLM is vLLM. It tells neither whether it was started with a parser of its model's calls, nor whether its model sees.
var VLLM = Profile{
	Name: "vllm", Product: "vLLM", Owners: []string{"vllm"},
	Health: "/health", Version: Question{Path: "/version", Field: "version"},
	TopK: true, NoTopK: -1, MinP: true, Penalty: repetitionPenalty, Grammar: structuredOutputs, Arguments: true, Effort: true,
	History: History{Reasoning: reasoning}, Earlier: &Earlier{[2]int{0, 11}, guidedGrammar, History{Reasoning: reasoningContent}},
	Trials: []Trial{{task.FeatureTools, chatPath, callTrial}, {task.FeatureImages, "/tokenize", imageTrial}},
	Usage:  true, Counts: true, CountsChats: true, Short: true, Rerank: "/v1/rerank",
	Features: with(task.FeatureGrammars, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs),
}

// SGLang is SGLang.
var SGLang = Profile{
	Name: "sglang", Product: "SGLang", Owners: []string{"sglang"},
	Health: "/health", Version: Question{Path: "/get_server_info", Field: "version"},
	TopK: true, NoTopK: -1, MinP: true, Penalty: repetitionPenalty, Grammar: ebnf, Arguments: true, Effort: true,
	History: History{Reasoning: reasoningContent}, Usage: true, Counts: true, Short: true,
	Features: with(task.FeatureGrammars, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs),
}

// Ollama is Ollama. It takes no token ids, and names what its model can do.
var Ollama = Profile{
	Name: "ollama", Product: "Ollama", Owners: []string{"library"}, Sign: Question{Path: "/api/version", Field: "version"},
	Health: "/api/version", Version: Question{Path: "/api/version", Field: "version"},
	Tells: []Telling{{Question{"/api/show", true, "capabilities"}, map[string]task.Feature{
		"tools": task.FeatureTools, "vision": task.FeatureImages, "thinking": task.FeatureReasoning,
	}}},
	Effort: true, History: History{Reasoning: reasoning}, Usage: true,
	Features: chats,
}

// LMStudio is LM Studio. It names what its model can do, and the context that it was loaded with.
var LMStudio = Profile{
	Name: "lmstudio", Product: "LM Studio", Owners: []string{"organization_owner"}, Sign: Question{Path: "/api/v0/models", Field: "data.0.compatibility_type"},
	Ctx: Question{Path: "/api/v0/models", Field: "data.=.loaded_context_length"},
	Tells: []Telling{
		{Question{Path: "/api/v0/models", Field: "data.=.type"}, map[string]task.Feature{"vlm": task.FeatureImages}},
		{Question{Path: "/api/v0/models", Field: "data.=.capabilities"}, map[string]task.Feature{"tool_use": task.FeatureTools}},
	},
	TopK: true, Penalty: repeatPenalty, Effort: true, Usage: true, Short: true,
	Features: with(task.FeatureBias),
}

// LlamaServer is a llama-server that somebody reaches by OpenAI's API alone.
var LlamaServer = Profile{
	Name: "llama-server", Product: "llama-server", Owners: []string{"llamacpp"}, Sign: Question{Path: "/props", Field: "build_info"},
	Health: "/health", Version: Question{Path: "/props", Field: "build_info"}, Ctx: Question{Path: "/props", Field: "default_generation_settings.n_ctx"},
	Tells: []Telling{
		{Question{Path: "/props", Field: "modalities.vision"}, map[string]task.Feature{"true": task.FeatureImages}},
		{Question{Path: "/props", Field: "chat_template_caps.supports_tool_calls"}, map[string]task.Feature{"true": task.FeatureTools}},
	},
	TopK: true, MinP: true, Penalty: repeatPenalty, Grammar: gbnf, Arguments: true, Effort: true,
	History: History{Names: true, Reasoning: reasoningContent}, Usage: true, Rerank: "/v1/rerank",
	Features: with(task.FeatureGrammars, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs),
}

// Any is a server that nobody here knows: it has what OpenAI's document has.
var Any = Profile{
	Name: "unknown", Product: "OpenAI-compatible server", Effort: true, Usage: true, Short: true,
	Features: with(task.FeatureBias, task.FeatureLogprobs),
}

// Known are the profiles by which servers are found out.
func Known() []Profile { return []Profile{VLLM, SGLang, Ollama, LMStudio, LlamaServer} }
