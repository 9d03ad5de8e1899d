// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/harness/dialect"
)

// tokenizeSchema is the body of /tokenize, of a prompt or of a chat, as vLLM documents it.
const tokenizeSchema = `{"oneOf":[
	{"type":"object","required":["prompt"],"properties":{"model":{"type":"string"},"prompt":{"type":"string"},"add_special_tokens":{"type":"boolean"},
		"return_token_strs":{"type":"boolean"}}},
	{"type":"object","required":["messages"],"properties":{"model":{"type":"string"},"messages":{"type":"array","items":{"type":"object","additionalProperties":true}},
		"tools":{"type":"array","items":{"type":"object","additionalProperties":true}},"add_generation_prompt":{"type":"boolean"},"continue_final_message":{"type":"boolean"},
		"add_special_tokens":{"type":"boolean"},"return_token_strs":{"type":"boolean"},"chat_template_kwargs":{"type":"object","additionalProperties":true}}}]}`

// routes are the paths beyond OpenAI's.
func (s *Server) routes() {
	get := func(path string, body func() any) {
		s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { answer(w, body()) })
	}
	version := func() any { return map[string]string{"version": s.opts.Version} }
	switch s.opts.As {
	case "vllm":
		get("/version", version)
		s.mux.HandleFunc("GET /metrics", s.metrics)
		s.mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	case "sglang":
		get("/get_server_info", version)
		s.mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	case "ollama":
		get("/api/version", version)
		s.mux.HandleFunc("POST /api/show", s.show)
	case "lmstudio":
		get("/api/v0/models", s.lmModels)
	case "llama-server":
		get("/health", func() any { return map[string]string{"status": "ok"} })
		get("/props", func() any {
			return map[string]any{
				"build_info": s.opts.Version, "total_slots": 1, "default_generation_settings": map[string]any{"n_ctx": s.opts.Ctx},
				"modalities": map[string]bool{"vision": !s.opts.Blind}, "chat_template_caps": map[string]bool{"supports_tool_calls": !s.opts.NoTools},
			}
		})
	}
	if s.is.counts {
		s.mux.HandleFunc("POST /tokenize", s.tokenize)
	}
	if s.is.rerank {
		s.mux.HandleFunc("POST /v1/rerank", s.rerank)
	}
}

// metrics are as Prometheus reads vLLM's.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	var running, queries int
	s.Look(func() { running, queries = s.running, s.queries })
	label := fmt.Sprintf(`{engine="0",model_name=%q}`, s.opts.Models[0])
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = fmt.Fprintf(w, "# HELP vllm:num_requests_running Number of requests in model execution batches.\n# TYPE vllm:num_requests_running gauge\n"+
		"vllm:num_requests_running%[1]s %[2]d.0\n# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting%[1]s 0.0\n"+
		"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc%[1]s %[3]g\n# TYPE vllm:prefix_cache_queries_total counter\n"+
		"vllm:prefix_cache_queries_total%[1]s %[4]d.0\nvllm:prefix_cache_queries_created%[1]s 1.7e+09\n# TYPE vllm:prefix_cache_hits_total counter\n"+
		"vllm:prefix_cache_hits_total%[1]s %[5]d.0\n", label, running, min(float64(running)/10, 1), queries, queries/2) // a client that has gone does not need it
}

// show is Ollama's description of a model.
func (s *Server) show(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model string `json:"model"`
	}
	if !s.take(w, r, func([]byte) error { return nil }, &in) || !s.has(w, in.Model) {
		return
	}
	can := []string{"completion", "thinking"}
	if !s.opts.NoTools {
		can = append(can, "tools")
	}
	if !s.opts.Blind {
		can = append(can, "vision")
	}
	answer(w, map[string]any{"capabilities": can})
}

// lmModels are the models as LM Studio's own API has them.
func (s *Server) lmModels() any {
	list := []any{}
	for _, name := range s.opts.Models {
		m := map[string]any{
			"id": name, "object": "model", "type": "vlm", "compatibility_type": "gguf", "state": "loaded", "loaded_context_length": s.opts.Ctx,
			"capabilities": []string{"tool_use"},
		}
		if s.opts.Blind {
			m["type"] = "llm"
		}
		if s.opts.NoTools {
			m["capabilities"] = []string{}
		}
		list = append(list, m)
	}
	return map[string]any{"object": "list", "data": list}
}

func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) {
	var in struct {
		chatRequest

		Prompt *string `json:"prompt"`
	}
	if !s.take(w, r, s.counting, &in) {
		return
	}
	if _, images := in.prompt(); images > 0 && s.opts.Blind {
		s.fail(w, http.StatusBadRequest, in.Model+" is not a multimodal model")
		return
	}
	n := in.tokens()
	if in.Prompt != nil {
		n = count(*in.Prompt)
	}
	answer(w, map[string]any{"count": n, "max_model_len": s.opts.Ctx, "tokens": make([]int, n)})
}

func (s *Server) embed(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model  string   `json:"model"`
		Inputs []string `json:"input"`
		Form   string   `json:"encoding_format"`
	}
	if !s.take(w, r, s.fits(dialect.EmbeddingRequest), &in) || !s.has(w, in.Model) {
		return
	}
	data, tokens := []any{}, 0
	for i, text := range in.Inputs {
		tokens += count(text)
		vector := make([]float64, 8)
		for at, b := range []byte(text) {
			vector[at%len(vector)] += float64(b) / 256
		}
		data = append(data, map[string]any{"object": "embedding", "index": i, "embedding": vector})
	}
	slices.Reverse(data) // a client goes by the index
	answer(w, map[string]any{
		"object": "list", "model": in.Model, "data": data, "usage": map[string]int{"prompt_tokens": tokens, "total_tokens": tokens},
	})
}

func (s *Server) rerank(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model     string   `json:"model"`
		Query     string   `json:"query"`
		Documents []string `json:"documents"`
	}
	if !s.take(w, r, func([]byte) error { return nil }, &in) || !s.has(w, in.Model) {
		return
	}
	results, tokens := []any{}, count(in.Query)
	for i, d := range in.Documents {
		tokens += count(d)
		score := 0.0
		for word := range strings.FieldsSeq(d) {
			if strings.Contains(in.Query, word) {
				score += 0.5
			}
		}
		results = append(results, map[string]any{"index": i, "relevance_score": score, "document": map[string]string{"text": d}})
	}
	answer(w, map[string]any{"id": "rerank-1", "model": in.Model, "results": results, "usage": map[string]int{"total_tokens": tokens}})
}
