// SPDX-License-Identifier: GPL-3.0-or-later

// Package triton is a conformance server for Triton with TensorRT-LLM's ensemble: real HTTP, the protocol's health, metadata and repository index, and
// the generate extension. A request has to be what the extension and the ensemble's inputs say: an input that the model has not is an error, as it is for
// Triton.
//
// A token of a prompt is 4 bytes or what is left of them, and there is one more for the begin (package voice).
package triton

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/harness/conformance/voice"
	"github.com/llama-orch/llama-orch/harness/watch"
)

const bodyLimit = 64 << 20

// Options set the server up.
type Options struct {
	Models   []string      // that are ready; default ensemble, preprocessing, tensorrt_llm, postprocessing
	Serves   string        // the one of them that takes text; default ensemble
	Without  []string      // inputs that the model does not have
	Inputs   []string      // further inputs that it has
	Input    int           // tokens that a prompt may have; default 4096
	Interval time.Duration // between two tokens
	Metrics  bool          // they are at the same address
}

// Server is the server. Make it with New.
type Server struct {
	opts   Options
	inputs map[string]func(json.RawMessage) bool
	mux    *http.ServeMux

	held    watch.State // guards what follows
	running int
	fails   string // what the next generation ends with; empty: nothing
	after   int    // tokens before that
	log     []Request
}

// Request is one that the server got.
type Request struct {
	Path    string
	Body    json.RawMessage
	Refused string // why; empty: it was not
}

func is[T any](v json.RawMessage) bool { var t T; return json.Unmarshal(v, &t) == nil }

// words are a text, or several.
func words(v json.RawMessage) bool { return is[string](v) || is[[]string](v) }

// inputs are those of the ensemble, and what the extension itself has.
var inputs = map[string]func(json.RawMessage) bool{
	"text_input": is[string], "max_tokens": is[int32], "bad_words": words, "stop_words": words, "end_id": is[int32], "pad_id": is[int32],
	"top_k": is[int32], "top_p": is[float32], "temperature": is[float32], "length_penalty": is[float32], "repetition_penalty": is[float32],
	"min_length": is[int32], "presence_penalty": is[float32], "frequency_penalty": is[float32], "random_seed": is[uint64],
	"return_log_probs": is[bool], "beam_width": is[int32], "stream": is[bool],
}

// New makes a server.
func New(o Options) *Server {
	if o.Serves == "" {
		o.Serves = "ensemble"
	}
	if o.Models == nil {
		o.Models = []string{"postprocessing", "tensorrt_llm", "preprocessing", o.Serves}
	}
	if o.Input == 0 {
		o.Input = 4096
	}
	s := &Server{opts: o, mux: http.NewServeMux(), inputs: maps.Clone(inputs)}
	for _, name := range o.Without {
		delete(s.inputs, name)
	}
	for _, name := range o.Inputs {
		s.inputs[name] = is[json.RawMessage]
	}
	s.mux.HandleFunc("GET /v2/health/ready", func(http.ResponseWriter, *http.Request) {})
	s.mux.HandleFunc("GET /v2/models/{model}/ready", s.ready)
	s.mux.HandleFunc("GET /v2", func(w http.ResponseWriter, _ *http.Request) {
		voice.Answer(w, http.StatusOK, map[string]any{"name": "triton", "version": "2.52.0", "extensions": []string{"model_repository", "statistics", "generate"}})
	})
	s.mux.HandleFunc("GET /v2/models/{model}", s.metadata)
	s.mux.HandleFunc("POST /v2/repository/index", s.index)
	s.mux.HandleFunc("POST /v2/models/{model}/generate_stream", s.generate)
	s.mux.HandleFunc("GET /metrics", s.metrics)
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Fail has the next generation end with an error, behind so many tokens.
func (s *Server) Fail(text string, after int) {
	s.held.Update(func() { s.fails, s.after = text, after })
}

// Requests are those that the server got, the oldest first.
func (s *Server) Requests() (all []Request) {
	s.held.Look(func() { all = slices.Clone(s.log) })
	return all
}

// Running is how many requests are computed.
func (s *Server) Running() (n int) {
	s.held.Look(func() { n = s.running })
	return n
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(s.opts.Models, r.PathValue("model")) {
		w.WriteHeader(http.StatusBadRequest)
	}
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	index := []map[string]string{{"name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "failed to load"}}
	for _, name := range s.opts.Models {
		index = append(index, map[string]string{"name": name, "version": "1", "state": "READY"})
	}
	voice.Answer(w, http.StatusOK, index)
}

func (s *Server) metadata(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("model")
	if !slices.Contains(s.opts.Models, name) {
		voice.Answer(w, http.StatusNotFound, failure(fmt.Sprintf("Request for unknown model: '%s' is not found", name)))
		return
	}
	body := map[string]any{"name": name, "versions": []string{"1"}, "platform": "ensemble", "outputs": tensors("text_output")}
	body["inputs"] = tensors(slices.Sorted(maps.Keys(s.inputs))...)
	if name != s.opts.Serves {
		body["platform"], body["inputs"], body["outputs"] = "python", tensors("QUERY"), tensors("INPUT_ID")
	}
	voice.Answer(w, http.StatusOK, body)
}

func tensors(names ...string) (all []map[string]any) {
	for _, name := range names {
		all = append(all, map[string]any{"name": name, "datatype": "BYTES", "shape": []int{-1, 1}})
	}
	return all
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	if !s.opts.Metrics {
		http.NotFound(w, r)
		return
	}
	n := s.Running()
	fmt.Fprintf(w, "# TYPE nv_inference_pending_request_count gauge\nnv_inference_pending_request_count{model=\"ensemble\",version=\"1\"} 0\n"+
		"# TYPE nv_trt_llm_request_metrics gauge\nnv_trt_llm_request_metrics{model=\"tensorrt_llm\",request_type=\"active\",version=\"1\"} %d\n"+
		"nv_trt_llm_request_metrics{model=\"tensorrt_llm\",request_type=\"max\",version=\"1\"} 64\n", n)
}

type request struct {
	Text          string          `json:"text_input"`
	Most          *int            `json:"max_tokens"`
	Stop          json.RawMessage `json:"stop_words"`
	Seed          uint64          `json:"random_seed"`
	Temperature   float64         `json:"temperature"`
	TopK          int             `json:"top_k"`
	TopP          float64         `json:"top_p"`
	RepeatPenalty float64         `json:"repetition_penalty"`
	Stream        bool            `json:"stream"`
}

// read holds a body against the extension and the model's inputs.
func (s *Server) read(body []byte, into *request) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return fmt.Errorf("failed to parse the request JSON buffer: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		valid, known := s.inputs[name]
		switch {
		case name == "id" && is[string](fields[name]), name == "parameters" && is[map[string]any](fields[name]):
		case !known:
			return fmt.Errorf("unexpected inference input '%s' for model '%s'", name, s.opts.Serves)
		case !valid(fields[name]):
			return fmt.Errorf("unable to parse '%s': attempt to access JSON non-value of its type", name)
		}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("failed to parse the request JSON buffer: %w", err)
	}
	switch {
	case fields["text_input"] == nil, into.Most == nil:
		return fmt.Errorf("expected text_input and max_tokens for model '%s'", s.opts.Serves)
	case *into.Most <= 0:
		return errors.New("max_tokens must be above 0")
	case fields["temperature"] != nil && into.Temperature <= 0:
		return errors.New("the temperature must be above 0")
	case !into.Stream:
		return errors.New("stream has to be true for a decoupled model")
	}
	return nil
}

// generate answers on generate_stream.
func (s *Server) generate(w http.ResponseWriter, r *http.Request) {
	var in request
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err == nil {
		err = s.read(body, &in)
	}
	note := Request{Path: r.URL.Path, Body: body}
	if err != nil {
		note.Refused = err.Error()
	}
	var fails string
	var after int
	s.held.Update(func() {
		s.log = append(s.log, note)
		fails, after, s.fails = s.fails, s.after, ""
	})
	switch {
	case r.PathValue("model") != s.opts.Serves:
		voice.Answer(w, http.StatusBadRequest, failure("the model takes no text"))
		return
	case err != nil:
		voice.Answer(w, http.StatusBadRequest, failure(err.Error()))
		return
	case fails != "" && after == 0:
		voice.Answer(w, http.StatusInternalServerError, failure(fails))
		return
	}
	if n := voice.Count(in.Text); n > s.opts.Input {
		voice.Answer(w, http.StatusInternalServerError, failure(fmt.Sprintf(
			"Encountered error for requestId 1: Prompt length (%d) exceeds maximum input length (%d). Set log level to info and check TRTGptModel logs", n, s.opts.Input)))
		return
	}
	s.held.Update(func() { s.running++ })
	defer s.held.Update(func() { s.running-- })
	s.play(r.Context(), w, in, fails, after)
}

// play sends the tokens. As the ensemble does, it leaves a stop word in the text, and ends without a word about why.
func (s *Server) play(ctx context.Context, w http.ResponseWriter, in request, fails string, after int) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	stop := stopWords(in.Stop)
	if in.TopK == 1 { // nothing is drawn
		in.Seed = 0
	}
	next := voice.Of(in.Text, in.Seed, in.Temperature, in.TopK, in.TopP, in.RepeatPenalty)
	var all strings.Builder
	for i := range *in.Most {
		if fails != "" && i == after {
			event(w, failure(fails))
			return
		}
		if s.opts.Interval > 0 && i > 0 {
			select {
			case <-time.After(s.opts.Interval):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return
		}
		text := next(i)
		if text == "" {
			text = "moss "
		}
		all.WriteString(text)
		s.send(w, text)
		if slices.ContainsFunc(stop, func(word string) bool { return strings.HasSuffix(all.String(), word) }) {
			break
		}
	}
	s.send(w, "") // the last response of a decoupled model is empty
}

func (s *Server) send(w http.ResponseWriter, text string) {
	event(w, map[string]any{
		"model_name": s.opts.Serves, "model_version": "1", "sequence_end": false, "sequence_id": 0, "sequence_start": false, "text_output": text,
	})
}

// stopWords are those of a request: an empty text is none.
func stopWords(raw json.RawMessage) (all []string) {
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(word string) bool { return word == "" })
}

func failure(text string) map[string]string { return map[string]string{"error": text} }

func event(w http.ResponseWriter, body any) {
	data, _ := json.Marshal(body) // texts and numbers always encode
	_, _ = fmt.Fprintf(w, "data: %s\n\n", data)
	_ = http.NewResponseController(w).Flush()
}
