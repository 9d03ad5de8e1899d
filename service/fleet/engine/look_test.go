// SPDX-License-Identifier: GPL-3.0-or-later

package engine_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// stranger answers the same to everything.
type stranger []byte

func (s stranger) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(s)), Request: r}, nil
}

// FuzzRecognise: whatever answers at an address, it is an engine of a known kind, or none.
//
// LO-861
func FuzzRecognise(f *testing.F) {
	for _, seed := range []string{
		`{"model_id":"m","max_total_tokens":4}`, `{"version":"2","extensions":["a"]}`, `{"data":[{"owned_by":"sglang"}]}`, `{"default_generation_settings":{},"total_slots":1}`, `[]`, "<html>",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		product, kind := engine.Recognise(t.Context(), engine.Endpoint{URL: "http://engine", Network: &httpsse.Network{Transport: stranger(answer)}})
		require.Equal(t, product == "", kind == "")
		if kind != "" {
			require.Contains(t, task.EngineKinds(), kind)
		}
	})
}
