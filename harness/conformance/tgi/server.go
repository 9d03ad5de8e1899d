// SPDX-License-Identifier: GPL-3.0-or-later

// Package tgi is a conformance server for Text Generation Inference: real HTTP, and answers in the form of version 3. Every request has to be as
// contract.json says, which is this project's own wording of the engine's OpenAPI document, closed: a field that the document does not name is an
// error, since TGI would ignore it and nobody would see it. It also refuses what the router's own checks refuse.
//
// A token of a prompt is 4 bytes or what is left of them, and there is one more for the begin (package voice).
package tgi

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/harness/conformance/voice"
	"github.com/llama-orch/llama-orch/harness/watch"
)

const bodyLimit = 64 << 20

// Options set the server up.
type Options struct {
	Model    string        // default "conformance/model"
	Version  string        // default "3.3.6"
	Input    int           // tokens that a prompt may have; default one less than Total
	Total    int           // tokens that prompt and answer may have together; default 4096
	Stops    int           // stop strings that it takes; default 4
	Requests int           // that it takes at a time; default 128
	Batch    int           // that it computes at a time, while the others wait; default 4
	Interval time.Duration // between two tokens
	Key      string        // if set, every path but /health wants it as bearer token
	Images   bool          // its model sees images
	NoCount  bool          // its model has no fast tokenizer
}

// Error is an error as TGI tells it.
type Error struct {
	Text   string // "" is none
	Type   string
	Status int
	After  int // tokens; 0: it comes before the first
	// Head sends the status as the answer's own. Else it is an event of an answer 200, as the router does it.
	Head bool
}

// The errors of the document.
var (
	Overloaded = Error{Text: "Model is overloaded", Type: "overloaded", Status: http.StatusTooManyRequests}
	Validation = Error{Text: "Input validation error", Type: "validation", Status: http.StatusUnprocessableEntity}
	Generation = Error{Text: "Request failed during generation", Type: "generation", Status: http.StatusFailedDependency}
	Incomplete = Error{Text: "Incomplete generation", Type: "incomplete_generation", Status: http.StatusInternalServerError}
)

// Server is the server. Make it with New.
type Server struct {
	opts Options
	mux  *http.ServeMux

	held    watch.State // guards what follows
	running int
	waiting int
	fails   Error // that the next generation ends with
	rules   []Rule
	log     []Request
}

// Request is one that the server got.
type Request struct {
	Path    string
	Body    json.RawMessage
	Refused string // why; empty: it was not
}

// New makes a server.
func New(o Options) *Server {
	for text, otherwise := range map[*string]string{&o.Model: "conformance/model", &o.Version: "3.3.6"} {
		if *text == "" {
			*text = otherwise
		}
	}
	for number, otherwise := range map[*int]int{&o.Total: 4096, &o.Stops: 4, &o.Requests: 128, &o.Batch: 4} {
		if *number == 0 {
			*number = otherwise
		}
	}
	if o.Input == 0 {
		o.Input = o.Total - 1
	}
	s := &Server{opts: o, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	s.mux.HandleFunc("GET /info", s.info)
	s.mux.HandleFunc("GET /metrics", s.metrics)
	s.mux.HandleFunc("POST /tokenize", s.tokenize)
	s.mux.HandleFunc("POST /chat_tokenize", s.chatTokenize)
	s.mux.HandleFunc("POST /generate_stream", s.generate)
	s.mux.HandleFunc("POST /v1/chat/completions", s.chat)
	s.mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		voice.Answer(w, http.StatusOK, map[string]any{"object": "list", "data": []any{map[string]any{"id": o.Model, "object": "model", "created": 0, "owned_by": o.Model}}})
	})
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.opts.Key != "" && r.URL.Path != "/health" && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.opts.Key)) != 1 {
		w.WriteHeader(http.StatusUnauthorized) // the router says no more
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Fail has the next generation end with an error.
func (s *Server) Fail(e Error) { s.held.Update(func() { s.fails = e }) }

// Requests are those that the server got, the oldest first.
func (s *Server) Requests() (all []Request) {
	s.held.Look(func() { all = slices.Clone(s.log) })
	return all
}

// Load is how many requests are computed, and how many wait.
func (s *Server) Load() (running, waiting int) {
	s.held.Look(func() { running, waiting = s.running, s.waiting })
	return running, waiting
}

func (s *Server) info(w http.ResponseWriter, _ *http.Request) {
	tag := "text-generation"
	if s.opts.Images {
		tag = "image-text-to-text"
	}
	voice.Answer(w, http.StatusOK, map[string]any{
		"model_id": s.opts.Model, "model_sha": "e985a63c", "model_pipeline_tag": tag, "max_concurrent_requests": s.opts.Requests,
		"max_best_of": 2, "max_stop_sequences": s.opts.Stops, "max_input_tokens": s.opts.Input, "max_total_tokens": s.opts.Total,
		"validation_workers": 2, "max_client_batch_size": 4, "router": "text-generation-router", "version": s.opts.Version, "sha": nil, "docker_label": nil,
	})
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	running, waiting := s.Load()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintf(w, "# TYPE tgi_queue_size gauge\ntgi_queue_size %d\n\n# TYPE tgi_batch_current_size gauge\ntgi_batch_current_size %d\n\n"+
		"# TYPE tgi_request_count counter\ntgi_request_count{method=\"generate_stream\"} 3\n", waiting, running)
}

func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) {
	var in generateRequest
	if !s.take(w, r, generateBody, &in, nil) {
		return
	}
	if s.opts.NoCount {
		voice.Answer(w, http.StatusNotFound, map[string]string{"error": "No fast tokenizer available", "error_type": "no_fast_tokenizer"})
		return
	}
	voice.Answer(w, http.StatusOK, tokens(voice.Count(in.Inputs)))
}

// tokens are so many.
func tokens(n int) []map[string]any {
	all := make([]map[string]any, n)
	for i := range all {
		all[i] = map[string]any{"id": i, "text": "t", "start": i, "stop": i + 1}
	}
	return all
}

// take reads a body, notes it, and decodes it. If it is not what the contract says, it answers and returns false.
func (s *Server) take(w http.ResponseWriter, r *http.Request, name string, into any, more func() error) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err == nil {
		err = check(name, body)
	}
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err == nil && more != nil {
		err = more()
	}
	note := Request{Path: r.URL.Path, Body: body}
	if err != nil {
		note.Refused = err.Error()
	}
	s.held.Update(func() { s.log = append(s.log, note) })
	if err != nil {
		e := Validation
		e.Text += ": " + err.Error()
		s.refuse(w, e)
	}
	return err == nil
}

// refuse answers with an error, as an event where it is not the head's.
func (s *Server) refuse(w http.ResponseWriter, e Error) {
	body := map[string]string{"error": e.Text, "error_type": e.Type}
	if e.Head {
		voice.Answer(w, e.Status, body)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	event(w, body)
}

// enter waits for a place in the batch.
func (s *Server) enter(ctx context.Context) error {
	s.held.Update(func() { s.waiting++ })
	err := s.held.Until(ctx, func() bool {
		if s.running >= s.opts.Batch {
			return false
		}
		s.running++
		return true
	})
	s.held.Update(func() { s.waiting-- })
	return err
}

func (s *Server) leave() { s.held.Update(func() { s.running-- }) }

func event(w http.ResponseWriter, body any) {
	data, _ := json.Marshal(body)              // texts and numbers always encode
	_, _ = fmt.Fprintf(w, "data:%s\n\n", data) // as the router writes it, without a blank
	_ = http.NewResponseController(w).Flush()
}
