// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/llama-orch/llama-orch/service/task"
)

// Rate caps the tasks of one priority that one actor sends: how many a second on average, and how many at once. With a PerSecond of 0
// there is no cap.
type Rate struct {
	PerSecond float64
	Burst     int
}

// caps has a bucket for each actor and priority (ORCH-3006). An actor is an API token, so there are few.
type caps struct {
	rates map[task.Priority]Rate

	mu      sync.Mutex
	buckets map[bucket]*rate.Limiter
}

type bucket struct {
	actor    string
	priority task.Priority
}

func newCaps(rates map[task.Priority]Rate) *caps {
	return &caps{rates: rates, buckets: map[bucket]*rate.Limiter{}}
}

// take lets a task in, or refuses it and says how long to wait.
func (c *caps) take(now time.Time, actor string, p task.Priority) error {
	r := c.rates[p]
	if r.PerSecond <= 0 {
		return nil
	}
	key := bucket{actor, p}
	c.mu.Lock()
	limiter := c.buckets[key]
	if limiter == nil {
		limiter = rate.NewLimiter(rate.Limit(r.PerSecond), max(r.Burst, 1))
		c.buckets[key] = limiter
	}
	c.mu.Unlock()
	taken := limiter.ReserveN(now, 1)
	wait := taken.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	taken.CancelAt(now)
	e := task.Errorf(task.RateLimited, "%s tasks are capped at %g a second for each API token: send the task again later", p, r.PerSecond)
	e.PolicyLabel = "rate"
	return e.Retry(wait)
}
