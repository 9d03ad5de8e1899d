// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// A worker tells what it computes, and what waits in it.
//
// ORCH-3054, LO-454
func TestTheLoadOfAWorker(t *testing.T) {
	e, _ := launchWorker(t, task.Completion, 100)
	idle, err := e.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, engine.Load{KV: -1}, idle)
	var seen *engine.Load
	_, err = e.Generate(t.Context(), engine.Job{Workload: task.Completion, Prompt: "Hello", MaxTokens: 3, Sampling: task.Sampling{TopP: 1, RepeatPenalty: 1}}, func(task.Piece) error {
		if seen != nil {
			return nil
		}
		l, err := e.Load(t.Context())
		seen = &l
		return err
	})
	require.NoError(t, err)
	require.Equal(t, &engine.Load{Running: 1, KV: -1}, seen)
}

// ORCH-3054, LO-454: a llama-server without metrics counts by its slots, and what cannot be is not believed.
func TestTheLoadIsReadFromMetricsOrSlots(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		says   string
		want   engine.Load
		fails  bool
	}{
		"metrics":    {200, "# TYPE x gauge\nllamacpp:requests_processing 3\nllamacpp:requests_deferred 2\n", engine.Load{Running: 3, Waiting: 2, KV: -1}, false},
		"no metrics": {501, `{"error":{"code":501,"message":"This server does not support metrics endpoint. Start it with --metrics","type":"not_supported_error"}}`, engine.Load{Running: 1, KV: -1}, false},
		"others":     {200, "up 1\n", engine.Load{}, true},
		"nonsense":   {200, "llamacpp:requests_processing -1\n", engine.Load{}, true},
		"broken":     {500, "", engine.Load{}, true},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/health":
				fmt.Fprint(w, `{"status":"ok"}`)
				return
			case "/slots":
				fmt.Fprint(w, `[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]`)
				return
			}
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.says)
		}))
		t.Cleanup(server.Close)
		got, err := connect(t, server.URL).Load(t.Context())
		require.Equal(t, c.fails, err != nil, "%s: %v", name, err)
		require.Equal(t, c.want, got, name)
	}
}
