// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// breaker gives up a replica whose workers keep failing. Only one goroutine uses it.
type breaker struct {
	failures int // so many within the window are too many
	window   time.Duration
	recent   []time.Time
}

// fail counts a failure, and reports whether there were too many. A refusal does not count, because another try costs nothing; nor do
// the end of a drain and a change of files, which are no failures, nor a host that is away, nor what this process itself lacks.
func (b *breaker) fail(why reason, now time.Time) bool {
	if why == refused || why == drained || why == filesChanged || why == hostLost || why == ownShortage {
		return false
	}
	kept := b.recent[:0]
	for _, at := range b.recent {
		if now.Sub(at) < b.window {
			kept = append(kept, at)
		}
	}
	b.recent = append(kept, now)
	return len(b.recent) >= b.failures
}

// reset forgets the failures, because a worker served well or somebody did something about it.
func (b *breaker) reset() { b.recent = nil }

func (b *breaker) gaveUp(why *loss, next time.Time) string {
	return fmt.Sprintf("gave up after %d failures in %s: %s; next try at %s, or at once after a reload or a retry",
		len(b.recent), b.window, why.Error(), next.UTC().Format(time.RFC3339))
}

// jitter makes a wait up to a fifth shorter or longer, so that replicas that failed together do not all try again together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // no secret
}
