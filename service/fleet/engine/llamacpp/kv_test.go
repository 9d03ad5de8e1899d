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

// What a job left in its slot is used by the next one where that may, told as the engine's own figures, and erased. The figures
// are llama-server's and the built-in worker's alike.
// ORCH-3022, ORCH-3021
func TestKVIsUsedToldAndErased(t *testing.T) {
	e, _ := launch(t, task.Completion)
	run := func(cache bool) (told int, r engine.Result) {
		told = -1
		_, r = generate(t, e, job(func(j *engine.Job) {
			j.CachePrompt, j.MaxTokens, j.Sampling.Temperature = cache, 4, 0
			j.Cached = func(n int) { told = n }
		}))
		require.Equal(t, r.Cached, told)
		return told, r
	}
	slot := func(id int) engine.Slot {
		untilIdle(t, e)
		slots, err := e.Slots(t.Context())
		require.NoError(t, err)
		for _, s := range slots {
			if s.ID == id {
				return s
			}
		}
		require.Fail(t, "there is no such slot")
		return engine.Slot{}
	}
	_, first := run(false)
	was := slot(first.Slot)
	require.True(t, was.Told)
	require.Equal(t, first.TokensIn+first.TokensOut-1, first.Cells)

	cached, second := run(true)
	require.Equal(t, second.TokensIn-1, cached)
	require.NotEqual(t, was.Job, slot(second.Slot).Job, "another job has been there")
	cached, _ = run(false)
	require.Zero(t, cached, "strict tasks start cold, whatever is there")

	require.NoError(t, e.Erase(t.Context(), second.Slot))
	cached, _ = run(true)
	require.Zero(t, cached)
}
