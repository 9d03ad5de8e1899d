// SPDX-License-Identifier: GPL-3.0-or-later

package fakeengine

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"
)

// bodyLimit bounds what the engine reads of a request.
const bodyLimit = 16 << 20

// ServeHTTP answers one request of the engine's API or of its control paths.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	open := r.URL.Path == "/health" || strings.HasPrefix(r.URL.Path, "/_fake/")
	if e.opts.APIKey != "" && !open {
		given := r.Header.Get("Authorization")
		if subtle.ConstantTimeCompare([]byte(given), []byte("Bearer "+e.opts.APIKey)) != 1 {
			writeError(w, http.StatusUnauthorized, "authentication_error", "Invalid API Key", nil)
			return
		}
	}
	e.mux.ServeHTTP(w, r)
}

func (e *Engine) getHealth(w http.ResponseWriter, r *http.Request) {
	var h Health
	e.held.Look(func() { h = e.health })
	if h.Hang {
		<-r.Context().Done()
		return
	}
	if pause(r.Context(), time.Duration(h.DelayMS)*time.Millisecond) != nil {
		return
	}
	if h.Loading {
		writeError(w, http.StatusServiceUnavailable, "unavailable_error", "Loading model", nil)
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (e *Engine) getProps(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"default_generation_settings": map[string]any{"n_ctx": e.opts.Ctx},
		"total_slots":                 e.opts.Slots,
		"model_path":                  "fake.gguf",
		"chat_template":               "fake",
		"build_info":                  e.opts.Build,
	})
}

func (e *Engine) getSlots(w http.ResponseWriter, _ *http.Request) {
	busy := e.State().Busy
	slots := make([]map[string]any, e.opts.Slots)
	for i := range slots {
		slots[i] = map[string]any{"id": i, "n_ctx": e.opts.Ctx, "is_processing": i < busy}
	}
	writeJSON(w, http.StatusOK, slots)
}

func (e *Engine) tokenize(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Content    string `json:"content"`
		AddSpecial bool   `json:"add_special"`
	}
	if read(w, r, &in) {
		writeJSON(w, http.StatusOK, map[string]any{"tokens": tokens(in.Content, in.AddSpecial)})
	}
}

// applyTemplate writes one line for each turn, `role: content`, and the start of the assistant's line.
func (e *Engine) applyTemplate(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Messages []struct {
			Role    string `json:"role"`
			Content string `json:"content"`
		} `json:"messages"`
	}
	if !read(w, r, &in) {
		return
	}
	var b strings.Builder
	for _, m := range in.Messages {
		fmt.Fprintf(&b, "%s: %s\n", m.Role, m.Content)
	}
	b.WriteString("assistant:")
	writeJSON(w, http.StatusOK, map[string]string{"prompt": b.String()})
}

func (e *Engine) embedding(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Content json.RawMessage `json:"content"`
		Input   json.RawMessage `json:"input"`
	}
	if !read(w, r, &in) {
		return
	}
	if in.Content == nil {
		in.Content = in.Input
	}
	var texts []string
	if json.Unmarshal(in.Content, &texts) != nil {
		var one string
		if json.Unmarshal(in.Content, &one) != nil {
			writeError(w, http.StatusBadRequest, "invalid_request_error", `"content" must be a text or an array of texts`, nil)
			return
		}
		texts = []string{one}
	}
	type answer struct {
		Index     int         `json:"index"`
		Embedding [][]float64 `json:"embedding"`
	}
	out := make([]answer, len(texts))
	for i, text := range texts {
		out[i] = answer{i, [][]float64{embed(text)}}
	}
	writeJSON(w, http.StatusOK, out)
}

func (e *Engine) rerank(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Query     string   `json:"query"`
		Documents []string `json:"documents"`
	}
	if !read(w, r, &in) {
		return
	}
	type answer struct {
		Index int     `json:"index"`
		Score float64 `json:"relevance_score"`
	}
	out, used := make([]answer, len(in.Documents)), 0
	for i, document := range in.Documents {
		out[i] = answer{i, relevance(in.Query, document)}
		used += len(tokens(in.Query, true)) + len(tokens(document, true))
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"model": "fake", "object": "list", "results": out,
		"usage": map[string]int{"prompt_tokens": used, "total_tokens": used},
	})
}

// read decodes the body. If it cannot, it answers and returns false. A real llama-server answers 500 then.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyLimit)).Decode(into); err != nil {
		writeError(w, http.StatusInternalServerError, "server_error", "parse error: "+err.Error(), nil)
		return false
	}
	return true
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone does not need it
}

func writeError(w http.ResponseWriter, status int, kind, message string, more map[string]any) {
	writeJSON(w, status, errorBody(status, kind, message, more))
}

func errorBody(status int, kind, message string, more map[string]any) map[string]any {
	e := map[string]any{"code": status, "message": message, "type": kind}
	maps.Copy(e, more)
	return map[string]any{"error": e}
}
