// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

// rule is how a code looks over HTTP (OC-CTRL-2030).
type rule struct {
	status int
	// streamOnly codes end streams. Where one reaches a plain response all the same, it is sent with this status.
	streamOnly bool
}

// rules is the one table of error codes.
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
	task.TooLarge:          {status: http.StatusRequestEntityTooLarge},
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

// What the contract allows; gen's client refuses more.
const (
	maxMessage = 4096
	maxShort   = 64
	maxID      = 128
	maxName    = 160
)

// toError renders an error as gen's envelope.
func toError(e *task.Error) gen.Error {
	if _, known := rules[e.Code]; !known {
		e = task.AsError(e.Err)
	}
	v := e.Envelope()
	out := gen.Error{
		Code: gen.ErrorCode(v.Code), Message: v.Message, Retriable: v.Retriable, PolicyLabel: optString(v.PolicyLabel),
		Engine: optString(v.Engine), PoolID: optString(v.PoolID), Hint: optString(v.Hint),
	}
	if v.RetryAfterMS != nil {
		out.RetryAfterMs = gen.NewOptInt64(*v.RetryAfterMS)
	}
	return out
}

// envelope renders an error as a response, and logs its low-level cause, which no client sees.
func (s *server) envelope(ctx context.Context, err error) *gen.ErrorStatusCodeWithHeaders {
	body := toError(task.AsError(err))
	res := &gen.ErrorStatusCodeWithHeaders{StatusCode: rules[task.Code(body.Code)].status, Response: body}
	if ms, ok := body.RetryAfterMs.Get(); ok {
		after := time.Duration(ms) * time.Millisecond
		switch res.StatusCode {
		case http.StatusTooManyRequests:
			res.XBackoffMs = gen.NewOptInt64(ms)
			res.RetryAfter = gen.NewOptInt(int(ceil(after, time.Second)))
		case http.StatusServiceUnavailable:
			res.RetryAfter = gen.NewOptInt(int(ceil(after, time.Second)))
		}
	}
	log := s.Log.Debug
	if res.StatusCode == http.StatusInternalServerError && ctx.Err() == nil {
		log = s.Log.Error
	}
	c := callFrom(ctx)
	log("a request was refused", zap.String("correlation_id", c.correlationID), zap.String("identity", c.identity),
		zap.String("code", string(body.Code)), zap.Int("status", res.StatusCode), zap.Error(err))
	return res
}

// writeError answers with the envelope, unless the response has begun.
func (s *server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	res := s.envelope(r.Context(), err)
	if rec, ok := w.(*recorder); ok && rec.status != 0 {
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if v, ok := res.RetryAfter.Get(); ok {
		h.Set("Retry-After", strconv.Itoa(v))
	}
	if v, ok := res.XBackoffMs.Get(); ok {
		h.Set("X-Backoff-Ms", strconv.FormatInt(v, 10))
	}
	if res.StatusCode == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	body, err := res.Response.MarshalJSON()
	if err != nil {
		s.Log.Error("an error envelope could not be encoded", zap.Error(err))
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(res.StatusCode)
	if _, err := w.Write(body); err != nil {
		s.Log.Debug("an error envelope could not be sent", zap.Error(err))
	}
}

func ceil(d, unit time.Duration) int64 { return int64((d + unit - 1) / unit) }

func optString(s string) gen.OptString {
	if s == "" {
		return gen.OptString{}
	}
	return gen.NewOptString(s)
}
