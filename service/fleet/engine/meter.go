// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import "context"

// Meter tells how busy the engine is, with what others ask of it included. It is asked with each health check.
type Meter interface {
	Load(ctx context.Context) (Load, error)
}

// Load is what an engine's own metrics tell (LO-454).
type Load struct {
	Running, Waiting int     // requests
	KV               float64 // part of the KV's room that is in use, 0 to 1; below 0: not told
	// PrefixQueries are the tokens that were looked up in the prefix cache since the engine began, and PrefixHits those that were there.
	PrefixQueries, PrefixHits float64
	Prefix                    bool // they are told
}

// Busy counts the requests that the engine has.
func (l Load) Busy() int { return l.Running + l.Waiting }

// Believe is nil where the load is one that can be.
func (l Load) Believe() error {
	return Believe(
		Figure{"the running requests", float64(l.Running), maxRequests}, Figure{"the waiting requests", float64(l.Waiting), maxRequests},
		Figure{"the use of the KV", max(l.KV, 0), 1}, Figure{"the queries of the prefix cache", l.PrefixQueries, MaxBytes},
		Figure{"the hits of the prefix cache", l.PrefixHits, MaxBytes},
	)
}

// maxRequests is more than any engine has at once.
const maxRequests = 1_000_000
