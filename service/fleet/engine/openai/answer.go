// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// Embed asks /v1/embeddings: one vector for each input.
func (e *Engine) Embed(ctx context.Context, job engine.Job) (json.RawMessage, engine.Result, error) {
	inputs := job.Inputs
	if len(inputs) == 0 {
		inputs = []string{job.Prompt}
	}
	t, err := e.told(ctx)
	if err != nil {
		return nil, engine.Result{}, err
	}
	request := struct {
		Model  string   `json:"model"`
		Inputs []string `json:"input"`
		Form   string   `json:"encoding_format"`
	}{t.model, inputs, "float"}
	var body struct {
		Data []struct {
			Index  int       `json:"index"`
			Vector []float32 `json:"embedding"`
		} `json:"data"`
		Usage Usage `json:"usage"`
	}
	begun := time.Now()
	if err := e.c.Post(ctx, "/v1/embeddings", request, &body); err != nil {
		return nil, engine.Result{}, err
	}
	if err := engine.Believe(engine.Tokens("prompt_tokens", body.Usage.Prompt)); err != nil {
		return nil, engine.Result{}, e.c.Reset(err)
	}
	out := make([][]float32, len(inputs))
	for _, d := range body.Data {
		if d.Index < 0 || d.Index >= len(out) || out[d.Index] != nil || len(d.Vector) == 0 {
			return nil, engine.Result{}, e.c.Reset(fmt.Errorf("/v1/embeddings answered for input %d of %d, with %d figures", d.Index, len(out), len(d.Vector)))
		}
		out[d.Index] = d.Vector
	}
	if len(body.Data) != len(inputs) {
		return nil, engine.Result{}, e.c.Reset(fmt.Errorf("/v1/embeddings gave %d vectors for %d inputs", len(body.Data), len(inputs)))
	}
	return engine.Answered(engine.Embeddings{Vectors: out}, body.Usage.Prompt, time.Since(begun))
}

// Rerank asks the server's path for it: one score for each input, in the order of the inputs.
func (e *Engine) Rerank(ctx context.Context, job engine.Job) (json.RawMessage, engine.Result, error) {
	t, err := e.told(ctx)
	if err != nil {
		return nil, engine.Result{}, err
	}
	if t.Profile.Rerank == "" {
		return nil, engine.Result{}, e.refused("the pool's engine (%s) does not rerank: send the task to a pool of another engine", t.Product)
	}
	return Rerank(ctx, e.c, t.Profile.Rerank, t.model, job)
}

// Rerank asks a path in the form that Jina's and Cohere's API have in common. A server of one model needs no name of it.
func Rerank(ctx context.Context, c *httpsse.Client, path, model string, job engine.Job) (json.RawMessage, engine.Result, error) {
	request := struct {
		Model     string   `json:"model,omitempty"`
		Query     string   `json:"query"`
		Documents []string `json:"documents"`
	}{model, job.Prompt, job.Inputs}
	var body struct {
		Results []struct {
			Index int     `json:"index"`
			Score float64 `json:"relevance_score"`
		} `json:"results"`
		Usage struct {
			Prompt int `json:"prompt_tokens"`
			Total  int `json:"total_tokens"`
		} `json:"usage"`
	}
	begun := time.Now()
	if err := c.Post(ctx, path, request, &body); err != nil {
		return nil, engine.Result{}, err
	}
	tokens := cmp.Or(body.Usage.Prompt, body.Usage.Total)
	if err := engine.Believe(engine.Tokens("prompt_tokens", tokens)); err != nil {
		return nil, engine.Result{}, c.Reset(err)
	}
	seen, scores := make([]bool, len(job.Inputs)), make([]float64, len(job.Inputs))
	for _, r := range body.Results {
		if r.Index < 0 || r.Index >= len(seen) || seen[r.Index] {
			return nil, engine.Result{}, c.Reset(fmt.Errorf("%s answered for document %d of %d", path, r.Index, len(seen)))
		}
		seen[r.Index], scores[r.Index] = true, r.Score
	}
	if len(body.Results) != len(seen) {
		return nil, engine.Result{}, c.Reset(fmt.Errorf("%s gave %d scores for %d documents", path, len(body.Results), len(seen)))
	}
	return engine.Answered(engine.Scores{Scores: scores}, tokens, time.Since(begun))
}

// Tokens asks /tokenize how many tokens a prompt has. Only servers whose profile says so count.
func (e *Engine) Tokens(ctx context.Context, prompt string) (int, error) {
	return e.count(ctx, func(model string) any {
		return struct {
			Model  string `json:"model"`
			Prompt string `json:"prompt"`
			Add    bool   `json:"add_special_tokens"`
		}{model, prompt, true}
	})
}

// ChatTokens asks it for those of a chat. An image counts as what stands for it in the prompt.
func (e *Engine) ChatTokens(ctx context.Context, messages []task.Message, c *task.Chat) (int, error) {
	t, err := e.told(ctx)
	if err != nil {
		return 0, err
	}
	return e.count(ctx, func(model string) any {
		body := struct {
			Model     string          `json:"model"`
			Messages  []Message       `json:"messages"`
			Tools     []Tool          `json:"tools,omitempty"`
			Arguments json.RawMessage `json:"chat_template_kwargs,omitempty"`
			Turn      bool            `json:"add_generation_prompt"`
		}{Model: model, Messages: Messages(messages, t.History), Turn: true}
		if c != nil {
			body.Tools, _ = Tools(c)
			body.Arguments = arguments(c)
		}
		return body
	})
}

func (e *Engine) count(ctx context.Context, request func(model string) any) (int, error) {
	t, err := e.told(ctx)
	if err != nil {
		return 0, err
	}
	var body struct {
		Count int `json:"count"`
	}
	if err := e.c.Post(ctx, "/tokenize", request(t.model), &body); err != nil {
		return 0, err
	}
	if err := engine.Believe(engine.Tokens("count", body.Count)); err != nil {
		return 0, e.c.Reset(err)
	}
	return body.Count, nil
}
