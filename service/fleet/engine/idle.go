// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"context"
	"time"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/spare"
)

// Held is a slot of an engine that somebody holds.
type Held interface {
	Engine() Engine
	// Others counts those who hold other slots of it.
	Others() int
	// Lost is closed when what runs the engine is gone.
	Lost() <-chan struct{}
}

// The time between two questions whether an engine is idle. Most notice within a token that their client is gone, and somebody may wait for the slot, so it begins
// short and doubles.
const askFirst, askEvery = time.Millisecond, 10 * time.Millisecond

// answerEvery is the time between two questions whether an engine answers again.
const answerEvery = 100 * time.Millisecond

// AwaitAnswer waits, after an engine broke off a run, until it answers as healthy, or is gone, or ctx ends. One question takes at most so long.
func AwaitAnswer(ctx context.Context, h Held, within time.Duration) {
	ask := time.NewTicker(answerEvery)
	defer ask.Stop()
	for {
		asked, stop := awake.WithTimeout(ctx, within)
		err := h.Engine().Health(asked)
		stop()
		if err == nil {
			return
		}
		select {
		case <-h.Lost():
			return
		case <-ctx.Done():
			return
		case <-ask.C:
		}
	}
}

// AwaitIdle waits, after a run that was left early, until the engine has no more busy slots than others hold. It returns false where that takes
// longer: then what runs the engine is to be replaced, since the next run must not wait behind a dead one (ORCH-3026). An engine that does not count its
// busy slots stops when its connection is closed. One that could not be asked, because this process lacks something, is not to blame (LO-839).
func AwaitIdle(h Held, within time.Duration) bool {
	counter, ok := h.Engine().(BusyCounter)
	if !ok {
		return true
	}
	ctx, stop := awake.WithTimeout(context.Background(), within)
	defer stop()
	wait := askFirst
	ask := time.NewTimer(wait)
	defer ask.Stop()
	for short := false; ; {
		busy, err := counter.Busy(ctx)
		if err == nil && busy <= h.Others() {
			return true
		}
		if ctx.Err() == nil {
			short = spare.Short(err)
		}
		select {
		case <-h.Lost():
			return true
		case <-ctx.Done():
			return short
		case <-ask.C:
			wait = min(2*wait, askEvery)
			ask.Reset(wait)
		}
	}
}
