// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// The engine's own figures of KV: how much of the prompt was there is told before the first token.
// ORCH-3022
func TestEngineTellsWhatWasCached(t *testing.T) {
	const progress = `data: {"index":0,"content":"","tokens":[],"stop":false,"id_slot":3,"prompt_progress":{"total":5,"cache":4,"processed":4,"time_ms":0}}` + "\n\n"
	end := strings.Replace(last, `"timings":{`, `"id_slot":3,"tokens_cached":6,"timings":{"cache_n":4,"prompt_n":1,`, 1)
	e := fake(t, map[string]string{"/props": props, "/tokenize": `{"tokens":[1]}`, "/completion": progress + token("a") + end})
	var b strings.Builder
	told := -1
	r, err := e.Generate(t.Context(), job(func(j *engine.Job) {
		j.Cached = func(n int) {
			require.Empty(t, b.String())
			told = n
		}
	}), collect(&b))
	require.NoError(t, err)
	require.Equal(t, "a", b.String())
	require.Equal(t, 4, told)
	require.Equal(t, []int{3, 6, 4}, []int{r.Slot, r.Cells, r.Cached})

	e = fake(t, map[string]string{"/props": props, "/tokenize": `{"tokens":[1]}`, "/completion": progress + token("a") + end})
	_, err = e.Generate(t.Context(), job(nil), collect(&b))
	require.NoError(t, err, "a frame that nobody asked for is passed over")
	e = fake(t, map[string]string{"/props": props, "/tokenize": `{"tokens":[1]}`, "/completion": `data: {"content":"","stop":false,"prompt_progress":{"cache":"x"}}` + "\n\n"})
	_, err = e.Generate(t.Context(), job(nil), collect(&b))
	require.True(t, task.HasCode(err, task.WorkerReset))
}

// LO-836: each frame about the prompt is a sign of life
func TestEngineTellsOfItsProgress(t *testing.T) {
	frame := func(n string) string {
		return `data: {"index":0,"content":"","tokens":[],"stop":false,"prompt_progress":{"total":5000,"cache":0,"processed":` + n + `,"time_ms":1}}` + "\n\n"
	}
	e := fake(t, map[string]string{"/props": props, "/tokenize": `{"tokens":[1]}`, "/completion": frame("0") + frame("2048") + frame("4096") + token("a") + last})
	told := 0
	_, err := e.Generate(t.Context(), job(func(j *engine.Job) { j.Progress = func() { told++ } }), func(task.Piece) error {
		require.Equal(t, 3, told)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 3, told)
}

// ORCH-3022
func TestEngineTellsItsSlots(t *testing.T) {
	e := fake(t, map[string]string{"/slots": `[{"id":0,"id_task":135,"is_processing":true,"n_ctx":65536},{"id":1,"is_processing":false,"kv_bytes":77}]`})
	slots, err := e.Slots(t.Context())
	require.NoError(t, err)
	require.Equal(t, []engine.Slot{{ID: 0, Busy: true, Job: 135, Told: true}, {ID: 1, Bytes: 77}}, slots)
	busy, err := e.Busy(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, busy)
}
