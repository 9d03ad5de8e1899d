// SPDX-License-Identifier: GPL-3.0-or-later

// Package openai is the front that speaks OpenAI's dialect: chat completions, completions, embeddings and models (LO-408), rerank (LO-417),
// and responses (LO-418), which are kept for later requests (LO-430 to LO-434). It turns requests into tasks, and the events of a task into chunks or one answer.
package openai

import (
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
)

// Front implements gate.Front.
type Front struct {
	x      *exchange.Exchange
	routes exchange.Routes
}

// New makes a front.
func New(o exchange.Options) *Front {
	f := &Front{x: exchange.New("openai", o)}
	later := exchange.Operation{Name: "openai.kept", Serve: f.later}
	f.routes = exchange.Routes{
		"/v1/chat/completions": {http.MethodPost: {Name: "openai.chat", Serve: f.chat}},
		"/v1/completions":      {http.MethodPost: {Name: "openai.completion", Serve: f.completion}},
		"/v1/embeddings":       {http.MethodPost: {Name: "openai.embeddings", Serve: f.embeddings}},
		"/v1/responses":        {http.MethodPost: {Name: "openai.response", Serve: f.response}},
		responsesPath:          {http.MethodGet: later, http.MethodPost: later, http.MethodDelete: later},
		"/v1/rerank":           {http.MethodPost: {Name: "openai.rerank", Serve: f.rerank}},
		"/v1/reranking":        {http.MethodPost: {Name: "openai.rerank", Serve: f.rerank}},
		"/v1/models":           {http.MethodGet: {Name: "openai.models", Serve: f.models}},
		modelPath:              {http.MethodGet: {Name: "openai.model", Serve: f.model}},
	}
	return f
}

const modelPath = "/v1/models/"

// Paths are where the front is mounted.
func (f *Front) Paths() []string { return f.routes.Paths() }

// Route implements gate.Front.
func (f *Front) Route(r *http.Request) gate.Route { return f.routes.Route(r) }

// ServeHTTP serves a request that the gate has let through.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f.routes.Serve(w, r); err != nil {
		f.Refuse(w, r, err)
	}
}
