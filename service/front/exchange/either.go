// SPDX-License-Identifier: GPL-3.0-or-later

package exchange

import (
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/gate"
)

// Either is the front of a path that two dialects have. The first gets the requests with a header that only its own clients send.
func Either(header string, with, without gate.Front) gate.Front {
	return either{header, with, without}
}

type either struct {
	header        string
	with, without gate.Front
}

func (e either) of(r *http.Request) gate.Front {
	if r.Header.Get(e.header) != "" {
		return e.with
	}
	return e.without
}

// Route implements gate.Front.
func (e either) Route(r *http.Request) gate.Route { return e.of(r).Route(r) }

// Refuse implements gate.Front.
func (e either) Refuse(w http.ResponseWriter, r *http.Request, err error) { e.of(r).Refuse(w, r, err) }

// ServeHTTP implements gate.Front.
func (e either) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", e.header)
	e.of(r).ServeHTTP(w, r)
}
