// SPDX-License-Identifier: GPL-3.0-or-later

// Package fakeengine is the fault-injecting engine of the tests (ORCH-3058). It is an http.Handler with the part of llama-server's native API that
// the llama.cpp adapter uses, and it misbehaves as it is told.
//
// A test tells it by its Go methods or, from another process, by the control paths under /_fake/ (control.go). No production configuration can
// reach it: nothing outside tests and harness/ may import it.
//
// Its figures are easy to count by hand. A token of a prompt is a word, as strings.Fields splits it; if asked for, there is one BOS more. A generated
// token is one word with the space after it. The output depends only on prompt, seed and sampling parameters. At temperature 0 the seed
// does not count, as in a real engine.
package fakeengine

import (
	"context"
	"net/http"
	"time"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// Fault is a way to misbehave in a generation.
type Fault string

// The faults. A fault in a stream happens after Script.After tokens.
const (
	NoFault    Fault = ""
	Stall      Fault = "stall"       // sends nothing more, and keeps the connection until the client goes
	Die        Fault = "die"         // cuts the connection
	Exit       Fault = "exit"        // ends the process (Options.Exit), or cuts the connection if Exit is nil
	ErrorFrame Fault = "error_frame" // sends the engine's error as the stream's last frame
	SplitRune  Fault = "split_rune"  // sends the bytes of "é" in two frames, each invalid UTF-8 by itself, and goes on
	HugeLine   Fault = "huge_line"   // sends one frame of Script.Bytes content bytes, and goes on
	Garbage    Fault = "garbage"     // sends a frame that is not JSON
	Refuse     Fault = "refuse"      // answers Script.Status before any frame; After does not count
)

// Script says what generations do. With the zero value they are plain: as many tokens as the request asks for, at once.
type Script struct {
	Match      string   `json:"match,omitempty"`       // only prompts that contain this text follow the script; others are plain
	Times      int      `json:"times,omitempty"`       // the script is for this many matching generations, then plain; 0: all
	Tokens     int      `json:"tokens,omitempty"`      // ends by itself after this many tokens; 0: n_predict, or 16
	Text       []string `json:"text,omitempty"`        // these tokens instead of made-up ones
	IntervalMS int      `json:"interval_ms,omitempty"` // time between tokens, and before each frame of Progress
	Progress   int      `json:"progress,omitempty"`    // so many frames about the prompt come before the first token, where the request asks for them
	Stepped    bool     `json:"stepped,omitempty"`     // every token waits for Release
	Fault      Fault    `json:"fault,omitempty"`
	After      int      `json:"after,omitempty"`  // tokens sent before the fault
	Status     int      `json:"status,omitempty"` // of Refuse; 0: 503
	Bytes      int      `json:"bytes,omitempty"`  // of HugeLine; 0: 8 MiB
	// Figures take the place of those in the last frame, its timings included. They need not be possible.
	Figures map[string]float64 `json:"figures,omitempty"`
	// IgnoreCancel keeps the slot busy after the client has gone, until FreeSlots.
	IgnoreCancel bool `json:"ignore_cancel,omitempty"`
}

// Health says how GET /health behaves. With the zero value it is healthy, at once.
type Health struct {
	Loading bool `json:"loading,omitempty"`  // answers 503, as during the load of a model
	DelayMS int  `json:"delay_ms,omitempty"` // time before the answer
	Hang    bool `json:"hang,omitempty"`     // no answer until the client goes
}

// State is what the engine is doing and has done; the counters include every generation since New or Reset.
type State struct {
	Busy        int `json:"busy"`        // slots in use
	Waiting     int `json:"waiting"`     // generations waiting for a slot
	Generations int `json:"generations"` // that got a slot
	Finished    int `json:"finished"`    // ended by themselves
	Canceled    int `json:"canceled"`    // ended by the client
	TokensSent  int `json:"tokens_sent"`
}

// Options set the engine up.
type Options struct {
	Build  string         // build_info; default "fake-1"
	Ctx    int            // tokens a slot's context holds; default 256
	Slots  int            // default 1
	APIKey string         // if set, every path but /health and /_fake/ wants it as bearer token
	Exit   func(code int) // what Fault Exit and POST /_fake/exit call
}

// Engine is the fake engine. Make it with New.
type Engine struct {
	opts Options
	mux  *http.ServeMux

	held     watch.State // guards what follows
	script   Script
	matched  int // generations the script was applied to
	health   Health
	released int // tokens that stepped generations may send
	kept     int // slots that IgnoreCancel keeps busy
	state    State
}

var _ http.Handler = (*Engine)(nil)

// New makes an engine.
func New(opts Options) *Engine {
	if opts.Build == "" {
		opts.Build = "fake-1"
	}
	if opts.Ctx == 0 {
		opts.Ctx = 256
	}
	if opts.Slots == 0 {
		opts.Slots = 1
	}
	e := &Engine{opts: opts, mux: http.NewServeMux()}
	e.mux.HandleFunc("GET /health", e.getHealth)
	e.mux.HandleFunc("GET /props", e.getProps)
	e.mux.HandleFunc("GET /slots", e.getSlots)
	e.mux.HandleFunc("POST /tokenize", e.tokenize)
	e.mux.HandleFunc("POST /apply-template", e.applyTemplate)
	e.mux.HandleFunc("POST /completion", e.completion)
	for _, path := range []string{"/embedding", "/embeddings"} {
		e.mux.HandleFunc("POST "+path, e.embedding)
	}
	for _, path := range []string{"/rerank", "/reranking", "/v1/rerank", "/v1/reranking"} {
		e.mux.HandleFunc("POST "+path, e.rerank)
	}
	e.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, "not_found_error", "File Not Found", nil)
	})
	e.routeControl()
	return e
}

// SetScript replaces the script, also for generations that have not got their slot yet.
func (e *Engine) SetScript(s Script) {
	e.held.Update(func() { e.script, e.matched = s, 0 })
}

// SetHealth replaces the behaviour of /health.
func (e *Engine) SetHealth(h Health) { e.held.Update(func() { e.health = h }) }

// Release lets stepped generations send n more tokens.
func (e *Engine) Release(n int) { e.held.Update(func() { e.released += n }) }

// FreeSlots frees the slots that IgnoreCancel kept.
func (e *Engine) FreeSlots() { e.held.Update(func() { e.state.Busy -= e.kept; e.kept = 0 }) }

// Reset forgets script, health, releases and counters. Generations that run keep their script.
func (e *Engine) Reset() {
	e.held.Update(func() {
		e.script, e.matched, e.health, e.released = Script{}, 0, Health{}, 0
		e.state = State{Busy: e.state.Busy, Waiting: e.state.Waiting}
	})
}

// State returns what the engine is doing.
func (e *Engine) State() (s State) {
	e.held.Look(func() { s = e.state })
	return s
}

// Wait returns as soon as ok is true of the state, with that state, or with ctx's error. Tests use it instead of sleeping.
func (e *Engine) Wait(ctx context.Context, ok func(State) bool) (State, error) {
	var s State
	err := e.held.Until(ctx, func() bool { s = e.state; return ok(s) })
	return s, err
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
