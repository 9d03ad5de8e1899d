// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/task"
)

// How many prompts the engines of a pool read at a time, and how long one may wait until its turn comes (LO-843). An engine has seconds for each: a
// thousand large ones at once would take them from each other.
const (
	readsAtOnce = 8
	turnWithin  = 4 * time.Minute
)

// turns are those of the pools.
type turns struct {
	mu sync.Mutex
	of map[string]*semaphore.Weighted // by pool
}

func (t *turns) pool(id string) *semaphore.Weighted {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.of[id]
	if s == nil {
		s = semaphore.NewWeighted(readsAtOnce)
		if t.of == nil {
			t.of = map[string]*semaphore.Weighted{}
		}
		t.of[id] = s
	}
	return s
}

// take waits until the engines of a pool may be asked to read one more prompt. Who came first is first. Done has to be called.
func (t *turns) take(ctx context.Context, poolID string) (done func(), err error) {
	s := t.pool(poolID)
	bounded, stop := awake.WithTimeout(ctx, turnWithin)
	defer stop()
	switch err := s.Acquire(bounded, 1); {
	case err == nil:
		return func() { s.Release(1) }, nil
	case ctx.Err() != nil: // the client is gone
		return nil, context.Cause(ctx)
	default:
		return nil, task.Errorf(task.AdmissionReject, "more prompts wait to be read than the engines of pool '%s' have read in %g s: send the request again later",
			poolID, turnWithin.Seconds()).Retry(turnWithin)
	}
}
