// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// unlike says in how many answers others differ from those of a base, and from which token on at the soonest.
func unlike(base, others map[string]*run) string {
	n, soonest := 0, -1
	for name, b := range others {
		if at := firstDiffering(base[name].Tokens, b.Tokens); at >= 0 {
			n++
			if soonest < 0 || at < soonest {
				soonest = at
			}
		}
	}
	if n == 0 {
		return fmt.Sprintf("none of %d answers differs", len(others))
	}
	return fmt.Sprintf("%d of %d answers differ, from token %d on at the soonest", n, len(others), soonest)
}

// atEnds are the committed cases, and prompts of several pieces with long answers, where threads and batches have more to round.
func atEnds(t *testing.T) (all []testCase) {
	t.Helper()
	all = cases(t)
	for i := range 8 {
		all = append(all, testCase{Name: fmt.Sprintf("long-%d", i), Request: map[string]any{"seed": 1200 + i, "prompt": question("snow", 4+i%3), "max_tokens": 80, "params": wild}})
	}
	return all
}

// Another number of threads is another fingerprint, whether its bytes differ or not: the report says how many do. On one number of threads nothing differs.
//
// LO-889, LO-205, OC-TEST-7001
func TestThreadsAreInTheFingerprint(t *testing.T) {
	for _, e := range engines(t) {
		t.Run(e.name, func(t *testing.T) {
			counts := []int{1, 2}
			if runtime.NumCPU() > 4 {
				counts = append(counts, 3, 4)
			}
			pools := []pool{{id: "again", provisioning: e.provisioning, more: "threads: 1"}}
			for _, n := range counts {
				pools = append(pools, pool{id: fmt.Sprint("on-", n), provisioning: e.provisioning, more: fmt.Sprint("threads: ", n)})
			}
			d := serve(t, "of threads", shared.config(pools...), nil)
			long := atEnds(t)
			slices.Reverse(long) // the long ones first
			prints, answers := map[string]string{}, map[string]map[string]*run{}
			for _, p := range pools {
				ready(t, d, p.id)
				answers[p.id] = map[string]*run{}
				// Threads wait for each other in loops, which a busy machine makes long: there are as many answers as there is time for.
				enough := time.Now().Add(20 * time.Second)
				for i, c := range long {
					if i > 0 && time.Now().After(enough) {
						break
					}
					r := ask(t, d, c, p.id)
					require.Equal(t, cmp.Or(prints[p.id], r.receipt().Fingerprint), r.receipt().Fingerprint)
					prints[p.id], answers[p.id][c.Name] = r.receipt().Fingerprint, r
				}
			}
			require.Equal(t, prints["on-1"], prints["again"])
			require.Contains(t, unlike(answers["on-1"], answers["again"]), "none of")
			seen := map[string]bool{}
			for _, n := range counts {
				id := fmt.Sprint("on-", n)
				require.False(t, seen[prints[id]], "%d threads have the fingerprint of others", n)
				seen[prints[id]] = true
				if n > 1 {
					say(t, "%s on %d threads, with another fingerprint than on one: %s", e.name, n, unlike(answers["on-1"], answers[id]))
				}
			}
		})
	}
}

// Where a server computes several answers at a time, none is strict, and the report says how many of them differ from those that are.
//
// LO-889, LO-205, OC-TEST-7002
func TestSeveralSlotsAreWhereStrictEnds(t *testing.T) {
	for _, e := range engines(t) {
		if !e.slots {
			continue
		}
		d := serve(t, "of slots", shared.config(pool{id: "one", provisioning: e.provisioning},
			pool{id: "four", provisioning: e.provisioning, more: fmt.Sprintf("slots: 4, ctx: %d, queue: {capacity: 1000}", contextSize)}), nil)
		ready(t, d, "one", "four")
		strict := map[string]*run{}
		all := atEnds(t)
		for _, c := range all {
			strict[c.Name] = ask(t, d, c, "one")
			require.Equal(t, "strict", strict[c.Name].receipt().Determinism)
		}
		var said []string
		for round := range 3 {
			loose, errs := make([]*run, len(all)), make([]error, len(all))
			var wait sync.WaitGroup
			for i, c := range all {
				wait.Go(func() {
					loose[i], errs[i] = d.answer(t.Context(), c, "four", fmt.Sprintf("four-%d-%s", round, c.Name))
				})
			}
			wait.Wait()
			answers := map[string]*run{}
			for i, c := range all {
				require.NoError(t, errs[i])
				require.Equal(t, "best_effort", loose[i].receipt().Determinism)
				require.NotEqual(t, strict[c.Name].receipt().Fingerprint, loose[i].receipt().Fingerprint)
				answers[c.Name] = loose[i]
			}
			said = append(said, unlike(strict, answers))
		}
		say(t, "%s with 4 busy slots, where no task is strict, against one slot, in 3 rounds: %s", e.name, strings.Join(said, "; "))
	}
}
