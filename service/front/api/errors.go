// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"net/http"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// What the contract allows; gen's client refuses more.
const (
	maxMessage  = 4096
	maxProgress = 256
	maxShort    = 64
	maxID       = 128
	maxName     = 160
)

// toError renders an error as gen's envelope.
func toError(e *task.Error) gen.Error { return toEnvelope(gate.Refuse(e).Envelope) }

func toEnvelope(v task.Envelope) gen.Error {
	out := gen.Error{
		Code: gen.ErrorCode(v.Code), Message: v.Message, Retriable: v.Retriable, PolicyLabel: optString(v.PolicyLabel),
		Engine: optString(v.Engine), PoolID: optString(v.PoolID), Hint: optString(v.Hint),
	}
	for _, r := range v.Reasons {
		out.Reasons = append(out.Reasons, gen.Reason{PoolID: optString(r.PoolID), Code: gen.ErrorCode(r.Code), Message: r.Message})
	}
	if v.RetryAfterMS != nil {
		out.RetryAfterMs = gen.NewOptInt64(*v.RetryAfterMS)
	}
	return out
}

// envelope renders a handler's error as a response.
func (h *Handler) envelope(ctx context.Context, err error) *gen.ErrorStatusCodeWithHeaders {
	refusal := gate.Refuse(err)
	refusal.Log(ctx, h.Log)
	res := &gen.ErrorStatusCodeWithHeaders{StatusCode: refusal.Status, Response: toEnvelope(refusal.Envelope)}
	if refusal.BackoffMS > 0 {
		res.XBackoffMs = gen.NewOptInt64(refusal.BackoffMS)
	}
	if refusal.RetryAfter > 0 {
		res.RetryAfter = gen.NewOptInt(refusal.RetryAfter)
	}
	return res
}

// Refuse answers with the envelope.
func (h *Handler) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	refusal := gate.Refuse(err)
	refusal.Log(r.Context(), h.Log)
	refusal.SetHeaders(w.Header())
	h.write(w, refusal.Status, refusal.Envelope)
}

// write sends an envelope with a status.
func (h *Handler) write(w http.ResponseWriter, status int, v task.Envelope) {
	e := toEnvelope(v)
	body, err := e.MarshalJSON()
	if err != nil {
		h.Log.Error("an error envelope could not be encoded", zap.Error(err))
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		h.Log.Debug("an error envelope could not be sent", zap.Error(err))
	}
}

func optString(s string) gen.OptString {
	if s == "" {
		return gen.OptString{}
	}
	return gen.NewOptString(s)
}
