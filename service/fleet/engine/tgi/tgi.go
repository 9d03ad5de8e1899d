// SPDX-License-Identifier: GPL-3.0-or-later

// Package tgi speaks Text Generation Inference's own API (ORCH-3056).
package tgi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/task"
)

// Name is the engine's name in configs, labels and errors.
const Name = task.TGI

// Engine is one replica.
type Engine struct {
	c     *httpsse.Client
	chats *openai.Engine
	model string               // the model's name as configured; empty: none is
	info  atomic.Pointer[info] // what the engine told of itself last; nil: it was never asked
}

// info is the answer of /info, as far as it matters.
type info struct {
	Model    string `json:"model_id"`
	SHA      string `json:"model_sha"`
	Pipeline string `json:"model_pipeline_tag"`
	Dtype    string `json:"model_dtype"`
	Device   string `json:"model_device_type"`
	Router   string `json:"router"`
	Version  string `json:"version"`
	Input    int    `json:"max_input_tokens"`
	Total    int    `json:"max_total_tokens"` // of prompt and answer together
	Requests int    `json:"max_concurrent_requests"`
	Stops    int    `json:"max_stop_sequences"`
}

var _ interface {
	engine.Engine
	engine.TokenCounter
	engine.Chatter
	engine.ChatCounter
	engine.BusyCounter
	engine.Meter
	engine.Closer
} = (*Engine)(nil)

// New makes an adapter. Nothing is sent before its first call. Close it to drop its idle connections.
func New(at engine.Endpoint) *Engine {
	return &Engine{model: at.Model, chats: openai.New(at, profile), c: httpsse.New(httpsse.Options{
		BaseURL: at.URL, APIKey: at.Key, Engine: Name, Product: "TGI", Network: at.Network, Retry: &httpsse.Retry{},
	})}
}

// Close drops idle connections.
func (e *Engine) Close() {
	e.c.Close()
	e.chats.Close()
}

// Health returns nil when the model answers. TGI says so with an empty body, as others do too: Props tells whether it is one.
func (e *Engine) Health(ctx context.Context) error {
	_, err := e.c.Text(ctx, "/health")
	return err
}

// Props reads /info. A TGI batches all that it has, so its slots are the requests that it takes at a time.
func (e *Engine) Props(ctx context.Context) (engine.Props, error) {
	i := &info{}
	if err := e.c.Identify(ctx, "/info", i); err != nil {
		return engine.Props{}, err
	}
	if i.Model == "" || i.Version == "" || i.Total <= 0 || i.Requests <= 0 {
		return engine.Props{}, e.c.Stranger(errors.New("/info names no model, no version or no bounds"))
	}
	if err := engine.Believe(
		engine.Tokens("max_total_tokens", i.Total), engine.Tokens("max_input_tokens", i.Input),
		engine.Figure{Name: "max_stop_sequences", Value: float64(i.Stops), Most: engine.MaxSlots},
	); err != nil {
		return engine.Props{}, e.c.Reset(err)
	}
	if e.model != "" && e.model != i.Model {
		return engine.Props{}, e.c.Unserved(e.model, []string{i.Model})
	}
	e.info.Store(i)
	e.chats.Know(i.Model, featuresOf(i))
	return engine.Props{
		Build: task.Clip(i.Version, engine.MaxBuild), System: task.Clip(system(i), engine.MaxBuild), Ctx: i.Total,
		Slots: min(i.Requests, engine.MaxSlots), Features: featuresOf(i),
	}, nil
}

// system is what of the model and its device can change bytes.
func system(i *info) string {
	return strings.Join(slices.DeleteFunc([]string{i.Model, i.SHA, i.Dtype, i.Device}, func(s string) bool { return s == "" }), " ")
}

// features are what a TGI can have. Of grammars it knows regular expressions only, and no GBNF.
func features(engine.Worker) []task.Feature {
	return []task.Feature{task.FeatureTools, task.FeatureFormats, task.FeatureImages}
}

// seesImages is the tag of models that do.
const seesImages = "image-text-to-text"

// featuresOf are what it has. Only of images it tells, by the model's tag.
func featuresOf(i *info) []task.Feature {
	if i.Pipeline == seesImages {
		return features(engine.Worker{})
	}
	return []task.Feature{task.FeatureTools, task.FeatureFormats}
}

// told is what the engine said of itself last.
func (e *Engine) told(ctx context.Context) (*info, error) {
	if i := e.info.Load(); i != nil {
		return i, nil
	}
	if _, err := e.Props(ctx); err != nil {
		return nil, err
	}
	return e.info.Load(), nil
}

// CountTokens asks /tokenize, which adds the special tokens that a prompt gets.
func (e *Engine) CountTokens(ctx context.Context, prompt string) (int, error) {
	var tokens []struct{}
	err := e.c.Post(ctx, "/tokenize", request{Inputs: prompt}, &tokens)
	if status, ok := errors.AsType[*httpsse.StatusError](err); ok && status.Status == http.StatusNotFound && isError(status.Body) {
		return 0, e.c.Reset(errors.New("the engine counts no tokens: its model has no fast tokenizer, without which TGI serves no pool"))
	}
	if err != nil {
		return 0, err
	}
	if err := engine.Believe(engine.Tokens("the number of tokens", len(tokens))); err != nil {
		return 0, e.c.Reset(err)
	}
	return len(tokens), nil
}

// isError reports whether an answer is an error of TGI's own.
func isError(body []byte) bool {
	var e struct {
		Error string `json:"error"`
	}
	return json.Unmarshal(body, &e) == nil && e.Error != ""
}

// Busy implements engine.BusyCounter. A request whose connection was closed is one no longer as soon as TGI has noticed.
func (e *Engine) Busy(ctx context.Context) (int, error) {
	l, err := e.Load(ctx)
	return l.Busy(), err
}

// Load reads /metrics. TGI does not tell how full its KV is.
func (e *Engine) Load(ctx context.Context) (engine.Load, error) {
	told, err := e.c.Metrics(ctx, "/metrics")
	if err != nil {
		return engine.Load{}, err
	}
	running, _ := told.Sum("tgi_batch_current_size") // there is none before the first request
	waiting, _ := told.Sum("tgi_queue_size")
	l := engine.Load{Running: int(running), Waiting: int(waiting), KV: -1}
	if err := l.Believe(); err != nil {
		return engine.Load{}, e.c.Reset(err)
	}
	return l, nil
}

// Kind is Text Generation Inference.
func Kind() engine.Kind {
	return engine.Kind{
		Name: Name, Features: features, Own: func(string, string) bool { return false },
		New:   func(at engine.Endpoint) engine.Engine { return New(at) },
		Start: start(),
	}
}
