// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Log probabilities are the same on two replicas of one fingerprint, in two lives of the daemon, and behind a prompt that came from KV: the bytes of every token event are.
// So their ids are, which cover them.
//
// LO-450, LO-451, LO-206, OC-TEST-7001
func TestLogprobsAreTheSame(t *testing.T) {
	for _, e := range engines(t) {
		t.Run(e.name, func(t *testing.T) {
			const piece = "determinism: {piece: 32}"
			config := shared.config(pool{id: "one", provisioning: e.provisioning, more: piece}, pool{id: "two", provisioning: e.provisioning, more: piece})
			first := map[int][]string{}
			figures, warm := 0, 0
			for life := range 2 {
				d := serve(t, fmt.Sprintf("of log probabilities, life %d", life), config, nil)
				for seed := range 4 {
					for _, poolID := range []string{"one", "two"} {
						ready(t, d, poolID)
						for _, hint := range []string{"cold", "auto"} {
							c := testCase{Name: fmt.Sprintf("likely-%d", seed), Request: map[string]any{
								"prompt": question("rain", 4), "seed": seed, "max_tokens": 24, "logprobs": true, "top_logprobs": 5, "kv_hint": hint,
							}}
							r := ask(t, d, c, poolID)
							if r.receipt().TokensCached > 0 {
								warm++
							}
							var said []string
							for _, event := range r.Events {
								if event.Name == "token" {
									require.Contains(t, event.Data, `"top_logprobs":[{`)
									said = append(said, event.Data)
								}
							}
							figures += len(said)
							if first[seed] == nil {
								first[seed] = said
							}
							require.Equal(t, first[seed], said, "seed %d, %s", seed, hint)
						}
					}
				}
				_, err := d.Stop(syscall.SIGKILL)
				require.NoError(t, err)
			}
			require.Positive(t, warm)
			say(t, "%s: %d tokens with their log probabilities, on 2 replicas in 2 lives of the daemon, %d answers behind KV, no difference", e.name, figures, warm)
		})
	}
}
