// SPDX-License-Identifier: GPL-3.0-or-later

// Package ollama is the front that speaks Ollama's dialect: chats, completions and embeddings (LO-424), and the models that can be named,
// loaded, pulled and deleted (LO-425).
package ollama

import (
	"context"
	"io"
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Version is the version of Ollama whose API this front follows. Clients ask for it to learn what a server can do: some want 0.13.4 or
// later before they use /v1/responses.
const Version = "0.17.4"

// Options are what a Front is made from. All are needed.
type Options struct {
	exchange.Options
	Library Library
	// Status tells of a task, also once it has ended.
	Status func(ctx context.Context, id string) (task.Status, error)
}

// Front implements gate.Front.
type Front struct {
	o      Options
	x      *exchange.Exchange
	routes exchange.Routes
}

// New makes a front.
func New(o Options) *Front {
	f := &Front{o: o, x: exchange.New("ollama", o.Options)}
	post, get := http.MethodPost, http.MethodGet
	f.routes = exchange.Routes{
		Root:              {get: {Name: "ollama.running", Serve: running}},
		"/api/version":    {get: {Name: "ollama.version", Serve: f.version}},
		"/api/tags":       {get: {Name: "ollama.tags", Serve: f.tags}},
		"/api/ps":         {get: {Name: "ollama.ps", Serve: f.ps}},
		"/api/show":       {post: {Name: "ollama.show", Serve: f.show}},
		"/api/chat":       {post: {Name: "ollama.chat", Serve: f.chat}},
		"/api/generate":   {post: {Name: "ollama.generate", Serve: f.generate}},
		"/api/embed":      {post: {Name: "ollama.embed", Serve: f.embed}},
		"/api/embeddings": {post: {Name: "ollama.embeddings", Serve: f.embeddings}},
		"/api/pull":       {post: {Name: "ollama.pull", Serve: f.pull}},
		"/api/delete":     {http.MethodDelete: {Name: "ollama.delete", Serve: f.remove}},
		"/api/copy":       {post: {Name: "ollama.copy", Serve: cannot(noCopy)}},
		"/api/create":     {post: {Name: "ollama.create", Serve: cannot(noCreate)}},
		"/api/push":       {post: {Name: "ollama.push", Serve: cannot(noPush)}},
		"/api/blobs/":     {post: {Name: "ollama.blob", Serve: cannot(noBlobs)}, get: {Name: "ollama.blob", Serve: cannot(noBlobs)}},
	}
	return f
}

// Where the front is mounted: at Root alone, and at Prefix with all that lies under it.
const (
	Root   = "/"
	Prefix = "/api"
)

// Route implements gate.Front. That something runs here is no secret: clients look before they have a key.
func (f *Front) Route(r *http.Request) gate.Route {
	route := f.routes.Route(r)
	if r.URL.Path == Root {
		route.Access = gate.Anybody
	}
	return route
}

// ServeHTTP serves a request that the gate has let through.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f.routes.Serve(w, r); err != nil {
		f.Refuse(w, r, err)
	}
}

// running says what clients look for to learn that they can begin.
func running(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "Ollama is running") // else the client is gone
	return nil
}

func (f *Front) version(w http.ResponseWriter, _ *http.Request) error {
	f.x.Write(w, http.StatusOK, struct {
		Version string `json:"version"`
	}{Version})
	return nil
}

// ndjson implements delivery.Dialect.
type ndjson struct{ contentType string }

var (
	_ delivery.Dialect = ndjson{}

	lineByLine = ndjson{"application/x-ndjson"}
	oneAnswer  = ndjson{"application/json"} // which is long in coming
)

// ContentType is delivery.Dialect's.
func (d ndjson) ContentType() string { return d.contentType }

// Every is delivery.Dialect's.
func (ndjson) Every() int { return exchange.LookEvery }

// Metrics is delivery.Dialect's. The dialect has no place for them.
func (ndjson) Metrics(b []byte, _ task.Metrics) ([]byte, error) { return b, nil }

// Error is delivery.Dialect's.
func (ndjson) Error(b []byte, e *task.Error) ([]byte, error) { return appendError(b, e), nil }

// KeepAlive is delivery.Dialect's. White space may stand before any JSON, and nothing else may: there are no comments.
func (ndjson) KeepAlive(b []byte) []byte { return append(b, ' ') }
