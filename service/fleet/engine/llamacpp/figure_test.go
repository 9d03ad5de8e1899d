// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// impossible are figures that no engine can have.
var impossible = []string{"-1", "-2", "1000000000000", "9223372036854775807", "1e30", "1e400"}

// LO-801: an impossible figure ends the run as WORKER_RESET, and the cause, which is for the log, names it.
func TestImpossibleFiguresOfARunAreNotBelieved(t *testing.T) {
	for _, name := range []string{"tokens_evaluated", "tokens_predicted", "tokens_cached", "id_slot", "cache_n", "prompt_ms", "predicted_ms"} {
		for _, figure := range impossible {
			frame := `{"content":"","stop":true,"stop_type":"eos","` + name + `":` + figure + `}`
			if strings.HasSuffix(name, "_ms") || name == "cache_n" {
				frame = `{"content":"","stop":true,"stop_type":"eos","timings":{"` + name + `":` + figure + `}}`
			}
			e := fake(t, map[string]string{"/props": props, "/tokenize": `{"tokens":[1]}`, "/completion": token("a") + "data: " + frame + "\n\n"})
			_, err := e.Generate(t.Context(), job(nil), func(task.Piece) error { return nil })
			require.True(t, task.HasCode(err, task.WorkerReset), "%s %s: %v", name, figure, err)
			require.ErrorContains(t, err, name, figure)
			require.NotContains(t, task.AsError(err).Message, name)
		}
	}
	e := fake(t, map[string]string{"/props": props, "/tokenize": `{"tokens":[1]}`, "/completion": `data: {"content":"","prompt_progress":{"cache":-5},"stop":false}` + "\n\n" + last})
	_, err := e.Generate(t.Context(), job(func(j *engine.Job) { j.Cached = func(int) {} }), func(task.Piece) error { return nil })
	require.ErrorContains(t, err, "cache is -5")
}

// LO-801
func TestImpossibleFiguresOfAnEngineAreNotBelieved(t *testing.T) {
	for _, figure := range impossible {
		for _, answer := range []string{
			`{"total_slots":1,"default_generation_settings":{"n_ctx":` + figure + `}}`,
			`{"total_slots":` + figure + `,"default_generation_settings":{"n_ctx":256}}`,
		} {
			_, err := fake(t, map[string]string{"/props": answer}).Props(t.Context())
			require.True(t, task.HasCode(err, task.WorkerReset), "%s: %v", answer, err)
		}
		for _, answer := range []string{`[{"id":` + figure + `}]`, `[{"id":0,"kv_bytes":` + figure + `}]`} {
			if answer == `[{"id":0,"kv_bytes":1000000000000}]` {
				continue // a terabyte is much, but can be
			}
			_, err := fake(t, map[string]string{"/slots": answer}).Slots(t.Context())
			require.True(t, task.HasCode(err, task.WorkerReset), "%s: %v", answer, err)
		}
		answer := `{"results":[{"index":0,"relevance_score":1}],"usage":{"prompt_tokens":` + figure + `}}`
		_, _, err := fake(t, map[string]string{"/reranking": answer}).Rerank(t.Context(), engine.Job{Workload: task.Rerank, Inputs: []string{"a"}})
		require.True(t, task.HasCode(err, task.WorkerReset), "%s: %v", answer, err)
	}
	long := strings.Repeat("b", 10_000)
	p, err := fake(t, map[string]string{"/props": strings.Replace(props, "b1", long, 1)}).Props(t.Context())
	require.NoError(t, err)
	require.Len(t, p.Build, engine.MaxBuild)
}
