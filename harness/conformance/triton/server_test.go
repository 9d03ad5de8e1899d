// SPDX-License-Identifier: GPL-3.0-or-later

package triton

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func ask(s *Server, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

const stream = "/v2/models/ensemble/generate_stream"

// LO-458, ORCH-3057: the model takes the inputs that its metadata names, of their types, and refuses others.
func TestTheModelTakesItsOwnInputs(t *testing.T) {
	s := New(Options{Without: []string{"random_seed"}, Inputs: []string{"seed"}})
	metadata := ask(s, http.MethodGet, "/v2/models/ensemble", "").Body.String()
	require.Contains(t, metadata, `"seed"`)
	require.NotContains(t, metadata, `"random_seed"`)
	for body, takes := range map[string]bool{
		`{"text_input":"rain","stream":true,"max_tokens":3,"seed":7}`:        true,
		`{"text_input":"rain","stream":true,"max_tokens":3,"random_seed":7}`: false,
		`{"text_input":"rain","stream":true,"max_tokens":"3"}`:               false,
		`{"text_input":"rain","stream":true,"n_predict":3}`:                  false,
		`{"stream":true,"max_tokens":3}`:                                     false,
		`no JSON`:                                                            false,
	} {
		w := ask(s, http.MethodPost, stream, body)
		require.Equal(t, takes, w.Code == http.StatusOK, "%s: %s", body, w.Body)
		require.Equal(t, takes, strings.Contains(w.Body.String(), `"text_output"`), body)
		all := s.Requests()
		require.Equal(t, takes, all[len(all)-1].Refused == "", body)
	}
	require.NotEqual(t, http.StatusOK, ask(s, http.MethodPost, "/v2/models/nobody/generate_stream", `{"text_input":"rain","stream":true,"max_tokens":3}`).Code)
	require.Zero(t, s.Running())
}

// LO-458: an error comes in the stream behind its tokens, once.
func TestAnErrorIsPlayedOnce(t *testing.T) {
	s := New(Options{})
	const body = `{"text_input":"rain","stream":true,"max_tokens":8}`
	s.Fail("out of luck", 2)
	w := ask(s, http.MethodPost, stream, body).Body.String()
	require.Contains(t, w, `{"error":"out of luck"}`)
	require.Contains(t, w, `"text_output"`)
	require.NotContains(t, ask(s, http.MethodPost, stream, body).Body.String(), "out of luck")
}

// LO-454: its metrics are elsewhere, unless it is told to have them here.
func TestMetricsAreElsewhere(t *testing.T) {
	require.NotEqual(t, http.StatusOK, ask(New(Options{}), http.MethodGet, "/metrics", "").Code)
	require.Contains(t, ask(New(Options{Metrics: true}), http.MethodGet, "/metrics", "").Body.String(), `request_type="active"`)
}
