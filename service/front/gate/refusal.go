// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"context"
	"net/http"
	"strconv"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// rule is how a code looks over HTTP (OC-CTRL-2030).
type rule struct {
	status int
	// streamOnly codes end streams. Where one reaches a plain response all the same, it is sent with this status.
	streamOnly bool
}

// rules is the one table of error codes, for every front.
var rules = map[task.Code]rule{
	task.InvalidParams:     {status: http.StatusBadRequest},
	task.DeadlineUnmet:     {status: http.StatusBadRequest},
	task.MissingToken:      {status: http.StatusUnauthorized},
	task.BadToken:          {status: http.StatusUnauthorized},
	task.UntrustedArtifact: {status: http.StatusForbidden},
	task.PolicyDenied:      {status: http.StatusForbidden},
	task.NotFound:          {status: http.StatusNotFound},
	task.ModelNotFound:     {status: http.StatusNotFound},
	task.MethodNotAllowed:  {status: http.StatusMethodNotAllowed},
	task.Conflict:          {status: http.StatusConflict},
	task.ModelDeprecated:   {status: http.StatusGone},
	task.Deleted:           {status: http.StatusGone},
	task.TooLarge:          {status: http.StatusRequestEntityTooLarge},
	task.UnsupportedMedia:  {status: http.StatusUnsupportedMediaType},
	task.AdmissionReject:   {status: http.StatusTooManyRequests},
	task.QueueFullDropLRU:  {status: http.StatusTooManyRequests},
	task.RateLimited:       {status: http.StatusTooManyRequests},
	task.BudgetExceeded:    {status: http.StatusTooManyRequests},
	task.Internal:          {status: http.StatusInternalServerError},
	task.NotImplemented:    {status: http.StatusNotImplemented},
	task.PoolUnready:       {status: http.StatusServiceUnavailable},
	task.PoolUnavailable:   {status: http.StatusServiceUnavailable},
	task.ReplicaExhausted:  {status: http.StatusServiceUnavailable},
	task.ShuttingDown:      {status: http.StatusServiceUnavailable},
	task.LedgerUnavailable: {status: http.StatusServiceUnavailable},
	task.DecodeTimeout:     {status: http.StatusServiceUnavailable, streamOnly: true},
	task.WorkerReset:       {status: http.StatusServiceUnavailable, streamOnly: true},
	task.Canceled:          {status: http.StatusConflict, streamOnly: true},
}

// StreamOnly reports whether errors of this code end streams, and are no answer to a request.
func StreamOnly(code task.Code) bool { return rules[code].streamOnly }

// Refusal is an error as a response. A front renders the envelope's fields in its own shape.
type Refusal struct {
	Status       int
	RetryAfter   int   // seconds, rounded up, for the header; 0: no header
	BackoffMS    int64 // for the header; 0: no header
	Authenticate bool  // the client is to send a token
	Envelope     task.Envelope

	cause error
}

// Refuse looks an error up in the table. An error that is no *task.Error, or whose code is not in the table, is INTERNAL.
func Refuse(err error) Refusal {
	e := task.AsError(err)
	if _, known := rules[e.Code]; !known {
		e = task.AsError(e.Err)
	}
	r := Refusal{Status: rules[e.Code].status, Envelope: e.Envelope(), cause: err}
	r.Authenticate = r.Status == http.StatusUnauthorized
	if ms := r.Envelope.RetryAfterMS; ms != nil {
		switch r.Status {
		case http.StatusTooManyRequests:
			r.BackoffMS = *ms
			fallthrough
		case http.StatusServiceUnavailable:
			r.RetryAfter = seconds(*ms)
		}
	}
	return r
}

// Log tells the log about the refusal and its low-level cause, which no client sees.
func (r Refusal) Log(ctx context.Context, log *zap.Logger) {
	write := log.Debug
	if r.Status == http.StatusInternalServerError && ctx.Err() == nil {
		write = log.Error
	}
	c := CallFrom(ctx)
	write("a request was refused", zap.String("correlation_id", c.CorrelationID), zap.String("identity", c.Identity),
		zap.String("code", string(r.Envelope.Code)), zap.Int("status", r.Status), zap.Error(r.cause))
}

// HelpPath is where the server says what each code stands for, under an anchor that is the code's name (LO-643).
const HelpPath = "/errors"

// SetHeaders sets the headers that every dialect's refusal has.
func (r Refusal) SetHeaders(h http.Header) {
	h.Set("Link", "<"+HelpPath+"#"+string(r.Envelope.Code)+`>; rel="help"`)
	if r.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(r.RetryAfter))
	}
	if r.BackoffMS > 0 {
		h.Set("X-Backoff-Ms", strconv.FormatInt(r.BackoffMS, 10))
	}
	if r.Authenticate {
		h.Set("WWW-Authenticate", "Bearer")
	}
}

// seconds are so many milliseconds, rounded up.
func seconds(ms int64) int { return int((ms + 999) / 1000) }
