// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"errors"
	"fmt"
	"time"
)

// Code is a stable error code, the `code` of every error envelope and `error` event (OC-CTRL-2030). The list is closed;
// service/front/gate holds the one table that maps a code to its HTTP status.
type Code string

// The codes of the public API.
const (
	InvalidParams     Code = "INVALID_PARAMS"
	DeadlineUnmet     Code = "DEADLINE_UNMET"
	MissingToken      Code = "MISSING_TOKEN"
	BadToken          Code = "BAD_TOKEN"
	UntrustedArtifact Code = "UNTRUSTED_ARTIFACT"
	PolicyDenied      Code = "POLICY_DENIED"
	NotFound          Code = "NOT_FOUND"
	ModelNotFound     Code = "MODEL_NOT_FOUND"
	MethodNotAllowed  Code = "METHOD_NOT_ALLOWED"
	Conflict          Code = "CONFLICT"
	ModelDeprecated   Code = "MODEL_DEPRECATED"
	Deleted           Code = "DELETED"
	TooLarge          Code = "TOO_LARGE"
	UnsupportedMedia  Code = "UNSUPPORTED_MEDIA_TYPE"
	AdmissionReject   Code = "ADMISSION_REJECT"
	QueueFullDropLRU  Code = "QUEUE_FULL_DROP_LRU"
	RateLimited       Code = "RATE_LIMITED"
	BudgetExceeded    Code = "BUDGET_EXCEEDED"
	Internal          Code = "INTERNAL"
	NotImplemented    Code = "NOT_IMPLEMENTED"
	PoolUnready       Code = "POOL_UNREADY"
	PoolUnavailable   Code = "POOL_UNAVAILABLE"
	ReplicaExhausted  Code = "REPLICA_EXHAUSTED"
	ShuttingDown      Code = "SHUTTING_DOWN"
	LedgerUnavailable Code = "LEDGER_UNAVAILABLE"
	DecodeTimeout     Code = "DECODE_TIMEOUT"
	WorkerReset       Code = "WORKER_RESET"
	Canceled          Code = "CANCELED"
)

// Codes lists every code, in the order of the constants. Tests hold the contract, the table of the gate and the features against it.
func Codes() []Code {
	return []Code{
		InvalidParams, DeadlineUnmet, MissingToken, BadToken, UntrustedArtifact, PolicyDenied, NotFound, ModelNotFound,
		MethodNotAllowed, Conflict, ModelDeprecated, Deleted, TooLarge, UnsupportedMedia, AdmissionReject, QueueFullDropLRU, RateLimited,
		BudgetExceeded, Internal, NotImplemented, PoolUnready, PoolUnavailable, ReplicaExhausted, ShuttingDown,
		LedgerUnavailable, DecodeTimeout, WorkerReset, Canceled,
	}
}

// Error is the one error type that reaches a client. Message says what is wrong and what to do; Err is the low-level
// cause, for the log only.
type Error struct {
	Code        Code
	Message     string
	Hint        string
	Retriable   bool
	Final       bool          // waiting does not help, although errors of this code are retriable as a rule
	RetryAfter  time.Duration // 0: no figure
	PolicyLabel string        // the full-queue policy of a 429
	Engine      string
	PoolID      string
	Reasons     []Reason // of a refusal of /readyz: what keeps each pool from running a task
	Narrated    string   // what the log says to people in place of the code's own words, without ids; empty: those fit
	Err         error
}

// Reason is one part of why nothing can be served. PoolID is empty where it is not about one pool.
type Reason struct {
	PoolID  string `json:"pool_id,omitempty"`
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Errorf makes a typed error that is not retriable.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Err)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

func (e *Error) Unwrap() error { return e.Err }

// Because sets the low-level cause and returns e.
func (e *Error) Because(err error) *Error {
	e.Err = err
	return e
}

// Retry marks e as worth repeating after the given time (0: at once, or unknown) and returns e.
func (e *Error) Retry(after time.Duration) *Error {
	e.Retriable, e.RetryAfter = true, after
	return e
}

// Narrate sets what the log says to people in place of the code's own words and returns e. It holds no ids (ORCH-3300).
func (e *Error) Narrate(what string) *Error {
	e.Narrated = what
	return e
}

// Forever marks e as not worth repeating until somebody has done what it says, whatever its code, and returns e.
func (e *Error) Forever() *Error {
	e.Final, e.Retriable, e.RetryAfter = true, false, 0
	return e
}

// AsError finds the *Error in err's chain. An error of another type becomes INTERNAL, with err as its cause.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Errorf(Internal, "something went wrong inside the orchestrator; its log has the cause under this correlation id").Because(err)
}

// HasCode reports whether err carries the code.
func HasCode(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
