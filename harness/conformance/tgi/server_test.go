// SPDX-License-Identifier: GPL-3.0-or-later

package tgi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func ask(s *Server, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	s.ServeHTTP(w, r)
	return w
}

// LO-458, ORCH-3056: the server takes what TGI's document has, and refuses the rest, and what is beyond its bounds: a chat by its status, a generation in its stream, as
// TGI does.
func TestWhatTheDocumentDoesNotHaveIsRefused(t *testing.T) {
	s := New(Options{Total: 64, Stops: 1})
	for _, c := range []struct {
		path, body string
		takes      bool
	}{
		{"/generate_stream", `{"inputs":"rain","parameters":{"max_new_tokens":3,"seed":7,"details":true}}`, true},
		{"/generate_stream", `{"inputs":"rain","parameters":{"max_new_tokens":3,"n_predict":3}}`, false},
		{"/generate_stream", `{"inputs":"rain","stream":true}`, false},
		{"/generate_stream", `{"inputs":7}`, false},
		{"/generate_stream", `{}`, false},
		{"/generate_stream", `{"inputs":"rain","parameters":{"top_k":0}}`, false},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"rain"}],"max_tokens":3,"stream":true}`, true},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"rain"}],"min_p":0.1}`, false},
		{"/v1/chat/completions", `{"messages":"rain"}`, false},
	} {
		w := ask(s, c.path, c.body)
		require.Equal(t, c.takes, !strings.Contains(w.Body.String(), `"error"`), "%s: %s", c.body, w.Body)
		all := s.Requests()
		require.Equal(t, c.takes, all[len(all)-1].Refused == "", c.body)
	}
	long := ask(s, "/generate_stream", `{"inputs":"`+strings.Repeat("rain ", 200)+`","parameters":{"max_new_tokens":3}}`)
	require.Contains(t, long.Body.String(), `"error_type":"validation"`)
	stops := ask(s, "/generate_stream", `{"inputs":"rain","parameters":{"max_new_tokens":3,"stop":["a","b"]}}`)
	require.Contains(t, stops.Body.String(), `"error_type":"validation"`)
	running, waiting := s.Load()
	require.Zero(t, running+waiting)
}

// LO-458: an error is played once, before the first token with a status of its own or in the stream, and then all is well.
func TestAnErrorIsPlayedOnce(t *testing.T) {
	s := New(Options{})
	const body = `{"inputs":"rain","parameters":{"max_new_tokens":8,"details":true}}`
	for _, e := range []Error{{Text: "busy", Type: "overloaded", Status: http.StatusTooManyRequests, Head: true}, {Text: "broken", Type: "generation", Status: http.StatusFailedDependency, After: 2}} {
		s.Fail(e)
		w := ask(s, "/generate_stream", body)
		require.Equal(t, e.Head, w.Code == e.Status)
		require.Contains(t, w.Body.String(), e.Text)
		require.Equal(t, e.After > 0, strings.Contains(w.Body.String(), `"token"`))
		require.Contains(t, ask(s, "/generate_stream", body).Body.String(), `"finish_reason":"length"`)
	}
}

// LO-460: who has not the key gets nothing but the health.
func TestTheKeyIsAsked(t *testing.T) {
	s := New(Options{Key: "secret"})
	require.Equal(t, http.StatusUnauthorized, ask(s, "/generate_stream", `{"inputs":"rain"}`).Code)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/health", http.NoBody))
	require.Equal(t, http.StatusOK, w.Code)
	require.Empty(t, s.Requests())
}
