// SPDX-License-Identifier: GPL-3.0-or-later

// Package vllm speaks to vLLM (ORCH-3055): by OpenAI's API, and by what vLLM has beside it: token counts, its version, its metrics.
package vllm

import (
	"context"
	"errors"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/task"
)

// Engine is one replica.
type Engine struct{ *openai.Engine }

var _ interface {
	engine.Engine
	engine.Chatter
	engine.TokenCounter
	engine.ChatCounter
	engine.Embedder
	engine.Reranker
	engine.BusyCounter
	engine.Meter
	engine.Closer
} = (*Engine)(nil)

// New makes an adapter. Nothing is sent before its first call. Close it to drop its idle connections.
func New(at engine.Endpoint) *Engine {
	profile := openai.VLLM
	profile.Kind = task.VLLM
	return &Engine{openai.New(at, profile)}
}

// Props asks vLLM what it is. What has no version at that path is no vLLM.
func (e *Engine) Props(ctx context.Context) (engine.Props, error) {
	var body struct {
		Version string `json:"version"`
	}
	if err := e.Client().Identify(ctx, openai.VLLM.Version.Path, &body); err != nil {
		return engine.Props{}, err
	}
	return e.Engine.Props(ctx)
}

// CountTokens implements engine.TokenCounter.
func (e *Engine) CountTokens(ctx context.Context, prompt string) (int, error) {
	return e.Tokens(ctx, prompt)
}

// CountChat implements engine.ChatCounter. An image counts as what stands for it in the prompt, which is less than it takes.
func (e *Engine) CountChat(ctx context.Context, messages []task.Message, c *task.Chat) (int, error) {
	return e.ChatTokens(ctx, messages, c)
}

var errNoMetrics = errors.New("/metrics does not tell how many requests run")

// Busy implements engine.BusyCounter. A request whose connection was closed is one no longer as soon as vLLM has noticed.
func (e *Engine) Busy(ctx context.Context) (int, error) {
	l, err := e.Load(ctx)
	return l.Busy(), err
}

// Load reads /metrics. A vLLM with several engines behind one address has a series for each, and their KV is taken to be as full as the fullest.
func (e *Engine) Load(ctx context.Context) (l engine.Load, err error) {
	all, err := e.Client().Metrics(ctx, "/metrics")
	if err != nil {
		return l, err
	}
	running, told := all.Sum("vllm:num_requests_running")
	if !told {
		return l, e.Client().Reset(errNoMetrics)
	}
	waiting, _ := all.Sum("vllm:num_requests_waiting")
	l = engine.Load{Running: int(running), Waiting: int(waiting), KV: -1}
	for _, name := range []string{"vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"} { // the older name first
		if kv, told := all.Most(name); told {
			l.KV = kv
		}
	}
	l.PrefixQueries, l.Prefix = all.Sum("vllm:prefix_cache_queries_total")
	l.PrefixHits, _ = all.Sum("vllm:prefix_cache_hits_total")
	if err := l.Believe(); err != nil {
		return engine.Load{}, e.Client().Reset(err)
	}
	return l, nil
}

// Kind is vLLM.
func Kind() engine.Kind {
	return engine.Kind{
		Name: task.VLLM, Own: openai.Own,
		New:      func(at engine.Endpoint) engine.Engine { return New(at) },
		Features: func(engine.Worker) []task.Feature { return openai.VLLM.Features },
		Start:    start(),
	}
}
