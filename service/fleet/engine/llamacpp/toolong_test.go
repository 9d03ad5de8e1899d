// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-404: where only the engine finds that a prompt is too long, its figures reach the fronts, which word them for their clients.
func TestAnEnginesRefusalOfALongPromptHasItsFigures(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/props" {
			_, _ = io.WriteString(w, props)
			return
		}
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":{"code":400,"message":"too large","type":"exceed_context_size_error","n_prompt_tokens":300,"n_ctx":256}}`)
	}))
	defer s.Close()
	e := llamacpp.New(engine.Endpoint{URL: s.URL})
	defer e.Close()
	_, _, err := e.Embed(t.Context(), engine.Job{Inputs: []string{"a long text"}})
	long, ok := errors.AsType[*task.TooLongError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, task.TooLongError{Tokens: 300, Ctx: 256}, *long)
	require.ErrorContains(t, err, "the engine answered 400: too large")
}
