// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"time"
	"unicode/utf8"
)

// Envelope is an error as every client sees it: the body of a refusal, and the data of an `error` event (OC-CTRL-2030).
// Times are milliseconds.
type Envelope struct {
	Code         Code     `json:"code"`
	Message      string   `json:"message"`
	Retriable    bool     `json:"retriable"`
	RetryAfterMS *int64   `json:"retry_after_ms,omitempty"`
	PolicyLabel  string   `json:"policy_label,omitempty"`
	Engine       string   `json:"engine,omitempty"`
	PoolID       string   `json:"pool_id,omitempty"`
	Hint         string   `json:"hint,omitempty"`
	Reasons      []Reason `json:"reasons,omitempty"`
}

// trait says what follows from a code alone.
type trait struct {
	retriable bool   // even if the error itself does not say so
	policy    string // the policy_label of an overload that names none; an overload always has a time to wait
}

var traits = map[Code]trait{
	AdmissionReject:   {retriable: true, policy: "reject"},
	QueueFullDropLRU:  {retriable: true, policy: "drop-lru"},
	RateLimited:       {retriable: true, policy: "rate-limit"},
	BudgetExceeded:    {policy: "budget"},
	PoolUnready:       {retriable: true},
	PoolUnavailable:   {retriable: true},
	ReplicaExhausted:  {retriable: true},
	ShuttingDown:      {retriable: true},
	LedgerUnavailable: {retriable: true},
	WorkerReset:       {retriable: true},
}

// The contract's bounds.
const (
	maxMessage   = 4096
	maxHint      = 1024
	maxLabel     = 64
	maxID        = 128
	maxRetry     = 24 * time.Hour
	overloadWait = time.Second // if nobody has measured a figure
)

// Envelope returns the error as clients see it, without its low-level cause.
func (e *Error) Envelope() Envelope {
	t := traits[e.Code]
	out := Envelope{
		Code: e.Code, Message: Clip(valid(e.Message), maxMessage), Retriable: !e.Final && (e.Retriable || t.retriable),
		PolicyLabel: Clip(e.PolicyLabel, maxLabel), Engine: Clip(e.Engine, maxLabel), PoolID: Clip(e.PoolID, maxID),
		Hint: Clip(valid(e.Hint), maxHint),
	}
	for _, r := range e.Reasons {
		out.Reasons = append(out.Reasons, Reason{PoolID: Clip(r.PoolID, maxID), Code: r.Code, Message: Clip(valid(r.Message), maxMessage)})
	}
	after := min(e.RetryAfter, maxRetry)
	if t.policy != "" {
		if out.PolicyLabel == "" {
			out.PolicyLabel = t.policy
		}
		if after <= 0 {
			after = overloadWait
		}
	}
	if after > 0 {
		ms := int64((after + time.Millisecond - 1) / time.Millisecond)
		out.RetryAfterMS = &ms
	}
	return out
}

// valid puts a replacement character for each byte that is not part of UTF-8, as encoding/json does, which writes it in another way
// than one that was there before. An error that comes back from the record has to give the same bytes as when it was new.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// Clip shortens s to at most n bytes. It cuts no rune in two.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
