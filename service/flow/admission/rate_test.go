// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3006
func TestRatesAreCappedByActorAndPriority(t *testing.T) {
	c := newCaps(map[task.Priority]Rate{task.Batch: {PerSecond: 2, Burst: 3}})
	for range 3 {
		require.NoError(t, c.take(now, "a", task.Batch))
	}
	e := task.AsError(c.take(now, "a", task.Batch))
	require.Equal(t, task.RateLimited, e.Code)
	require.True(t, e.Retriable)
	require.Equal(t, 500*time.Millisecond, e.RetryAfter)
	require.Equal(t, "rate", e.PolicyLabel)
	require.Error(t, c.take(now.Add(499*time.Millisecond), "a", task.Batch), "a refusal costs nothing, and gives nothing")
	require.NoError(t, c.take(now.Add(500*time.Millisecond), "a", task.Batch))
	require.NoError(t, c.take(now, "b", task.Batch), "another token's bucket is full")
	for range 100 {
		require.NoError(t, c.take(now, "a", task.Interactive), "not capped")
	}
}

// ORCH-3006: whoever waits as long as was said is let in, and over any time no more than the cap allows.
func TestPropertyRateHoldsWhatItSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{PerSecond: rapid.Float64Range(0.1, 50).Draw(t, "per second"), Burst: rapid.IntRange(1, 5).Draw(t, "burst")}
		c, at, let := newCaps(map[task.Priority]Rate{task.Batch: r}), now, 0
		for range 50 {
			at = at.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			if err := c.take(at, "a", task.Batch); err != nil {
				at = at.Add(task.AsError(err).RetryAfter + time.Microsecond) // what the limiter's floats round away
				require.NoError(t, c.take(at, "a", task.Batch))
			}
			let++
			require.LessOrEqual(t, float64(let), float64(r.Burst)+at.Sub(now).Seconds()*r.PerSecond+0.01)
		}
	})
}

func BenchmarkRate(b *testing.B) {
	c := newCaps(map[task.Priority]Rate{task.Batch: {PerSecond: 1e9, Burst: 1 << 30}})
	b.ReportAllocs()
	for b.Loop() {
		_ = c.take(now, "a", task.Batch)
	}
}
