// SPDX-License-Identifier: GPL-3.0-or-later

package task

// The kinds of engines.
const (
	LlamaCpp = "llamacpp" // llama-server, and the built-in worker
	VLLM     = "vllm"
	TGI      = "tgi"
	Triton   = "triton"  // with TensorRT-LLM
	OpenAI   = "openai"  // any other server that speaks OpenAI's API
	Command  = "command" // any other server, to which requests are passed as they are (LO-466)
)

// EngineKinds are the kinds of engines that a pool can have. The configuration, its schema and the adapters take them from here, and the
// API's contract knows them all.
func EngineKinds() []string { return []string{LlamaCpp, VLLM, TGI, Triton, OpenAI, Command} }

// Exact reports whether engines of a kind give the same bytes again where they compute one task at a time (LO-453). The others reuse what they have
// computed before, or compute on what nobody here knows.
func Exact(kind string) bool { return kind == LlamaCpp }
