// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Error is the API's one error envelope (OC-CTRL-2030), as the answer to a request or as a stream's last event.
type Error struct {
	Status        int           // HTTP status; 0 for a stream's event
	Code          ErrorCode     // stable; a server newer than this client may send one that is not listed here
	Message       string        // what is wrong and what to do
	Retriable     bool          // whether the same request may succeed later
	RetryAfter    time.Duration // when to try again; 0: no figure
	PolicyLabel   string        // the policy that refused, such as `reject`
	Engine        string
	PoolID        string
	Hint          string   // what to look at
	Reasons       []Reason // of Health: what keeps each pool from running a task
	CorrelationID string   // finds the request in the server's log; empty for a stream's event
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

// UnreachableError says that the server gave no answer, or that its connection broke in the middle of one.
type UnreachableError struct {
	Addr string
	Err  error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("no answer from %s: %v", e.Addr, e.Err) }

func (e *UnreachableError) Unwrap() error { return e.Err }

// ProtocolError says that something answered, but not with this API: another program, a proxy, or a server of another version.
type ProtocolError struct {
	Status int // HTTP status; 0 if the status was that of a success
	Err    error
}

func (e *ProtocolError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("the answer cannot be read: %v", e.Err)
	}
	return fmt.Sprintf("the answer has HTTP status %d, and cannot be read: %v", e.Status, e.Err)
}

func (e *ProtocolError) Unwrap() error { return e.Err }

// Check names the check that a stream failed.
type Check string

// The checks of a stream (LO-201, LO-204).
const (
	CheckSequence   Check = "sequence"   // events are numbered without a gap or a repeat
	CheckHash       Check = "hash"       // an event's id holds the running SHA-256 of the events so far
	CheckTranscript Check = "transcript" // the receipt holds the SHA-256 of all token texts
)

// VerifyError says that a stream's events are not what the server says they are. Do not trust what was read of the stream.
type VerifyError struct {
	TaskID  string
	Check   Check
	EventID string // of the event that failed the check
	Want    string // what follows from the events read
	Got     string // what the server said
}

func (e *VerifyError) Error() string {
	return fmt.Sprintf("the stream of task %s fails its %s check at event %s: the events read make %s, the server says %s; "+
		"read the stream again from the start", e.TaskID, e.Check, e.EventID, e.Want, e.Got)
}

// errTooLarge ends an answer, or a stream, that exceeds Options.MaxEventBytes.
var errTooLarge = errors.New("it is larger than this client reads")

// passing reports whether an error of a reconnect may pass by itself, and how long the server wants us to wait.
func passing(err error) (after time.Duration, ok bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.RetryAfter, e.Retriable && (e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable)
	}
	if e, ok := errors.AsType[*ProtocolError](err); ok { // a proxy, while the server behind it restarts
		return 0, e.Status == http.StatusBadGateway || e.Status == http.StatusServiceUnavailable || e.Status == http.StatusGatewayTimeout
	}
	_, ok = errors.AsType[*UnreachableError](err)
	return 0, ok
}

// envelope is the form of an Error in JSON.
type envelope struct {
	Code         ErrorCode `json:"code"`
	Message      string    `json:"message"`
	Retriable    bool      `json:"retriable"`
	RetryAfterMS int64     `json:"retry_after_ms,omitempty"`
	PolicyLabel  string    `json:"policy_label,omitempty"`
	Engine       string    `json:"engine,omitempty"`
	PoolID       string    `json:"pool_id,omitempty"`
	Hint         string    `json:"hint,omitempty"`
	Reasons      []Reason  `json:"reasons,omitempty"`
}

// MarshalJSON gives the API's envelope, without what only the answer's head says.
func (e Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(envelope{
		Code: e.Code, Message: e.Message, Retriable: e.Retriable, RetryAfterMS: e.RetryAfter.Milliseconds(),
		PolicyLabel: e.PolicyLabel, Engine: e.Engine, PoolID: e.PoolID, Hint: e.Hint, Reasons: e.Reasons,
	})
}

// UnmarshalJSON reads the API's envelope.
func (e *Error) UnmarshalJSON(text []byte) error {
	var in envelope
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	*e = Error{
		Code: in.Code, Message: in.Message, Retriable: in.Retriable, RetryAfter: time.Duration(in.RetryAfterMS) * time.Millisecond,
		PolicyLabel: in.PolicyLabel, Engine: in.Engine, PoolID: in.PoolID, Hint: in.Hint, Reasons: in.Reasons,
	}
	return nil
}
