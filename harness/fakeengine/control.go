// SPDX-License-Identifier: GPL-3.0-or-later

package fakeengine

import (
	"net/http"
	"os"
	"strconv"
)

// routeControl adds the paths by which a test in another process controls the engine:
//
//	PUT  /_fake/script   a Script as JSON
//	PUT  /_fake/health   a Health as JSON
//	POST /_fake/release?n=3      lets stepped generations send 3 more tokens; n defaults to 1
//	POST /_fake/free     frees the slots that ignore_cancel kept
//	POST /_fake/reset
//	POST /_fake/exit?code=3      ends the process
//	GET  /_fake/state    a State as JSON, with "pid"; ?busy=1, ?waiting=1, ?sent=5, ?generations=2, ?finished=1,
//	                     ?canceled=1 wait until that figure is reached (busy and waiting: exactly, the others: at least)
func (e *Engine) routeControl() {
	e.mux.HandleFunc("PUT /_fake/script", func(w http.ResponseWriter, r *http.Request) {
		var s Script
		if read(w, r, &s) {
			e.SetScript(s)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	e.mux.HandleFunc("PUT /_fake/health", func(w http.ResponseWriter, r *http.Request) {
		var h Health
		if read(w, r, &h) {
			e.SetHealth(h)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	e.mux.HandleFunc("POST /_fake/release", func(w http.ResponseWriter, r *http.Request) {
		n, ok := number(r, "n", 1)
		if !ok {
			writeError(w, http.StatusBadRequest, "invalid_request_error", "n must be a number", nil)
			return
		}
		e.Release(n)
		w.WriteHeader(http.StatusNoContent)
	})
	e.mux.HandleFunc("POST /_fake/free", func(w http.ResponseWriter, _ *http.Request) {
		e.FreeSlots()
		w.WriteHeader(http.StatusNoContent)
	})
	e.mux.HandleFunc("POST /_fake/reset", func(w http.ResponseWriter, _ *http.Request) {
		e.Reset()
		w.WriteHeader(http.StatusNoContent)
	})
	e.mux.HandleFunc("POST /_fake/exit", func(w http.ResponseWriter, r *http.Request) {
		code, ok := number(r, "code", 3)
		if !ok || e.opts.Exit == nil {
			writeError(w, http.StatusBadRequest, "invalid_request_error", "code must be a number, and the engine a process of its own", nil)
			return
		}
		e.opts.Exit(code)
	})
	e.mux.HandleFunc("GET /_fake/state", e.getState)
}

func (e *Engine) getState(w http.ResponseWriter, r *http.Request) {
	conditions := []struct {
		name   string
		figure func(State) int
		exact  bool
	}{
		{"busy", func(s State) int { return s.Busy }, true},
		{"waiting", func(s State) int { return s.Waiting }, true},
		{"sent", func(s State) int { return s.TokensSent }, false},
		{"generations", func(s State) int { return s.Generations }, false},
		{"finished", func(s State) int { return s.Finished }, false},
		{"canceled", func(s State) int { return s.Canceled }, false},
	}
	s, err := e.Wait(r.Context(), func(s State) bool {
		for _, c := range conditions {
			want, ok := number(r, c.name, -1)
			if !ok || want < 0 {
				continue
			}
			if got := c.figure(s); got < want || c.exact && got != want {
				return false
			}
		}
		return true
	})
	if err != nil {
		return // the client went
	}
	writeJSON(w, http.StatusOK, struct {
		State
		PID int `json:"pid"`
	}{s, os.Getpid()})
}

// number reads a query parameter.
func number(r *http.Request, name string, missing int) (int, bool) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return missing, true
	}
	n, err := strconv.Atoi(text)
	return n, err == nil
}
