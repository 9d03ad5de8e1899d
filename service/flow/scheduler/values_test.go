// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flow/queue"
)

// values is what a series holds over all its labels: of a histogram the count and the sum, of a gauge or a counter 1 and its value for each combination.
func (r *rig) values(name string) (count uint64, sum float64) {
	families, err := r.registry.Gather()
	require.NoError(r.t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h != nil {
				count, sum = count+h.GetSampleCount(), sum+h.GetSampleSum()
				continue
			}
			count, sum = count+1, sum+m.GetGauge().GetValue()+m.GetCounter().GetValue()
		}
	}
	return count, sum
}

// held holds what a series gained since it was (count, sum).
func (r *rig) held(name string, count uint64, sum float64) {
	r.t.Helper()
	n, total := r.values(name)
	require.Equal(r.t, count, n, name)
	require.InDelta(r.t, sum, total, 0.001, name)
}

// On a virtual clock each latency is exactly what happened, in milliseconds: a task's 10 tokens come 10 ms apart.
//
// ORCH-3028, LO-103, LO-613
func TestLatenciesAreExactlyThoseOfTheTasks(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("a")
		r.must("b") // waits for 100 ms, and nothing was measured that could say so
		r.read("b")
		r.held("llorch_queue_wait_ms", 2, 0+100)
		r.held("latency_first_token_ms", 2, 10+110)
		r.held("latency_decode_ms", 2, 90+90)
		r.held("llorch_prediction_error_ms", 2, 0+100)

		r.must("c", tokens(20)) // twice as long as those before
		r.must("d")
		r.read("d")
		r.held("llorch_queue_wait_ms", 4, 100+0+200)
		r.held("latency_first_token_ms", 4, 120+10+210)
		r.held("latency_decode_ms", 4, 180+190+90)
		r.held("llorch_prediction_error_ms", 4, 100+0+100)
	})
}

// ORCH-2001: a client is asked to wait for as long as the pool needs for what is beyond the queue's half.
func TestBackoffIsTheTimeOfWhatIsBeyondHalfOfTheQueue(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Capacity, p.Policy = 4, queue.Reject }, func(t *testing.T, r *rig) {
		r.must("w")
		r.read("w") // 100 ms a task
		r.must("running")
		synctest.Wait()
		for i, backoff := range []time.Duration{0, 0, 100 * time.Millisecond, 200 * time.Millisecond} {
			require.Equal(t, backoff, r.must(string(rune('a'+i))).Backoff)
		}
	})
}

// OC-CTRL-2023: the chance to be on time is the part of the run that fits in before the deadline.
func TestTheChanceToBeOnTimeIsThePartThatFits(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Capacity = 8 }, func(t *testing.T, r *rig) {
		r.must("w")
		r.read("w") // 100 ms a task
		r.must("running")
		synctest.Wait()
		for name, c := range map[string]struct {
			deadline time.Duration
			chance   float64
		}{"early": {200 * time.Millisecond, 1}, "half": {150 * time.Millisecond, 0.5}, "late": {125 * time.Millisecond, 0.25}} {
			l := r.s.lane("default")
			require.InDelta(t, c.chance, l.onTime(c.deadline, 100*time.Millisecond), 1e-9, name)
		}
		r.must("half", deadline(150*time.Millisecond))
		s, err := r.s.Subscribe(t.Context(), "half", "")
		require.NoError(t, err)
		defer s.Close()
		m, ok := s.Metrics()
		require.True(t, ok)
		require.InDelta(t, 0.5, m.OnTimeProbability, 1e-9)
		require.Equal(t, int64(100), m.PredictedStartMS)
		time.Sleep(20 * time.Millisecond)
		m, ok = s.Metrics()
		require.True(t, ok)
		require.Equal(t, int64(100), m.PredictedStartMS, "from its admission on")
	})
}

// LO-601: the gauge is 1 from the moment at which the queue has stood still for StuckAfter, and 0 once a task starts.
func TestTheGaugeOfAQueueThatStandsStill(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.held("llorch_queue_stuck", 1, 0)
		r.set(func() { r.replicas[0].ready = false })
		r.must("a")
		time.Sleep(r.s.o.StuckAfter - time.Second)
		synctest.Wait()
		r.held("llorch_queue_stuck", 1, 0)
		time.Sleep(r.s.o.StuckAfter)
		synctest.Wait()
		r.held("llorch_queue_stuck", 1, 1)
		r.set(func() { r.replicas[0].ready = true })
		r.s.Wake("default")
		r.read("a")
		time.Sleep(r.s.o.StuckAfter)
		synctest.Wait()
		r.held("llorch_queue_stuck", 1, 0)
	})
}
