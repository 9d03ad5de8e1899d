// SPDX-License-Identifier: GPL-3.0-or-later

// Package llamacpp speaks llama-server's native API, which the built-in worker serves as well (ORCH-3054).
package llamacpp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/task"
)

// Name is the engine's name in configs, labels and errors.
const Name = task.LlamaCpp

// Engine is one replica.
type Engine struct {
	c *httpsse.Client
	// props is what Props said last; nil: it was never asked. Whoever restarts the process behind the URL calls Props again before the next job.
	props atomic.Pointer[told]
	piece int // as in engine.Endpoint
	held  held
}

// told is what an engine told of itself that a job depends on.
type told struct {
	ctx      int // of a slot
	features []task.Feature
	marker   string // that stands for an image in a prompt; empty: it takes none
	dated    bool   // its chat template may print the date
	builtIn  bool   // it is the built-in worker, which itself knows what its slot holds
}

// llama.cpp has every face.
var _ interface {
	engine.Engine
	engine.TokenCounter
	engine.Templater
	engine.Chatter
	engine.ChatCounter
	engine.Embedder
	engine.Reranker
	engine.BusyCounter
	engine.Meter
	engine.Keeper
	engine.Saver
	engine.Closer
} = (*Engine)(nil)

// New makes an adapter. Nothing is sent before its first call. Close it to drop its idle connections.
func New(at engine.Endpoint) *Engine {
	return &Engine{piece: at.Piece, c: httpsse.New(httpsse.Options{BaseURL: at.URL, APIKey: at.Key, Engine: Name, Product: "llama-server", Network: at.Network})}
}

// Close drops idle connections.
func (e *Engine) Close() { e.c.Close() }

// Health returns nil when the model is loaded.
func (e *Engine) Health(ctx context.Context) error {
	var body struct {
		Status string `json:"status"`
	}
	return e.c.Identify(ctx, "/health", &body)
}

// Props reads /props. A llama-server tells what its model and its template can do. The built-in worker names its features.
func (e *Engine) Props(ctx context.Context) (engine.Props, error) {
	var body struct {
		Build    string `json:"build_info"`
		System   string `json:"system_info"`
		Slots    int    `json:"total_slots"`
		Defaults struct {
			Ctx int `json:"n_ctx"`
		} `json:"default_generation_settings"`
		capabilities
	}
	if err := e.c.Identify(ctx, "/props", &body); err != nil {
		return engine.Props{}, err
	}
	if body.Defaults.Ctx <= 0 || body.Slots <= 0 {
		return engine.Props{}, e.c.Stranger(errors.New("/props names no context or no slots"))
	}
	if err := engine.Believe(engine.Tokens("n_ctx", body.Defaults.Ctx), engine.Slots("total_slots", body.Slots)); err != nil {
		return engine.Props{}, e.c.Reset(err)
	}
	t := &told{ctx: body.Defaults.Ctx, features: body.features(), marker: body.Marker, dated: body.dated(), builtIn: body.Exact != nil}
	e.props.Store(t)
	return engine.Props{
		Build: task.Clip(body.Build, engine.MaxBuild), System: body.System, Ctx: t.ctx, Slots: body.Slots, Features: t.features,
	}, nil
}

// told is what the engine said of itself last.
func (e *Engine) told(ctx context.Context) (*told, error) {
	if t := e.props.Load(); t != nil {
		return t, nil
	}
	if _, err := e.Props(ctx); err != nil {
		return nil, err
	}
	return e.props.Load(), nil
}

// CountTokens asks /tokenize, with the special tokens that a completion adds and parses.
func (e *Engine) CountTokens(ctx context.Context, prompt string) (int, error) {
	tokens, err := e.tokens(ctx, prompt)
	return len(tokens), err
}

// tokenize is the body of POST /tokenize.
type tokenize struct {
	Content string `json:"content"`
	Add     bool   `json:"add_special"`
	Parse   bool   `json:"parse_special"`
}

// Chats implements engine.Chatter.
func (e *Engine) Chats() {}

// Embed asks /embedding: one vector for each input.
func (e *Engine) Embed(ctx context.Context, job engine.Job) (json.RawMessage, engine.Result, error) {
	inputs := job.Inputs
	if len(inputs) == 0 {
		inputs = []string{job.Prompt}
	}
	begin := time.Now()
	answer, err := e.embed(ctx, inputs)
	if err != nil {
		return nil, engine.Result{}, err
	}
	took := time.Since(begin)
	// The native answer has no count, so ask for one, once for all inputs. It leaves the marks of begin and end of each input out.
	tokens, err := e.CountTokens(ctx, strings.Join(inputs, "\n"))
	if err != nil {
		return nil, engine.Result{}, err
	}
	return engine.Answered(answer, tokens, took)
}

// Rerank asks /reranking: one score for each input, in the order of the inputs.
func (e *Engine) Rerank(ctx context.Context, job engine.Job) (json.RawMessage, engine.Result, error) {
	raw, result, err := openai.Rerank(ctx, e.c, "/reranking", "", job)
	return raw, result, explain(err)
}

func (e *Engine) embed(ctx context.Context, inputs []string) (*engine.Embeddings, error) {
	request := struct {
		Content []string `json:"content"`
	}{inputs}
	var items []struct {
		Index     int         `json:"index"`
		Embedding [][]float32 `json:"embedding"`
	}
	if err := e.c.Post(ctx, "/embedding", request, &items); err != nil {
		return nil, explain(err)
	}
	out := make([][]float32, len(inputs))
	for _, item := range items {
		if item.Index < 0 || item.Index >= len(out) {
			return nil, e.c.Reset(fmt.Errorf("/embedding answered for input %d of %d", item.Index, len(out)))
		}
		// Without pooling there would be one vector for each token.
		if len(item.Embedding) != 1 {
			return nil, e.c.Reset(errors.New("/embedding gave no pooled vector: start the engine with --pooling mean"))
		}
		out[item.Index] = item.Embedding[0]
	}
	for i, v := range out {
		if len(v) == 0 {
			return nil, e.c.Reset(fmt.Errorf("/embedding gave no vector for input %d", i))
		}
	}
	return &engine.Embeddings{Vectors: out}, nil
}

// explain adds to llama-server's refusal of a prompt that is too long by how much it is.
func explain(err error) error {
	var status *httpsse.StatusError
	if !errors.As(err, &status) {
		return err
	}
	var body struct {
		Error struct {
			Prompt int `json:"n_prompt_tokens"`
			Ctx    int `json:"n_ctx"`
		} `json:"error"`
	}
	told := json.Unmarshal(status.Body, &body) == nil && body.Error.Prompt > 0 && body.Error.Ctx > 0
	if told && engine.Believe(engine.Tokens("n_prompt_tokens", body.Error.Prompt), engine.Tokens("n_ctx", body.Error.Ctx)) == nil {
		e := tooLong(body.Error.Prompt, body.Error.Ctx)
		e.Err = errors.Join(e.Err, err) // the first has the figures, by which fronts word it (LO-404)
		return e
	}
	return err
}

// tooLong is the refusal of a prompt that leaves no room for a token.
func tooLong(prompt, ctx int) *task.Error {
	e := task.Errorf(task.InvalidParams, "the prompt has %d tokens and the context holds %d, one of them for the answer: shorten it by %d tokens or use a pool with a larger context",
		prompt, ctx, prompt-ctx+1)
	e.Engine = Name
	return e.Because(&task.TooLongError{Tokens: prompt, Ctx: ctx})
}
