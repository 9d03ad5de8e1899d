// SPDX-License-Identifier: GPL-3.0-or-later

// Package openai is the front that speaks OpenAI's dialect: chat completions, completions, embeddings and models (LO-408), rerank (LO-417),
// and responses (LO-418), which are kept for later requests (LO-430 to LO-434). It turns requests into tasks, and the events of a task into chunks or one answer.
package openai

import (
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
)

// The paths that are served. Under the last two lies what has an id.
const (
	chatPath        = "/v1/chat/completions"
	completionsPath = "/v1/completions"
	embeddingsPath  = "/v1/embeddings"
	responsesPath   = "/v1/responses"
	rerankPath      = "/v1/rerank"
	rerankingPath   = "/v1/reranking" // as llama-server calls it too
	modelsPath      = "/v1/models"
	keptPath        = responsesPath + "/"
	modelPath       = modelsPath + "/"
)

// Shared are the paths of which a request may be another server's, by its model (LO-468).
var Shared = []string{rerankPath, rerankingPath}

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
		chatPath:        {http.MethodPost: {Name: "openai.chat", Serve: f.chat}},
		completionsPath: {http.MethodPost: {Name: "openai.completion", Serve: f.completion}},
		embeddingsPath:  {http.MethodPost: {Name: "openai.embeddings", Serve: f.embeddings}},
		responsesPath:   {http.MethodPost: {Name: "openai.response", Serve: f.response}},
		keptPath:        {http.MethodGet: later, http.MethodPost: later, http.MethodDelete: later},
		rerankPath:      {http.MethodPost: {Name: "openai.rerank", Serve: f.rerank}},
		rerankingPath:   {http.MethodPost: {Name: "openai.rerank", Serve: f.rerank}},
		modelsPath:      {http.MethodGet: {Name: "openai.models", Serve: f.models}},
		modelPath:       {http.MethodGet: {Name: "openai.model", Serve: f.model}},
	}
	return f
}

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
