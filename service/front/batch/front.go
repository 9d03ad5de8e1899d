// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
)

// front is what the fronts of both dialects have in common. It implements gate.Front.
type front struct {
	f      *Feeder
	x      *exchange.Exchange
	refuse func(w http.ResponseWriter, r *http.Request, err error) // in the dialect's shape
	routes exchange.Routes
}

// Paths are where the front is mounted.
func (o *front) Paths() []string { return o.routes.Paths() }

// Route implements gate.Front.
func (o *front) Route(r *http.Request) gate.Route { return o.routes.Route(r) }

// Refuse implements gate.Front.
func (o *front) Refuse(w http.ResponseWriter, r *http.Request, err error) { o.refuse(w, r, err) }

// ServeHTTP serves a request that the gate has let through.
func (o *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := o.routes.Serve(w, r); err != nil {
		o.refuse(w, r, err)
	}
}
