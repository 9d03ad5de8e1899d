// SPDX-License-Identifier: GPL-3.0-or-later

package anthropic

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// errorBody is an error in the dialect's shape.
type errorBody struct {
	Type      string    `json:"type"`
	Error     errorView `json:"error"`
	RequestID string    `json:"request_id"`
}

type errorView struct {
	Type    string        `json:"type"`
	Message string        `json:"message"`
	Details *errorDetails `json:"details,omitempty"`
}

// errorDetails tell a client what it can do by itself.
type errorDetails struct {
	Code string `json:"error_code"`
}

// unthreaded makes the SDK send the whole conversation, from then on.
const unthreaded = "thread_unsupported_request"

// The types that the dialect has for errors.
const (
	invalidRequest = "invalid_request_error"
	apiError       = "api_error"
	overloaded     = "overloaded_error"
)

var types = map[task.Code]string{
	task.MissingToken:      "authentication_error",
	task.BadToken:          "authentication_error",
	task.PolicyDenied:      "permission_error",
	task.UntrustedArtifact: "permission_error",
	task.NotFound:          "not_found_error",
	task.ModelNotFound:     "not_found_error",
	task.ModelDeprecated:   "not_found_error",
	task.Deleted:           "not_found_error",
	task.TooLarge:          "request_too_large",
	task.InvalidParams:     invalidRequest,
	task.DeadlineUnmet:     invalidRequest,
	task.MethodNotAllowed:  invalidRequest,
	task.Conflict:          invalidRequest,
	task.UnsupportedMedia:  invalidRequest,
	task.NotImplemented:    invalidRequest,
	task.Canceled:          invalidRequest,
	task.RateLimited:       "rate_limit_error",
	task.BudgetExceeded:    "rate_limit_error",
	task.AdmissionReject:   overloaded,
	task.QueueFullDropLRU:  overloaded,
}

// errorOf renders an error.
func errorOf(err error, requestID string) errorBody {
	v := gate.Refuse(err).Envelope
	e := errorView{Type: types[v.Code], Message: v.Message}
	if e.Type == "" { // a pool, a worker or the ledger is at fault
		e.Type = apiError
		if v.Retriable && v.Code != task.Internal {
			e.Type = overloaded
		}
	}
	if e.Type == overloaded {
		e.Message = "Overloaded: " + e.Message // clients look for the word
	}
	if long, ok := errors.AsType[*task.TooLongError](err); ok {
		e.Message = fmt.Sprintf("prompt is too long: %d tokens > %d maximum", long.Tokens, long.Ctx)
	}
	if param, ok := errors.AsType[*lenient.ParamError](err); ok && param.Param == threadField {
		e.Details = &errorDetails{unthreaded}
	}
	return errorBody{"error", e, requestID}
}

// Refuse implements gate.Front.
func (f *Front) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	f.x.Refuse(w, r, err, errorOf(err, gate.CallFrom(r.Context()).CorrelationID))
}
