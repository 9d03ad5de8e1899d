// SPDX-License-Identifier: GPL-3.0-or-later

// Package anthropic is the front that speaks Anthropic's dialect: messages, the counting of their tokens, and models (LO-421, LO-422). It
// turns requests into tasks, and the events of a task into blocks of content or one message.
package anthropic

import (
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
)

// VersionHeader is sent by the dialect's clients alone. It tells whose the paths are that other dialects have too.
const VersionHeader = "Anthropic-Version"

// The paths that are served. Under the last one lies what has an id.
const (
	MessagesPath = "/v1/messages" // whose requests a batch has (LO-440)
	countPath    = MessagesPath + "/count_tokens"
	ModelsPath   = "/v1/models"
	modelPath    = ModelsPath + "/"
)

// Front implements gate.Front.
type Front struct {
	x      *exchange.Exchange
	routes exchange.Routes
}

// New makes a front.
func New(o exchange.Options) *Front {
	f := &Front{x: exchange.New("anthropic", o)}
	f.routes = exchange.Routes{
		MessagesPath: {http.MethodPost: {Name: "anthropic.messages", Serve: f.messages}},
		countPath:    {http.MethodPost: {Name: "anthropic.count_tokens", Serve: f.count}},
		ModelsPath:   {http.MethodGet: {Name: "anthropic.models", Serve: f.models}},
		modelPath:    {http.MethodGet: {Name: "anthropic.model", Serve: f.model}},
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
