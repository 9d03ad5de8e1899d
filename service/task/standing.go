// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"fmt"
	"time"
)

// PoolState is how a pool stands, as clients see it (LO-842).
type PoolState string

// The states. A pool that drains or was drained is back after a resume. One that failed is back after somebody did what its reason
// says, or after a longer wait.
const (
	PoolReady    PoolState = "ready"
	PoolLoading  PoolState = "loading"
	PoolUnloaded PoolState = "unloaded" // its next task loads it
	PoolFetching PoolState = "fetching" // its model is on its way to the disk
	PoolDraining PoolState = "draining"
	PoolDrained  PoolState = "drained"
	PoolFailed   PoolState = "failed"
)

// PoolStates lists every state. A test holds the contract against it.
func PoolStates() []PoolState {
	return []PoolState{PoolReady, PoolLoading, PoolUnloaded, PoolFetching, PoolDraining, PoolDrained, PoolFailed}
}

// Standing is how a pool stands, and why.
type Standing struct {
	State    PoolState
	Reason   string        // why it does not serve, and what to do, in words for every client; empty: the pool's health says it
	Failing  bool          // its last worker was lost or did not start, and none has got ready since
	Progress float64       // from 0 to 1, of a pool that loads or fetches; 0: nobody can tell
	Retry    time.Duration // when the pool may be back by itself; 0: soon, or nobody can tell
	Fixed    bool          // it failed, and waiting does not help
}

// Refusal says why a pool that stands so takes no task. Where waiting does not help, it is not retriable.
func (s Standing) Refusal(poolID, engine string) *Error {
	e := s.refusal(poolID)
	e.PoolID, e.Engine = poolID, engine
	return e
}

// The waits that a refusal tells, where nobody knows better.
const (
	loadingAgain  = time.Second
	fetchingAgain = 5 * time.Second
)

func (s Standing) refusal(id string) *Error {
	why := fmt.Sprintf("; `llama-orch pools %s` says why", id)
	if s.Reason != "" {
		why = ": " + s.Reason
	}
	far := ""
	if s.Progress > 0 {
		far = fmt.Sprintf(" (%.0f %%)", 100*s.Progress)
	}
	switch s.State {
	case PoolFetching:
		return Errorf(PoolUnready, "the model of pool '%s' is being fetched%s: try again when it is there; `llama-orch pools` shows how far it is", id, far).Retry(max(s.Retry, fetchingAgain))
	case PoolDraining:
		return Errorf(PoolUnready, "pool '%s' is draining, and takes no tasks until somebody brings it back: `llama-orch pool resume %[1]s`", id).Forever()
	case PoolDrained:
		return Errorf(PoolUnready, "pool '%s' is drained, and takes no tasks until somebody brings it back: `llama-orch pool resume %[1]s`", id).Forever()
	case PoolFailed:
		e := Errorf(PoolUnavailable, "pool '%s' failed, and takes no tasks%s; once that is mended, `llama-orch pool load %[1]s` has it try again at once", id, why)
		if s.Fixed {
			return e.Forever()
		}
		return e.Retry(max(s.Retry, loadingAgain))
	case PoolLoading, PoolReady, PoolUnloaded:
	}
	return Errorf(PoolUnready, "pool '%s' is loading%s and has no Ready replica yet: try again in a moment%s", id, far, why).Retry(max(s.Retry, loadingAgain))
}
