// SPDX-License-Identifier: GPL-3.0-or-later

// Package triton speaks the generate extension of Triton Inference Server with TensorRT-LLM's ensemble (ORCH-3057).
package triton

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// Name is the engine's name in configs, labels and errors.
const Name = task.Triton

// Engine is one replica.
type Engine struct {
	c       *httpsse.Client
	wanted  string // the model's name as configured; empty: none is
	modelID string
	model   atomic.Pointer[model] // nil: nobody has asked yet
}

// model is the model that the engine serves, and what it takes.
type model struct {
	name   string
	inputs []string
}

// path is that of a model's action.
func (m *model) path(action string) string { return "/v2/models/" + url.PathEscape(m.name) + action }

var _ interface {
	engine.Engine
	engine.BusyCounter
	engine.Meter
	engine.Closer
} = (*Engine)(nil)

// New makes an adapter. Nothing is sent before its first call. Close it to drop its idle connections.
func New(at engine.Endpoint) *Engine {
	return &Engine{
		wanted: at.Model, modelID: at.ModelID,
		c: httpsse.New(httpsse.Options{BaseURL: at.URL, APIKey: at.Key, Engine: Name, Product: "Triton", Network: at.Network, Retry: &httpsse.Retry{}}),
	}
}

// Close drops idle connections.
func (e *Engine) Close() { e.c.Close() }

// Health returns nil when the server is ready, and the model, once it is known.
func (e *Engine) Health(ctx context.Context) error {
	path := "/v2/health/ready"
	if m := e.model.Load(); m != nil {
		path = m.path("/ready")
	}
	_, err := e.c.Text(ctx, path)
	return err
}

// Props reads the server's metadata, and the model's. Triton tells neither a context nor slots.
func (e *Engine) Props(ctx context.Context) (engine.Props, error) {
	var server struct {
		Name       string   `json:"name"`
		Version    string   `json:"version"`
		Extensions []string `json:"extensions"`
	}
	if err := e.c.Identify(ctx, "/v2", &server); err != nil {
		return engine.Props{}, err
	}
	if server.Version == "" || len(server.Extensions) == 0 {
		return engine.Props{}, e.c.Stranger(errors.New("/v2 names no version, or no extensions"))
	}
	name, err := e.choose(ctx)
	if err != nil {
		return engine.Props{}, err
	}
	m := &model{name: name}
	var told struct {
		Versions []string `json:"versions"`
		Platform string   `json:"platform"`
		Inputs   []tensor `json:"inputs"`
		Outputs  []tensor `json:"outputs"`
	}
	if err := e.c.Get(ctx, m.path(""), &told); err != nil {
		return engine.Props{}, err
	}
	for _, t := range told.Inputs {
		m.inputs = append(m.inputs, t.Name)
	}
	if !m.takes("text_input") || !m.takes("stream") || !slices.Contains(told.Outputs, tensor{"text_output"}) {
		return engine.Props{}, e.c.Stranger(fmt.Errorf(
			"its model %s has no inputs `text_input` and `stream`, or no output `text_output`, as TensorRT-LLM's ensemble has", task.Clip(name, engine.MaxBuild)))
	}
	e.model.Store(m)
	return engine.Props{
		Build: task.Clip(server.Version, engine.MaxBuild), Features: features(engine.Worker{}),
		System: task.Clip(strings.TrimSpace(name+" "+told.Platform+" "+strings.Join(told.Versions, ",")), engine.MaxBuild),
	}, nil
}

type tensor struct {
	Name string `json:"name"`
}

func (m *model) takes(input string) bool { return slices.Contains(m.inputs, input) }

// usual are the names that TensorRT-LLM's own repository gives the model that takes text.
var usual = []string{"ensemble", "tensorrt_llm_bls"}

// choose finds the name by which the engine knows the pool's model: the configured one, or what it serves under the pool's name or a usual one, or else
// the only model that it has.
func (e *Engine) choose(ctx context.Context) (string, error) {
	var index []struct {
		Name  string `json:"name"`
		State string `json:"state"`
	}
	if err := e.c.Post(ctx, "/v2/repository/index", struct{}{}, &index); err != nil {
		return "", err
	}
	var served []string
	for _, m := range index {
		if m.State == "" || m.State == "READY" {
			served = append(served, m.Name)
		}
	}
	if e.wanted != "" {
		if slices.Contains(served, e.wanted) {
			return e.wanted, nil
		}
		return "", e.c.Unserved(e.wanted, served)
	}
	for _, name := range append([]string{e.modelID}, usual...) {
		if slices.Contains(served, name) {
			return name, nil
		}
	}
	if len(served) == 1 {
		return served[0], nil
	}
	return "", e.c.Unserved(e.modelID, served)
}

// told is what the engine said of its model last.
func (e *Engine) told(ctx context.Context) (*model, error) {
	if m := e.model.Load(); m != nil {
		return m, nil
	}
	if _, err := e.Props(ctx); err != nil {
		return nil, err
	}
	return e.model.Load(), nil
}

// Busy implements engine.BusyCounter, where the engine tells its metrics at the same address. By default it does so on another port, and then a cancel relies
// on the closed connection.
func (e *Engine) Busy(ctx context.Context) (int, error) {
	l, err := e.Load(ctx)
	if status, ok := errors.AsType[*httpsse.StatusError](err); ok && (status.Status == http.StatusNotFound || status.Status == http.StatusBadRequest) {
		return 0, nil
	}
	return l.Busy(), err
}

// Load reads /metrics.
func (e *Engine) Load(ctx context.Context) (engine.Load, error) {
	told, err := e.c.Metrics(ctx, "/metrics")
	if err != nil {
		return engine.Load{}, err
	}
	running, _ := told.Sum("nv_trt_llm_request_metrics", "request_type=active")
	waiting, _ := told.Sum("nv_inference_pending_request_count")
	l := engine.Load{Running: int(running), Waiting: int(waiting), KV: -1}
	if kv, told := told.Most("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type=fraction"); told {
		l.KV = kv
	}
	if err := l.Believe(); err != nil {
		return engine.Load{}, e.c.Reset(err)
	}
	return l, nil
}

// features are none: Triton's ensemble takes a text, and gives one.
func features(engine.Worker) []task.Feature { return nil }

// Kind is Triton with TensorRT-LLM.
func Kind() engine.Kind {
	return engine.Kind{
		Name: Name, Features: features, Own: own,
		New: func(at engine.Endpoint) engine.Engine { return New(at) },
	}
}

// own knows the paths by which models are loaded and unloaded, shared memory is registered, and tracing and logging are set.
func own(method, path string) bool {
	if method == http.MethodGet || method == http.MethodHead {
		return false
	}
	return strings.HasSuffix(path, "/load") || strings.HasSuffix(path, "/unload") || strings.Contains(path, "sharedmemory") ||
		strings.HasSuffix(path, "/trace/setting") || path == "/v2/logging"
}
