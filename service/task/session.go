// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"encoding/json"
	"time"
)

// Amount is a sum of what tasks take. In a budget, zero in a field means no bound.
type Amount struct {
	Tokens int64 // in and out together
	Time   time.Duration
	Cost   int64 // millionths
	Energy int64 // millijoules that cards took
}

// CostUnit is the number of units of Amount.Cost in a cost of 1, as clients and the configuration count it.
const CostUnit = 1_000_000

// Millijoules are the units of Amount.Energy in a joule.
const Millijoules = 1000

// Plus is the sum.
func (a Amount) Plus(b Amount) Amount {
	return Amount{Tokens: a.Tokens + b.Tokens, Time: a.Time + b.Time, Cost: a.Cost + b.Cost, Energy: a.Energy + b.Energy}
}

// Minus is the difference.
func (a Amount) Minus(b Amount) Amount {
	return Amount{Tokens: a.Tokens - b.Tokens, Time: a.Time - b.Time, Cost: a.Cost - b.Cost, Energy: a.Energy - b.Energy}
}

// Session is the part of a session that survives a restart (ORCH-3021).
type Session struct {
	ID        string // a UUID in its canonical form
	CreatedAt time.Time
	TTL       time.Duration
	MaxTurns  int
	Turns     int  // tasks that were accepted
	Explicit  bool // it was created by itself, and not begun by a task
	PoolID    string
	ReplicaID string // of the last turn that ran; empty before the first
	Budget    Amount
	Spent     Amount
}

// Charge is what a task is charged, recorded together with its end (ORCH-3099).
type Charge struct {
	SessionID string    // empty: none
	Account   string    // whose budget is charged besides the session's; empty: nobody's
	Window    time.Time // the period of that budget
	Amount    Amount
}

// Rest is what is left of a budget. In JSON it is just the number.
type Rest[T int64 | float64] struct {
	Left    T
	Bounded bool // if false, there is no budget and Left means nothing
}

// IsZero lets JSON leave it out if there is no budget.
func (r Rest[T]) IsZero() bool { return !r.Bounded }

// MarshalJSON is json.Marshaler's.
func (r Rest[T]) MarshalJSON() ([]byte, error) { return json.Marshal(r.Left) }

// Budgets has the rest of each budget that bounds a task. None is below zero.
type Budgets struct {
	Tokens Rest[int64]   `json:"budget_tokens_remaining,omitzero"`
	TimeMS Rest[int64]   `json:"budget_time_remaining_ms,omitzero"`
	Cost   Rest[float64] `json:"budget_cost_remaining,omitzero"`
	Joules Rest[float64] `json:"budget_joules_remaining,omitzero"`
}

// SessionRequest asks for a session. Zero in a field means the configured value.
type SessionRequest struct {
	ID       string // empty: the orchestrator chooses one
	TTL      time.Duration
	MaxTurns int
	Budget   Amount
	Actor    string
}

// SessionStatus is a session as a client sees it.
type SessionStatus struct {
	Session

	TTLLeft time.Duration // 0 once its time is over and it takes no more tasks
	Warm    bool          // a slot still holds what its last turn left there
	KVBytes int64         // how much that takes; 0: the engine does not tell
	Rests   Budgets
}

// KV is what an engine says about the slot of a task that has ended.
type KV struct {
	Slot   int
	Job    int  // the engine's own number for the task
	Told   bool // if false, the engine does not tell Job
	Cells  int  // tokens in the slot's KV
	Cached int  // tokens of the prompt that came from the session's KV
}
