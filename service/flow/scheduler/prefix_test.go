// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// says makes a task a chat of so many turns.
func says(turns ...string) func(*task.Task) {
	return func(t *task.Task) {
		for _, turn := range turns {
			t.Request.Messages = append(t.Request.Messages, task.Message{Role: "user", Content: turn})
		}
	}
}

func cold(t *task.Task) { t.Request.KVHint = task.KVCold }

func (r *rig) ran(id string) string {
	s, err := r.s.Get(r.t.Context(), id)
	require.NoError(r.t, err)
	return s.ReplicaID
}

// A strict chat without a session goes on where its last turn was, and keeps its KV from the probe. Where strict tasks reuse nothing, or where a task does not want
// to, the usual order counts. No task waits for its replica while another is free.
// LO-442, LO-206, ORCH-3009
func TestAChatGoesWhereItsPrefixIs(t *testing.T) {
	for _, piece := range []int{0, 16} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 2, nil)
			defer r.stop()
			for _, x := range r.replicas {
				x.piece = piece
			}
			r.must("busy", tokens(100))
			synctest.Wait()
			r.must("first", says("hello"))
			r.read("first")
			require.Equal(t, "default-1", r.ran("first"))
			r.read("busy")
			r.must("second", says("hello", "again"))
			r.read("second")
			if piece == 0 {
				require.Equal(t, "default-0", r.ran("second"))
				require.Zero(t, r.replicas[1].warm.Load())
				return
			}
			require.Equal(t, "default-1", r.ran("second"))
			require.Equal(t, int32(2), r.replicas[1].warm.Load())
			r.must("other", says("good morning"))
			r.read("other")
			require.Equal(t, "default-0", r.ran("other"))
			r.must("cold", says("hello", "again"), cold)
			r.read("cold")
			require.Equal(t, "default-0", r.ran("cold"))

			r.must("other again", says("good morning"))
			r.read("other again")
			require.Equal(t, "default-0", r.ran("other again"))
			r.must("long", says("hello", "again", "and again"), tokens(100))
			synctest.Wait()
			r.must("elsewhere", says("hello", "again", "and again", "still"))
			r.read("elsewhere")
			require.Equal(t, "default-0", r.ran("elsewhere"))
			r.read("long")
			require.Equal(t, []engine.Reuse{engine.ReuseExact, engine.ReuseExact, engine.ReuseExact}, r.replicas[1].reuse)
			require.Contains(t, r.replicas[0].reuse, engine.ReuseNothing)
		})
	}
}

// warmed is a rig of two replicas: one runs a long task, the prompt of which is "busy", and the other one holds a short chat.
func warmed(t *testing.T) *rig {
	r := newRig(t, 2, nil)
	r.replicas[0].piece, r.replicas[1].piece = 16, 16
	r.must("busy", tokens(100))
	synctest.Wait()
	r.must("first", says("hello"))
	r.read("first")
	return r
}

// A slot whose run broke off is not taken for one that holds the chat.
// LO-442
func TestABrokenRunLeavesNoPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := warmed(t)
		defer r.stop()
		r.must("left", says("hello", "again"), tokens(50))
		synctest.Wait()
		_, err := r.s.Cancel(t.Context(), "left")
		require.NoError(t, err)
		r.read("busy")
		r.must("next", says("hello", "again"))
		r.read("next")
		require.Equal(t, "default-0", r.ran("next"))
	})
}

// A run that broke off before the engine heard of it has left in the slot what was there, and so has one that needed no slot.
// LO-442, LO-839
func TestARunThatTouchedNoSlotChangesNoPrefix(t *testing.T) {
	for _, short := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := warmed(t)
			defer r.stop()
			if short {
				r.set(func() { r.replicas[1].short = 1 })
				r.must("other", says("good morning"))
				time.Sleep(r.s.o.RecordEvery / 2)
				_, err := r.s.Cancel(t.Context(), "other")
				require.NoError(t, err)
			} else {
				r.set(func() { r.replicas[1].slotless = true })
				r.must("other", says("good morning"))
			}
			r.read("other")
			require.Equal(t, "default-1", r.ran("other"))
			r.read("busy")
			r.must("next", says("hello", "again"))
			r.read("next")
			require.Equal(t, "default-1", r.ran("next"))
		})
	}
}

// Where nothing depends on the choice of a replica, nobody looks at all that a task asks.
// LO-442
func TestChainsAreMadeWhereTheyMatter(t *testing.T) {
	for _, c := range []struct {
		replicas, piece int
		determinism     task.Determinism
		want            bool
	}{
		{1, 16, task.Strict, false}, {1, 0, task.BestEffort, false}, {2, 0, task.Strict, false}, {2, 16, task.Strict, true}, {2, 0, task.BestEffort, true},
	} {
		run(t, c.replicas, nil, func(t *testing.T, r *rig) {
			for _, x := range r.replicas {
				x.piece = c.piece
			}
			r.must("a", says("hello"), func(t *task.Task) { t.Determinism = c.determinism })
			synctest.Wait()
			require.Equal(t, c.want, r.s.job("a").chain != nil, c)
			r.read("a")
		})
	}
}

// What came from KV is in the receipt and is counted, and so is about how long it would have taken.
// LO-443
func TestReusedTokensAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		defer r.stop()
		x := r.replicas[0]
		x.piece, x.prefill = 16, 9
		prompt := func(n int) func(*task.Task) { return func(t *task.Task) { t.PromptTokens = n } }
		r.must("cold", prompt(100)) // 100 ms for 100 tokens, with the first one of the answer
		require.NotContains(t, r.read("cold"), "tokens_cached")
		x.cached, x.prefill = 64, 2
		r.must("warm", prompt(100))
		require.Contains(t, r.read("warm"), `"tokens_cached":64`)
		m := r.s.o.Metrics
		require.InDelta(t, 64, testutil.ToFloat64(m.reusedTokens.WithLabelValues("default", "strict")), 0)
		require.InDelta(t, 64, testutil.ToFloat64(m.savedMS.WithLabelValues("default")), 0.01)
		x.cached = 32
		r.must("warm again", prompt(100))
		r.read("warm again")
		require.InDelta(t, 96, testutil.ToFloat64(m.savedMS.WithLabelValues("default")), 0.01, "a warm start says nothing of how long a prompt takes")
	})
}
