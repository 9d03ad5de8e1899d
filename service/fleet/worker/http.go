// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-faster/jx"
	"github.com/hybridgroup/yzma/pkg/llama"

	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/task"
)

// stuck is how long a client may leave a stream unread before it loses the slot.
const stuck = time.Minute

// stats are the counters of /metrics. Times are in nanoseconds.
type stats struct {
	promptTokens, promptTime, genTokens, genTime, maxTokens atomic.Int64
}

func (s *stats) add(o outcome) {
	s.promptTokens.Add(int64(o.prompt - o.cached))
	s.promptTime.Add(int64(o.tPrompt))
	s.genTokens.Add(int64(o.gen))
	s.genTime.Add(int64(o.tGen))
	s.maxTokens.Store(max(s.maxTokens.Load(), int64(o.prompt+o.gen)))
}

// apiError is llama-server's error body.
type apiError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Type    string `json:"type"`
	Prompt  int    `json:"n_prompt_tokens,omitempty"`
	Ctx     int    `json:"n_ctx,omitempty"`
}

func (e *apiError) Error() string { return e.Message }

func invalid(format string, args ...any) *apiError {
	return &apiError{Code: http.StatusBadRequest, Message: fmt.Sprintf(format, args...), Type: "invalid_request_error"}
}

func unsupportedWorkload(what, workload string) *apiError {
	return &apiError{
		Code: http.StatusNotImplemented, Type: "not_supported_error",
		Message: fmt.Sprintf("This worker does not support %s. Start it with `--workload %s`", what, workload),
	}
}

func asAPIError(err error) *apiError {
	var e *apiError
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &big):
		return &apiError{Code: http.StatusRequestEntityTooLarge, Message: "the request body is too large", Type: "invalid_request_error"}
	}
	return &apiError{Code: http.StatusInternalServerError, Message: err.Error(), Type: "server_error"}
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func replyError(w http.ResponseWriter, err error) {
	e := asAPIError(err)
	reply(w, e.Code, map[string]any{"error": e})
}

// handler is the worker's API. As in llama-server, only /health needs no key, and only /health answers while the model loads.
func (w *worker) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(http.ResponseWriter, *http.Request, *model) error) {
		mux.HandleFunc(pattern, func(rw http.ResponseWriter, r *http.Request) {
			m := w.model.Load()
			if m == nil {
				leaveBody(rw, r)
				replyError(rw, &apiError{Code: http.StatusServiceUnavailable, Message: "Loading model", Type: "unavailable_error"})
				return
			}
			err := takeBody(rw, r)
			if err == nil {
				err = fn(rw, r, m)
			}
			if err != nil {
				replyError(rw, err)
			}
		})
	}
	handle("GET /health", func(rw http.ResponseWriter, _ *http.Request, _ *model) error {
		reply(rw, http.StatusOK, map[string]string{"status": "ok"})
		return nil
	})
	handle("GET /props", w.props)
	handle("GET /slots", w.slots)
	handle("POST /slots/{id}", w.erase)
	handle("GET /metrics", w.metrics)
	handle("POST /tokenize", w.tokenize)
	handle("POST /apply-template", w.applyTemplate)
	handle("POST /completion", w.completion)
	handle("POST /embedding", w.embedding)
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		leaveBody(rw, r)
		replyError(rw, &apiError{Code: http.StatusNotFound, Message: "File Not Found", Type: "not_found_error"})
	})
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		defer port.Waits(r.Context())
		if r.URL.Path != "/health" && !w.authorised(r) {
			leaveBody(rw, r)
			replyError(rw, &apiError{Code: http.StatusUnauthorized, Message: "Invalid API Key", Type: "authentication_error"})
			return
		}
		port.Served(r.Context())
		mux.ServeHTTP(rw, r)
	})
}

func (w *worker) props(rw http.ResponseWriter, _ *http.Request, m *model) error {
	reply(rw, http.StatusOK, map[string]any{
		"default_generation_settings": map[string]any{"n_ctx": m.nCtx},
		"total_slots":                 1,
		"model_path":                  m.path,
		"chat_template":               m.template,
		"build_info":                  m.build,
		"system_info":                 m.system,
		"cache_exact":                 m.rewinds,
		"features":                    []task.Feature{task.FeatureGrammars, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs},
	})
	return nil
}

func (w *worker) slots(rw http.ResponseWriter, _ *http.Request, m *model) error {
	reply(rw, http.StatusOK, []map[string]any{{
		"id": 0, "id_task": w.job.Load(), "n_ctx": m.nCtx, "speculative": false, "is_processing": w.busy.Load(), "kv_bytes": w.kvBytes.Load(),
	}})
	return nil
}

// erase empties the slot's context.
func (w *worker) erase(rw http.ResponseWriter, r *http.Request, _ *model) error {
	if action := r.URL.Query().Get("action"); action != "erase" {
		return invalid("the built-in worker has no slot action %q: use erase", action)
	}
	if r.PathValue("id") != "0" {
		return invalid("the built-in worker has slot 0 only")
	}
	erased := 0
	if err := w.turn(r.Context(), func(m *model) {
		erased = len(m.held)
		m.clear()
	}); err != nil {
		return err
	}
	reply(rw, http.StatusOK, map[string]int{"id_slot": 0, "n_erased": erased})
	return nil
}

func (w *worker) metrics(rw http.ResponseWriter, _ *http.Request, _ *model) error {
	rw.Header().Set("Content-Type", "text/plain; version=0.0.4")
	seconds := func(n *atomic.Int64) float64 { return time.Duration(n.Load()).Seconds() }
	busy := 0.0
	if w.busy.Load() {
		busy = 1
	}
	for _, m := range []struct {
		kind, name, help string
		value            float64
	}{
		{"counter", "prompt_tokens_total", "Number of prompt tokens processed, excluding cached tokens", float64(w.stats.promptTokens.Load())},
		{"counter", "prompt_seconds_total", "Total time spent processing prompts", seconds(&w.stats.promptTime)},
		{"counter", "tokens_predicted_total", "Number of generation tokens processed", float64(w.stats.genTokens.Load())},
		{"counter", "tokens_predicted_seconds_total", "Total time spent generating tokens", seconds(&w.stats.genTime)},
		{"counter", "n_tokens_max", "Largest observed sequence length (prompt + generation)", float64(w.stats.maxTokens.Load())},
		{"gauge", "requests_processing", "Number of requests processing", busy},
		{"gauge", "requests_deferred", "Number of requests deferred", float64(w.waiting.Load())},
	} {
		fmt.Fprintf(rw, "# HELP llamacpp:%[1]s %[2]s\n# TYPE llamacpp:%[1]s %[3]s\nllamacpp:%[1]s %[4]v\n", m.name, m.help, m.kind, m.value)
	}
	return nil
}

func decodeBody(r *http.Request, into any) error {
	err := json.NewDecoder(r.Body).Decode(into)
	var big *http.MaxBytesError
	if err == nil || errors.As(err, &big) {
		return err
	}
	return invalid("%v", err)
}

func (w *worker) tokenize(rw http.ResponseWriter, r *http.Request, m *model) error {
	var body struct {
		Content      string `json:"content"`
		AddSpecial   bool   `json:"add_special"`
		ParseSpecial *bool  `json:"parse_special"`
	}
	if err := decodeBody(r, &body); err != nil {
		return err
	}
	tokens, err := m.tokenize(body.Content, body.AddSpecial, or(body.ParseSpecial, true))
	if err != nil {
		return invalid("%v", err)
	}
	reply(rw, http.StatusOK, map[string]any{"tokens": tokens})
	return nil
}

func (w *worker) applyTemplate(rw http.ResponseWriter, r *http.Request, m *model) error {
	var body chat
	if err := decodeBody(r, &body); err != nil {
		return err
	}
	used, err := body.used()
	if err != nil {
		return err
	}
	prompt, err := w.templates.apply(r.Context(), m, used)
	if err != nil {
		return err
	}
	reply(rw, http.StatusOK, map[string]string{"prompt": prompt})
	return nil
}

func (w *worker) completion(rw http.ResponseWriter, r *http.Request, m *model) error {
	if w.o.Workload != task.Completion {
		return unsupportedWorkload("completions", "completion")
	}
	var c completion
	if err := decodeBody(r, &c); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return invalid("%v", err)
	}
	for _, b := range c.LogitBias {
		if b.token < 0 || b.token >= llama.Token(m.nVocab) {
			return invalid(`"logit_bias" names token %d, which the model does not have: it has 0 to %d`, b.token, m.nVocab-1)
		}
	}
	prompt, err := m.prompt(c.Prompt)
	if err != nil {
		return err
	}
	if len(prompt) >= m.nCtx {
		return &apiError{
			Code: http.StatusBadRequest, Type: "exceed_context_size_error", Prompt: len(prompt), Ctx: m.nCtx,
			Message: fmt.Sprintf("request (%d tokens) exceeds the available context size (%d tokens), try increasing it", len(prompt), m.nCtx),
		}
	}
	if c.Stream {
		return w.stream(rw, r, &c, prompt)
	}
	var (
		content []byte
		likely  []*probability
		o       outcome
		genErr  error
	)
	err = w.turn(r.Context(), func(m *model) {
		o, genErr = m.generate(r.Context(), &c, prompt, w.o.Pace, func(int, int) error { return nil }, func(d decoded) error {
			content = append(content, d.out...)
			if d.likely != nil {
				likely = append(likely, d.likely)
			}
			return nil
		})
		w.stats.add(o)
	})
	if err = errors.Join(err, genErr); err != nil {
		return err
	}
	rw.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = rw.Write(final(m, o, content, likely))
	return nil
}

// prompt reads a prompt: a string, or token ids.
func (m *model) prompt(raw json.RawMessage) ([]llama.Token, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		tokens, err := m.tokenize(text, true, true)
		if err != nil {
			return nil, invalid("%v", err)
		}
		if len(tokens) == 0 {
			return nil, invalid(`"prompt" must not be empty`)
		}
		return tokens, nil
	}
	var tokens []llama.Token
	if err := json.Unmarshal(raw, &tokens); err != nil || len(tokens) == 0 {
		return nil, invalid(`"prompt" must be a string or an array of tokens`)
	}
	for _, t := range tokens {
		if t < 0 || t >= llama.Token(m.nVocab) {
			return nil, invalid(`"prompt" holds token %d, which the model does not have`, t)
		}
	}
	return tokens, nil
}

// stream writes every token in the goroutine that decodes, as soon as it is decoded. So nothing is handed over, and a client that does not
// read holds up only its own job.
func (w *worker) stream(rw http.ResponseWriter, r *http.Request, c *completion, prompt []llama.Token) error {
	control := http.NewResponseController(rw)
	started := false
	var (
		buf     jx.Writer
		renewed time.Time
		o       outcome
		genErr  error
	)
	send := func() error {
		if now := time.Now(); now.Sub(renewed) > stuck/4 {
			renewed = now
			_ = control.SetWriteDeadline(now.Add(stuck))
		}
		if !started {
			started = true
			rw.Header().Set("Content-Type", "text/event-stream")
			rw.WriteHeader(http.StatusOK)
		}
		buf.RawStr("\n\n")
		if _, err := rw.Write(buf.Buf); err != nil {
			return err
		}
		return control.Flush()
	}
	err := w.turn(r.Context(), func(m *model) {
		o, genErr = m.generate(r.Context(), c, prompt, w.o.Pace, func(cached, decoded int) error {
			if !c.ReturnProgress {
				return nil
			}
			buf.Reset()
			buf.RawStr(`data: {"index":0,"content":"","tokens":[],"stop":false,"id_slot":0,"prompt_progress":{"total":`)
			buf.Int(len(prompt))
			buf.RawStr(`,"cache":`)
			buf.Int(cached)
			buf.RawStr(`,"processed":`)
			buf.Int(decoded)
			buf.RawStr(`,"time_ms":0}}`)
			return send()
		}, func(d decoded) error {
			buf.Reset()
			buf.RawStr(`data: {"index":0,"content":`)
			buf.ByteStr(d.out)
			buf.RawStr(`,"tokens":[`)
			buf.Int32(int32(d.token))
			buf.RawStr(`],"stop":false,"id_slot":0,"tokens_predicted":`)
			buf.Int(d.n)
			buf.RawStr(`,"tokens_evaluated":`)
			buf.Int(len(prompt))
			if d.likely != nil {
				list, _ := json.Marshal([]*probability{d.likely}) // texts and numbers always encode
				buf.RawStr(`,"completion_probabilities":`)
				buf.Raw(list)
			}
			buf.RawStr(`}`)
			return send()
		})
		w.stats.add(o)
	})
	// The last frame is sent once the slot is free, and /slots says so. If the request has ended, nobody listens. Before the first frame
	// an error can still be sent as a status.
	if r.Context().Err() == nil && err == nil && (genErr == nil || started) {
		buf.Reset()
		buf.RawStr("data: ")
		if genErr != nil {
			line, _ := json.Marshal(map[string]any{"error": asAPIError(genErr)})
			buf.Raw(line)
		} else {
			buf.Raw(final(w.model.Load(), o, nil, nil))
		}
		_ = send()
	}
	_ = control.SetWriteDeadline(time.Time{}) // the connection may be used again
	if started {
		return nil
	}
	return errors.Join(err, genErr)
}

// final is the last frame of a stream, and the whole answer without one.
func final(m *model, o outcome, content []byte, likely []*probability) []byte {
	ms := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
	per := func(a float64, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	pms, gms := ms(o.tPrompt), ms(o.tGen)
	all := map[string]any{
		"index": 0, "content": string(content), "tokens": []int{}, "id_slot": 0, "stop": true, "model": m.path,
		"tokens_predicted": o.gen, "tokens_evaluated": o.prompt, "has_new_line": o.newLine, "truncated": o.cutShort,
		"stop_type": o.stopType, "stopping_word": o.stopWord, "tokens_cached": max(0, o.prompt+o.gen-1),
		"timings": map[string]any{
			"cache_n":  o.cached,
			"prompt_n": o.prompt - o.cached, "prompt_ms": pms, "prompt_per_token_ms": per(pms, float64(o.prompt-o.cached)),
			"prompt_per_second": per(1000*float64(o.prompt-o.cached), pms),
			"predicted_n":       o.gen, "predicted_ms": gms, "predicted_per_token_ms": per(gms, float64(o.gen)),
			"predicted_per_second": per(1000*float64(o.gen), gms),
		},
	}
	if likely != nil {
		all["completion_probabilities"] = likely
	}
	line, _ := json.Marshal(all)
	return line
}

func (w *worker) embedding(rw http.ResponseWriter, r *http.Request, m *model) error {
	if w.o.Workload != task.Embedding {
		return unsupportedWorkload("embeddings", "embedding")
	}
	var body struct {
		Content stopStrings `json:"content"` // a string or a list, as stop is
	}
	if err := decodeBody(r, &body); err != nil {
		return invalid(`"content" must be a string or an array of strings`)
	}
	if len(body.Content) == 0 {
		return invalid(`"content" must be provided`)
	}
	texts := make([][]llama.Token, len(body.Content))
	for i, s := range body.Content {
		var err error
		if texts[i], err = m.tokenize(s, true, true); err != nil {
			return invalid("%v", err)
		}
		if len(texts[i]) == 0 {
			return invalid("Input content cannot be empty")
		}
		if n := len(texts[i]); n > m.nCtx {
			return &apiError{
				Code: http.StatusBadRequest, Type: "exceed_context_size_error", Prompt: n, Ctx: m.nCtx,
				Message: fmt.Sprintf("input (%d tokens) is larger than the max context size (%d tokens). skipping", n, m.nCtx),
			}
		}
	}
	type item struct {
		Index     int         `json:"index"`
		Embedding [][]float32 `json:"embedding"`
	}
	items := make([]item, len(texts))
	var embErr error
	err := w.turn(r.Context(), func(m *model) {
		for i, tokens := range texts {
			if embErr = context.Cause(r.Context()); embErr != nil {
				return
			}
			begin := time.Now()
			var v []float32
			if v, embErr = m.embed(tokens); embErr != nil {
				return
			}
			items[i] = item{Index: i, Embedding: [][]float32{v}}
			w.stats.add(outcome{prompt: len(tokens), tPrompt: time.Since(begin)})
		}
	})
	if err = errors.Join(err, embErr); err != nil {
		return err
	}
	reply(rw, http.StatusOK, items)
	return nil
}

// normalise returns v with length 1, as llama-server computes it.
func normalise(v []float32) []float32 {
	var sum float64
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	scale := float32(0)
	if sum > 0 {
		scale = float32(1 / math.Sqrt(sum))
	}
	out := make([]float32, len(v))
	for i, x := range v {
		out[i] = x * scale
	}
	return out
}
