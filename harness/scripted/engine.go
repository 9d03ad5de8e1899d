// SPDX-License-Identifier: GPL-3.0-or-later

// Package scripted is a conformance engine: it speaks llama-server's API, answers what a script says, and refuses whatever llama-server does not
// document. So tests of the fronts and of whole agents know what comes, and find what is sent wrongly.
//
// A test uses it in its own process as an http.Handler, or runs its program (./cmd/scripted), which takes the arguments that a pool in mode
// `binary` gives llama-server. From another process it is controlled over HTTP:
//
//	PUT  /_scripted/script      a Script as JSON
//	PUT  /_scripted/now         the date that the template prints, as plain text, such as `30 Nov 2026`
//	POST /_scripted/release?n=1 lets steps that wait go on
//	GET  /_scripted/requests    what was asked: [{"path", "body", "refused"}], the last 1,000
//
// Its figures are easy to count: a token of a prompt is 4 bytes or what is left of them, and there is one more for the begin. An image is 16
// tokens. A piece of an answer is one token. Its chat template writes a turn as `<|im_start|>role`, a line feed, the content, `<|im_end|>`, a line feed.
package scripted

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// bodyLimit bounds what the engine reads of a request.
const bodyLimit = 64 << 20

// Options set the engine up.
type Options struct {
	Build   string // build_info; default "scripted-1"
	Ctx     int    // tokens that a slot's context holds; default 131072
	Slots   int    // default 1
	APIKey  string // if set, every path but /health and /_scripted/ wants it as bearer token
	NoTools bool   // its template takes no tools
	Vision  bool   // it takes images
	Thinks  bool   // its template knows thinking: reasoning_effort, enable_thinking
	Date    string // that its template prints; empty: it prints none
	Script  Script
	Exit    func(code int) // what a step's Exit calls; nil: it cuts the connection
}

// Engine is the scripted engine. Make it with New.
type Engine struct {
	opts Options
	mux  *http.ServeMux

	held     watch.State // guards what follows
	script   Script
	date     string
	played   []int // how often each rule was played
	once     map[string]bool
	busy     []bool
	jobs     []int // the number of each slot's last job
	job      int
	released int
	log      []Request
}

// Request is one that the engine got.
type Request struct {
	Path string          `json:"path"`
	Body json.RawMessage `json:"body"`
	// Refused is why it was refused; empty: it was not.
	Refused string `json:"refused,omitempty"`
}

var _ http.Handler = (*Engine)(nil)

// New makes an engine.
func New(opts Options) *Engine {
	if opts.Build == "" {
		opts.Build = "scripted-1"
	}
	if opts.Ctx == 0 {
		opts.Ctx = 131072
	}
	if opts.Slots == 0 {
		opts.Slots = 1
	}
	e := &Engine{
		opts: opts, mux: http.NewServeMux(), once: map[string]bool{}, date: opts.Date,
		busy: make([]bool, opts.Slots), jobs: make([]int, opts.Slots),
	}
	e.SetScript(opts.Script)
	e.mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	e.mux.HandleFunc("GET /props", e.getProps)
	e.mux.HandleFunc("GET /slots", e.getSlots)
	e.mux.HandleFunc("POST /slots/{id}", e.eraseSlot)
	e.mux.HandleFunc("POST /tokenize", e.tokenize)
	e.mux.HandleFunc("POST /detokenize", e.detokenize)
	e.mux.HandleFunc("POST /apply-template", e.applyTemplate)
	for _, path := range []string{"/completion", "/completions"} {
		e.mux.HandleFunc("POST "+path, e.completion)
	}
	for _, path := range []string{"/chat/completions", "/v1/chat/completions"} {
		e.mux.HandleFunc("POST "+path, e.chat)
		e.mux.HandleFunc("POST "+path+"/input_tokens", e.inputTokens)
	}
	e.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, Failure{http.StatusNotFound, "File Not Found", "not_found_error"}, nil)
	})
	e.routeControl()
	return e
}

// SetScript replaces the script. Answers that run keep theirs.
func (e *Engine) SetScript(s Script) {
	e.held.Update(func() { e.script, e.played = s, make([]int, len(s.Rules)) })
}

// SetDate replaces the date that the template prints.
func (e *Engine) SetDate(date string) { e.held.Update(func() { e.date = date }) }

// Release lets n steps that wait go on.
func (e *Engine) Release(n int) { e.held.Update(func() { e.released += n }) }

// Requests are those that the engine got, the oldest first.
func (e *Engine) Requests() (all []Request) {
	e.held.Look(func() { all = append([]Request{}, e.log...) })
	return all
}

// Wait returns as soon as ok is true of the requests, or with ctx's error.
func (e *Engine) Wait(ctx context.Context, ok func([]Request) bool) error {
	return e.held.Until(ctx, func() bool { return ok(e.log) })
}

// Busy is how many slots are in use.
func (e *Engine) Busy() (n int) {
	e.held.Look(func() {
		for _, busy := range e.busy {
			if busy {
				n++
			}
		}
	})
	return n
}

// ServeHTTP answers one request.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	open := r.URL.Path == "/health" || strings.HasPrefix(r.URL.Path, "/_scripted/")
	if e.opts.APIKey != "" && !open {
		given := r.Header.Get("Authorization")
		if subtle.ConstantTimeCompare([]byte(given), []byte("Bearer "+e.opts.APIKey)) != 1 {
			writeError(w, Failure{http.StatusUnauthorized, "Invalid API Key", "authentication_error"}, nil)
			return
		}
	}
	e.mux.ServeHTTP(w, r)
}

// note adds a request to the log.
func (e *Engine) note(path string, body []byte, refused error) {
	r := Request{Path: path, Body: body}
	if !json.Valid(body) {
		r.Body, _ = json.Marshal(string(body))
	}
	if refused != nil {
		r.Refused = refused.Error()
	}
	e.held.Update(func() {
		const most = 1000
		e.log = append(e.log, r)
		e.log = e.log[max(0, len(e.log)-most):]
	})
}

// pick finds the rule for a request.
func (e *Engine) pick(a asked) (rule Rule, at int) {
	rule, at = Rule{Play: []Step{{Text: "No rule of the script matches."}}}, -1
	e.held.Update(func() {
		for i, r := range e.script.Rules {
			if r.matches(a, e.played[i]) {
				e.played[i]++
				rule, at = r, i
				return
			}
		}
	})
	return rule, at
}

// first reports whether a step that happens once has yet to happen.
func (e *Engine) first(rule, step int) (first bool) {
	key := fmt.Sprint(rule, " ", step)
	e.held.Update(func() { first, e.once[key] = !e.once[key], true })
	return first
}

// takeSlot waits for a free slot, as a request to a busy llama-server does. Wanted is the slot that is asked for, or -1.
func (e *Engine) takeSlot(ctx context.Context, wanted int) (slot int, err error) {
	err = e.held.Until(ctx, func() bool {
		for i, busy := range e.busy {
			if !busy && (wanted < 0 || wanted == i) {
				slot = i
				e.busy[i], e.jobs[i] = true, e.job
				e.job++
				return true
			}
		}
		return false
	})
	return slot, err
}

func (e *Engine) freeSlot(slot int) { e.held.Update(func() { e.busy[slot] = false }) }

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone does not need it
}

func writeError(w http.ResponseWriter, f Failure, more map[string]any) {
	writeJSON(w, f.Code, f.body(more))
}

func (f Failure) body(more map[string]any) map[string]any {
	if f.Type == "" {
		f.Type = "server_error"
	}
	e := map[string]any{"code": f.Code, "message": f.Message, "type": f.Type}
	maps.Copy(e, more)
	return map[string]any{"error": e}
}
