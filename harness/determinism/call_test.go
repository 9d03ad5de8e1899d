// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A tool call that is forced, on two replicas of a real llama-server, and again after a kill -9 of the daemon: one transcript, the ids of calls
// included, and one id for each event of a task. The bundled model knows no tools, so the pool has a template that does; see
// service/fleet/engine/llamacpp/testdata.
//
// LO-411, LO-412, OC-TEST-7001, ORCH-3045
func TestAToolCallIsTheSame(t *testing.T) {
	all := engines(t)
	if len(all) == 1 { // engines has said why
		return
	}
	template, err := filepath.Abs("../../service/fleet/engine/llamacpp/testdata/tools.jinja")
	require.NoError(t, err)
	server := all[1].provisioning
	with := fmt.Sprintf("%s, args: [--jinja, --chat-template-file, %q]}", server[:len(server)-1], template)
	config := shared.config(pool{id: "one", provisioning: with}, pool{id: "two", provisioning: with})
	call := testCase{Name: "call", Request: map[string]any{
		"messages": []any{map[string]any{"role": "user", "content": "Write a haiku about rain."}},
		"tools": []any{map[string]any{"name": "note", "parameters": map[string]any{
			"type": "object", "properties": map[string]any{"about": map[string]any{"enum": []string{"rain", "snow", "wind"}}}, "required": []string{"about"},
		}}},
		"tool_choice": "required", "parallel_tool_calls": false, "reasoning": map[string]any{"split": true}, "max_tokens": 100,
		"logit_bias": map[string]any{"96": 30, "1": 60},
	}}
	var first []*run
	for life := range 2 {
		d := serve(t, fmt.Sprintf("of calls, life %d", life), config, nil)
		for _, poolID := range []string{"one", "two"} {
			_, err := d.Idle(t.Context(), poolID)
			require.NoError(t, err)
		}
		for seed := range 6 {
			for _, poolID := range []string{"one", "two"} { // their replicas have one fingerprint
				r, err := d.answer(t.Context(), call.with(map[string]any{"seed": seed}), poolID, fmt.Sprintf("%s-%d", poolID, seed))
				require.NoError(t, err)
				if seed == len(first) {
					first = append(first, r)
				}
				if diff := compare(first[seed], r); diff != nil {
					t.Fatalf("seed %d: %s differ", seed, diff.what)
				}
				require.Equal(t, "tool_calls", r.End.FinishReason)
				require.Equal(t, "parts", r.receipt().TranscriptForm)
				require.Len(t, r.Calls, 1)
				require.Equal(t, first[seed].Calls, r.Calls)
				var arguments struct{ About string }
				require.NoError(t, json.Unmarshal([]byte(r.Calls[0].Arguments), &arguments))
				require.Contains(t, []string{"rain", "snow", "wind"}, arguments.About)
			}
		}
		_, err := d.Stop(syscall.SIGKILL)
		require.NoError(t, err)
	}
	say(t, "llama-server: 6 forced tool calls on 2 replicas in 2 lives of the daemon, no difference")
}
