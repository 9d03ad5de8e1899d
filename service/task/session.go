// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"encoding/json"
	"time"
)

// Amount is a sum of what tasks take. As a budget, zero in a field bounds nothing.
type Amount struct {
	Tokens int64 // in and out together
	Time   time.Duration
	Cost   int64 // millionths
}

// CostUnit is how many units of Amount.Cost make 1 of what clients and the configuration call cost.
const CostUnit = 1_000_000

// Plus is the sum.
func (a Amount) Plus(b Amount) Amount {
	return Amount{Tokens: a.Tokens + b.Tokens, Time: a.Time + b.Time, Cost: a.Cost + b.Cost}
}

// Minus is the difference.
func (a Amount) Minus(b Amount) Amount {
	return Amount{Tokens: a.Tokens - b.Tokens, Time: a.Time - b.Time, Cost: a.Cost - b.Cost}
}

// Session is what is kept of a session over a restart (ORCH-3021).
type Session struct {
	ID        string // a UUID in its canonical form
	CreatedAt time.Time
	TTL       time.Duration
	MaxTurns  int
	Turns     int // tasks that were accepted
	PoolID    string
	ReplicaID string // of the last turn that ran; empty before
	Budget    Amount
	Spent     Amount
}

// Charge is what a task's end costs, recorded with that end (ORCH-3099).
type Charge struct {
	SessionID string    // empty: none
	Account   string    // whose budget, besides the session's; empty: nobody's
	Window    time.Time // of that budget
	Amount    Amount
}

// Rest is what is left of a budget; it encodes as the number alone.
type Rest[T int64 | float64] struct {
	Left    T
	Bounded bool // else Left says nothing
}

// IsZero leaves it out of JSON where there is no budget.
func (r Rest[T]) IsZero() bool { return !r.Bounded }

// MarshalJSON is json.Marshaler's.
func (r Rest[T]) MarshalJSON() ([]byte, error) { return json.Marshal(r.Left) }

// Budgets are the rests of all that bounds a task: never below zero.
type Budgets struct {
	Tokens Rest[int64]   `json:"budget_tokens_remaining,omitzero"`
	TimeMS Rest[int64]   `json:"budget_time_remaining_ms,omitzero"`
	Cost   Rest[float64] `json:"budget_cost_remaining,omitzero"`
}

// SessionRequest asks for a session. Zero in a field means: as configured.
type SessionRequest struct {
	ID       string // empty: chosen
	TTL      time.Duration
	MaxTurns int
	Budget   Amount
	Actor    string
}

// SessionStatus is a session as a client sees it.
type SessionStatus struct {
	Session

	TTLLeft time.Duration // 0 once it takes no more tasks because of its time
	Warm    bool          // a slot still holds what its last turn left there
	KVBytes int64         // what that takes; 0: the engine does not tell
	Rests   Budgets
}

// KV is what an engine says of the slot that a task ran in, once that ended.
type KV struct {
	Slot   int
	Job    int  // tells the task from every other one of that engine
	Told   bool // else the engine does not tell Job
	Cells  int  // tokens in the slot's KV
	Cached int  // tokens of the prompt that were taken from it
}
