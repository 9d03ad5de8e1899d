// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// shapes are the sizes of the pieces in which prompts are reused, and the threads that compute them.
var shapes = []struct{ piece, threads int }{{16, 1}, {32, 1}, {64, 1}, {32, 2}}

// question makes a prompt of some length, which begins like those of the same topic.
func question(topic string, more int) string {
	return fmt.Sprintf("Write a haiku about %s containing \"ten past two\".%s\n\n", topic, strings.Repeat(" It is night, and nobody is out in the "+topic+".", more))
}

// tally is a row of the table of warm against cold.
type tally struct {
	engine         string
	piece, threads int
	runs, compared int
	prompt, reused int // tokens
}

// Turns of conversations, prompts that are sent again and prompts that begin alike, with pieces of 16, 32 and 64 tokens, on one thread and on two, and best-effort tasks in between that leave whatever they
// leave: each answer that took a part of its prompt from KV is that of a cold start, and the receipt says how much it took. What was reused is whole pieces,
// and never of what was decoded.
//
// LO-206, LO-441, LO-443, OC-TEST-7001
func TestWarmStartsGiveTheBytesOfColdOnes(t *testing.T) {
	for _, e := range engines(t) {
		t.Run(e.name, func(t *testing.T) {
			pools := []pool{{id: "off", provisioning: e.provisioning, more: "determinism: {reuse: off}"}}
			rows := make([]tally, len(shapes))
			for i, s := range shapes {
				rows[i] = tally{engine: e.name, piece: s.piece, threads: s.threads}
				pools = append(pools, pool{id: fmt.Sprint("shape", i), provisioning: e.provisioning, more: fmt.Sprintf("threads: %d, determinism: {piece: %d}", s.threads, s.piece)})
			}
			config := shared.config(pools...)
			fingerprints := map[string]bool{}
			for life := range 2 {
				d := serve(t, fmt.Sprintf("of warm starts, life %d", life), config, nil)
				for i := range rows {
					if life > 0 && shapes[i].threads > 1 { // threads wait for each other in loops, which a busy machine makes long
						continue
					}
					id := fmt.Sprint("shape", i)
					fingerprints[ready(t, d, id)[0].Fingerprint] = true
					rows[i].warm(t, d, id)
				}
				ready(t, d, "off")
				c := testCase{Name: "off", Request: map[string]any{"prompt": question("rain", 6), "seed": 1}}
				for range 2 {
					require.Zero(t, ask(t, d, c, "off").receipt().TokensCached, "where reuse is off, every task starts cold")
				}
				_, err := d.Stop(syscall.SIGKILL)
				require.NoError(t, err)
			}
			require.Len(t, fingerprints, len(shapes), "the size of a piece is in the fingerprint, and the threads are")
			for _, r := range rows {
				say(t, "%s, pieces of %d tokens, %d threads: %d warm answers of %d runs are those of cold starts; %d of %d tokens of their prompts were reused",
					r.engine, r.piece, r.threads, r.compared, r.runs, r.reused, r.prompt)
			}
		})
	}
}

// warm has a pool answer conversations warm and cold, and compares.
func (r *tally) warm(t *testing.T, d *life, poolID string) {
	t.Helper()
	first := true
	for i, topic := range []string{"rain", "snow", "frogs", "GPUs"} {
		prompt := question(topic, 2+i%2)
		before := 0 // tokens of the prompt before, as which alone its KV was computed
		for turn := range 3 {
			c := testCase{Name: fmt.Sprintf("%s-turn-%d", topic, turn), Request: map[string]any{"prompt": prompt, "seed": 100*i + turn, "max_tokens": 16}}
			hot := ask(t, d, c, poolID)
			reused := hot.receipt().TokensCached
			if first {
				require.Zero(t, reused, "a new worker holds nothing")
				first = false
			}
			require.Zero(t, reused%r.piece, "only whole pieces are reused")
			require.Less(t, reused, hot.End.TokensIn)
			if turn > 0 {
				require.LessOrEqual(t, reused, before, "what was decoded is not reused")
				require.GreaterOrEqual(t, reused, (before-2)/r.piece*r.piece, "the last tokens of a prompt may be others where text follows")
			}
			cold := ask(t, d, c.with(map[string]any{"kv_hint": "cold"}), poolID)
			require.Zero(t, cold.receipt().TokensCached)
			r.same(t, hot, cold)
			again := ask(t, d, c, poolID) // behind the cold run
			require.Equal(t, (cold.End.TokensIn-1)/r.piece*r.piece, again.receipt().TokensCached, "all but the last piece")
			r.same(t, again, cold)
			if turn == 1 { // it takes what it finds, so nobody knows what it leaves
				ask(t, d, c.with(map[string]any{"determinism": "best_effort", "prompt": prompt[:len(prompt)/2] + "not so"}), poolID)
				behind := ask(t, d, c, poolID)
				r.same(t, behind, cold)
				require.Zero(t, behind.receipt().TokensCached%r.piece)
			}
			before = cold.End.TokensIn
			prompt += hot.Text() + " And so on, in the " + topic + ".\n\n"
		}
	}
	require.Greater(t, r.reused, r.prompt/3, "most of these prompts were there")
}

func (r *tally) same(t *testing.T, hot, cold *run) {
	t.Helper()
	r.runs++
	if hot.receipt().TokensCached > 0 {
		r.compared++
	}
	r.prompt += hot.End.TokensIn
	r.reused += hot.receipt().TokensCached
	diff := compare(cold, hot)
	if diff == nil {
		return
	}
	dir, err := proofDir()
	require.NoError(t, err)
	require.NoError(t, diff.write(dir))
	require.Fail(t, "a warm start gave other bytes", "pieces of %d tokens, %d threads, %d reused: %s", r.piece, r.threads, hot.receipt().TokensCached, diff)
}
