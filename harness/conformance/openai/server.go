// SPDX-License-Identifier: GPL-3.0-or-later

// Package openai is a conformance server: it has OpenAI's API as vLLM, SGLang, Ollama, LM Studio, llama-server or a server that nobody knows has it. It
// holds each request against OpenAI's document and what that server documents beyond it, refuses the rest by name, and plays a script, or where no rule
// of it matches, words that depend on the prompt and the seed alone.
//
// A token of a prompt is 4 bytes or what is left of them, and there is one more for the begin. An image is 16 tokens. A piece of an answer is one token.
package openai

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/harness/dialect"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/harness/watch"
)

const bodyLimit = 64 << 20

// Options set the server up.
type Options struct {
	As      string   // one of Names; default unknown
	Models  []string // that it serves; default one, "m"
	Ctx     int      // tokens; default 131072
	Key     string   // if set, every path but those of health wants it as bearer token
	NoTools bool     // its model takes no tools
	Blind   bool     // its model sees no images
	Version string   // default 0.11.0
	Script  scripted.Script
	Pace    time.Duration // between two pieces
}

// Server is the server. Make it with New.
type Server struct {
	watch.State

	opts     Options
	is       flavour
	requests *dialect.Requests
	counting func([]byte) error // the body of /tokenize
	mux      *http.ServeMux

	// What follows is guarded by State.
	script  scripted.Script
	played  []int
	running int
	queries int // tokens of prompts
	log     []scripted.Request
}

// New makes a server.
func New(o Options) (*Server, error) {
	o.As, o.Ctx, o.Version = cmp.Or(o.As, "unknown"), cmp.Or(o.Ctx, 131072), cmp.Or(o.Version, "0.11.0")
	if o.Models == nil {
		o.Models = []string{"m"}
	}
	is, known := flavours[o.As]
	if !known {
		return nil, fmt.Errorf("there is no server %q: use one of %s", o.As, strings.Join(Names(), ", "))
	}
	requests, err := dialect.LoadRequests(is.more)
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, is: is, requests: requests, mux: http.NewServeMux()}
	if s.counting, err = dialect.Shape(tokenizeSchema); err != nil {
		return nil, err
	}
	s.SetScript(o.Script)
	s.mux.HandleFunc("GET /v1/models", s.models)
	s.mux.HandleFunc("POST /v1/chat/completions", s.chat)
	s.mux.HandleFunc("POST /v1/completions", s.completion)
	s.mux.HandleFunc("POST /v1/embeddings", s.embed)
	s.routes()
	return s, nil
}

// SetScript replaces the script. Answers that run keep theirs.
func (s *Server) SetScript(script scripted.Script) {
	s.Update(func() { s.script, s.played = script, make([]int, len(script.Rules)) })
}

// Running is how many requests are being answered.
func (s *Server) Running() (n int) {
	s.Look(func() { n = s.running })
	return n
}

// Idle reports whether there is none. It is for Until.
func (s *Server) Idle() bool { return s.running == 0 }

// Requests are those that the server got, the oldest first.
func (s *Server) Requests() (all []scripted.Request) {
	s.Look(func() { all = append(all, s.log...) })
	return all
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.opts.Key != "" && r.URL.Path != s.is.health && r.Header.Get("Authorization") != "Bearer "+s.opts.Key {
		s.fail(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	s.mux.ServeHTTP(w, r)
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	list := []any{}
	for _, name := range s.opts.Models {
		m := map[string]any{"id": name, "object": "model", "created": 1700000000, "owned_by": s.is.owner}
		if s.opts.As == "vllm" || s.opts.As == "sglang" {
			m["max_model_len"] = s.opts.Ctx
		}
		list = append(list, m)
	}
	answer(w, map[string]any{"object": "list", "data": list})
}

// take reads a body, notes it, and decodes it. If it does not fit, it answers and returns false.
func (s *Server) take(w http.ResponseWriter, r *http.Request, fits func([]byte) error, into any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err == nil {
		err = fits(body)
	}
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	noted := scripted.Request{Path: r.URL.Path, Body: body}
	if err != nil {
		noted.Refused = err.Error()
	}
	s.Update(func() { s.log = append(s.log, noted) })
	if err != nil {
		s.fail(w, http.StatusBadRequest, err.Error())
	}
	return err == nil
}

func (s *Server) fits(schema string) func([]byte) error {
	return func(body []byte) error { return s.requests.Fits(schema, body) }
}

// has reports whether the server has a model. If it has not, it answers.
func (s *Server) has(w http.ResponseWriter, model string) bool {
	if slices.Contains(s.opts.Models, model) {
		return true
	}
	s.fail(w, http.StatusNotFound, fmt.Sprintf("The model `%s` does not exist.", model))
	return false
}

func (s *Server) fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, encode(s.is.error(status, message))) // a client that has gone does not need it
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, encode(body)) // as above
}

func encode(v any) string {
	text, _ := json.Marshal(v) // texts and numbers always encode
	return string(text)
}

// count is how many tokens a text has, the begin included.
func count(text string) int { return (len(text)+3)/4 + 1 }
