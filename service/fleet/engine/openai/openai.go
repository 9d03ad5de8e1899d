// SPDX-License-Identifier: GPL-3.0-or-later

// Package openai speaks OpenAI's API to servers that have it (OC-ADAPT-OAI-6000). A Profile says how each deviates. The adapters of engines that
// have this API beside their own use it, too.
package openai

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// Engine is one replica.
type Engine struct {
	c       *httpsse.Client
	at      engine.Endpoint
	profile Profile              // that it was made with
	props   atomic.Pointer[told] // what it told last; nil: it was never asked
}

// Know takes over what the server has told by other paths than its list of models. Then it is not asked for that.
func (e *Engine) Know(model string, features []task.Feature) {
	e.props.Store(&told{Profile: e.profile, model: model, build: e.profile.Name, features: features})
}

// told is what a server told of itself that a job depends on.
type told struct {
	Profile

	model    string // the name by which it knows the model
	ctx      int    // 0: it does not tell
	features []task.Feature
	build    string
}

var _ interface {
	engine.Engine
	engine.Chatter
	engine.Embedder
	engine.Reranker
	engine.Closer
} = (*Engine)(nil)

// New makes an adapter for servers with that profile. Nothing is sent before its first call. Close it to drop its idle connections.
func New(at engine.Endpoint, p Profile) *Engine {
	return &Engine{at: at, profile: p, c: httpsse.New(httpsse.Options{
		BaseURL: base(at.URL), APIKey: at.Key, Engine: p.Kind, Product: p.Product, Network: at.Network, Retry: &httpsse.Retry{},
	})}
}

// base is an address without the /v1 that people copy from other clients' settings.
func base(url string) string { return strings.TrimSuffix(strings.TrimRight(url, "/"), "/v1") }

// Client is what the adapter reaches the server by.
func (e *Engine) Client() *httpsse.Client { return e.c }

// Close drops idle connections.
func (e *Engine) Close() { e.c.Close() }

// Chats implements engine.Chatter.
func (e *Engine) Chats() {}

// Health returns nil when the server answers, and has the model.
func (e *Engine) Health(ctx context.Context) error {
	if t := e.props.Load(); t != nil && t.Health != "" {
		return e.c.Get(ctx, t.Health, nil)
	}
	_, err := e.find(ctx)
	return err
}

// Props asks the server what it is and has.
func (e *Engine) Props(ctx context.Context) (engine.Props, error) {
	t, err := e.probe(ctx)
	if err != nil {
		return engine.Props{}, err
	}
	e.props.Store(t)
	return engine.Props{Build: t.build, Ctx: t.ctx, Features: t.features}, nil
}

// Told is what the server told of itself last: its profile, and the name by which it knows the model.
func (e *Engine) Told(ctx context.Context) (Profile, string, error) {
	t, err := e.told(ctx)
	if err != nil {
		return Profile{}, "", err
	}
	return t.Profile, t.model, nil
}

func (e *Engine) told(ctx context.Context) (*told, error) {
	if t := e.props.Load(); t != nil {
		return t, nil
	}
	if _, err := e.Props(ctx); err != nil {
		return nil, err
	}
	return e.props.Load(), nil
}

func (e *Engine) probe(ctx context.Context) (*told, error) {
	m, err := e.find(ctx)
	if err != nil {
		return nil, err
	}
	t := &told{Profile: e.profile, model: m.ID}
	if t.Name == "" {
		found, err := e.recognise(ctx, m)
		if err != nil {
			return nil, err
		}
		found.Kind = t.Kind
		t.Profile = found
	}
	version, err := e.ask(ctx, t.Version, m.ID)
	if err != nil {
		return nil, err
	}
	t.build = t.Name
	if text, ok := version.(string); ok && text != "" {
		t.build = task.Clip(t.Name+" "+text, engine.MaxBuild)
		t.Profile = t.asOf(text)
	}
	ctxOf, err := e.ask(ctx, t.Ctx, m.ID)
	if err != nil {
		return nil, err
	}
	if t.ctx, err = whole("the context", cmp.Or[any](ctxOf, m.Ctx)); err != nil {
		return nil, e.c.Reset(err)
	}
	t.features, err = e.features(ctx, &t.Profile, m.ID)
	return t, err
}

// recognise finds out which server answers: by the owner of its model, or by a path that only it has.
func (e *Engine) recognise(ctx context.Context, m model) (Profile, error) {
	for _, p := range Known() {
		if slices.Contains(p.Owners, m.Owner) {
			return p, nil
		}
	}
	for _, p := range Known() {
		if p.Sign.Path == "" {
			continue
		}
		sign, err := e.ask(ctx, p.Sign, m.ID)
		if err != nil {
			return p, err
		}
		if sign != nil {
			return p, nil
		}
	}
	return Any, nil
}

// model is one that a server has.
type model struct {
	ID    string  `json:"id"`
	Owner string  `json:"owned_by"`
	Ctx   float64 `json:"max_model_len"`
}

// find finds the pool's model among those of the server.
func (e *Engine) find(ctx context.Context) (model, error) {
	var body struct {
		Data []model `json:"data"`
	}
	err := e.c.Identify(ctx, "/v1/models", &body)
	if err != nil {
		return model{}, err
	}
	names := make([]string, len(body.Data))
	for i, m := range body.Data {
		names[i] = m.ID
	}
	for _, name := range []string{e.at.Model, e.at.ModelID} {
		if i := slices.IndexFunc(names, func(n string) bool { return same(n, name) }); i >= 0 && name != "" {
			return body.Data[i], nil
		}
	}
	if e.at.Model == "" && len(names) == 1 {
		return body.Data[0], nil
	}
	wanted := cmp.Or(e.at.Model, e.at.ModelID)
	return model{}, e.c.Unserved(wanted, listed(wanted, names))
}

// same reports whether two names are of one model: Ollama adds the tag that is left out.
func same(served, wanted string) bool { return served == wanted || served == wanted+":latest" }

// listed are names in their order, but for the one that was meant, which comes first.
func listed(wanted string, names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	if meant := nearest.Name(wanted, names); meant != "" {
		at := slices.Index(names, meant)
		names = slices.Insert(slices.Delete(names, at, at+1), 0, meant)
	}
	return names
}
