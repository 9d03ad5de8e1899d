// SPDX-License-Identifier: GPL-3.0-or-later

package worker_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// slot is what the worker says of its one slot.
func slot(t *testing.T, p *process) (job int, bytes int64) {
	t.Helper()
	_, data := p.get(t, "/slots")
	var slots []struct {
		Job   int   `json:"id_task"`
		Bytes int64 `json:"kv_bytes"`
	}
	require.NoError(t, json.Unmarshal(data, &slots))
	require.Len(t, slots, 1)
	return slots[0].Job, slots[0].Bytes
}

// cached is how much of its prompt a job took from the context.
func cached(t *testing.T, p *process, more map[string]any) (tokens, evaluated float64, text string) {
	t.Helper()
	texts, last := frames(t, p, ask(more))
	for _, s := range texts {
		text += s
	}
	timings := last["timings"].(map[string]any)
	require.Equal(t, last["tokens_evaluated"], timings["cache_n"].(float64)+timings["prompt_n"].(float64))
	return timings["cache_n"].(float64), last["tokens_evaluated"].(float64), text
}

// A prompt's KV is used again where that is asked for, and only there; the worker says how much of it was.
// ORCH-3022, ORCH-3045
func TestContextIsUsedAgainOnlyWhenAsked(t *testing.T) {
	p := start(t, nil)
	_, bytes := slot(t, p)
	require.Zero(t, bytes)
	again := map[string]any{"cache_prompt": true, "temperature": 0}
	n, _, cold := cached(t, p, again)
	require.Zero(t, n)
	first, bytes := slot(t, p)
	require.Positive(t, bytes)

	n, evaluated, warm := cached(t, p, again)
	require.Equal(t, evaluated-1, n, "all but the last token, whose output is needed")
	require.Equal(t, cold, warm)
	second, _ := slot(t, p)
	require.Greater(t, second, first)

	n, _, strict := cached(t, p, map[string]any{"cache_prompt": false, "temperature": 0})
	require.Zero(t, n)
	require.Equal(t, cold, strict)
	n, _, _ = cached(t, p, map[string]any{"temperature": 0})
	require.Zero(t, n, "it is off unless asked for")

	longer := p.complete(t, ask(map[string]any{"temperature": 0})).Content
	n, evaluated, _ = cached(t, p, map[string]any{"cache_prompt": true, "prompt": ask(nil)["prompt"].(string) + longer + "\n\nAnd another one."})
	require.Greater(t, n, 30.0, "the answer before is part of it")
	require.Less(t, n, evaluated)
}

// LO-836: before each batch of a prompt the worker tells how far it is, if asked
func TestProgressWithThePromptIsTold(t *testing.T) {
	p := start(t, nil)
	prompt := strings.Repeat("rain ", 60) // the bundled model's context holds less than a batch
	done := func(more map[string]any) (processed []float64) {
		more["stream"], more["n_predict"], more["prompt"] = true, 1, prompt
		resp, err := p.request(t.Context(), http.MethodPost, "/completion", ask(more))
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s", text)
		for line := range strings.Lines(string(text)) {
			var frame struct {
				Progress *struct{ Total, Processed float64 } `json:"prompt_progress"`
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok && json.Unmarshal([]byte(data), &frame) == nil && frame.Progress != nil {
				require.Greater(t, frame.Progress.Total, frame.Progress.Processed)
				processed = append(processed, frame.Progress.Processed)
			}
		}
		return processed
	}
	require.Equal(t, []float64{0}, done(map[string]any{"return_progress": true}))
	require.Empty(t, done(map[string]any{}))
}

// ORCH-3021
func TestSlotIsErased(t *testing.T) {
	p := start(t, nil)
	again := map[string]any{"cache_prompt": true, "temperature": 0}
	cached(t, p, again)
	erase := func(path string) (int, string) {
		resp, err := p.request(t.Context(), http.MethodPost, path, map[string]any{})
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(text)
	}
	status, text := erase("/slots/0?action=erase")
	require.Equal(t, http.StatusOK, status, text)
	require.NotContains(t, text, `"n_erased":0`)
	_, bytes := slot(t, p)
	require.Zero(t, bytes)
	n, _, _ := cached(t, p, again)
	require.Zero(t, n)
	for _, path := range []string{"/slots/1?action=erase", "/slots/0?action=save", "/slots/0", "/slots/x?action=erase"} {
		status, _ := erase(path)
		require.Equal(t, http.StatusBadRequest, status, path)
	}
}
