// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/lifecycle"
)

// expireEvery is how late a text may go whose time is over. Many go together, since the ledger passes over its files for each round.
const expireEvery = time.Minute

// expire deletes texts whose time is over, until ctx ends (LO-426).
func (s *Scheduler) expire(ctx context.Context) {
	for {
		ids, next, err := s.o.Ledger.Expire(ctx, s.o.Now())
		s.mu.Lock()
		for _, id := range ids {
			delete(s.replays, id) // a reader that comes now must not join one that has the text
		}
		s.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.o.Log.Warn("what was asked and answered by fronts is not deleted yet, and it is tried again", zap.Error(err))
		case len(ids) > 0:
			s.o.Log.Info("deleted what was asked and answered by fronts, as fronts.keep says", zap.Int("tasks", len(ids)))
		}
		wait := expireEvery
		if !next.IsZero() {
			wait = max(wait, next.Sub(s.o.Now()))
		}
		if !lifecycle.Pause(ctx, min(wait, time.Hour)) { // the clock may be set meanwhile
			return
		}
	}
}
