// SPDX-License-Identifier: GPL-3.0-or-later

package openai

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
	Error errorView `json:"error"`
}

type errorView struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code"`
}

// wording is how the dialect names a code: the clients look for these words.
type wording struct{ kind, code string }

// The words that are needed elsewhere too.
const (
	badRequest = "invalid_request_error"
	tooLong    = "context_length_exceeded"
)

var wordings = map[task.Code]wording{
	task.MissingToken:      {"authentication_error", "invalid_api_key"},
	task.BadToken:          {"authentication_error", "invalid_api_key"},
	task.PolicyDenied:      {"permission_error", "policy_denied"},
	task.NotFound:          {badRequest, "not_found"},
	task.ModelNotFound:     {badRequest, "model_not_found"},
	task.ModelDeprecated:   {badRequest, "model_not_found"},
	task.MethodNotAllowed:  {badRequest, "method_not_allowed"},
	task.TooLarge:          {badRequest, "request_too_large"},
	task.InvalidParams:     {badRequest, "invalid_value"},
	task.DeadlineUnmet:     {badRequest, "deadline_unmet"},
	task.Conflict:          {badRequest, "conflict"},
	task.RateLimited:       {"rate_limit_error", "rate_limit_exceeded"},
	task.AdmissionReject:   {"rate_limit_error", "overloaded"},
	task.QueueFullDropLRU:  {"rate_limit_error", "overloaded"},
	task.BudgetExceeded:    {"insufficient_quota", "insufficient_quota"},
	task.UnsupportedMedia:  {badRequest, "unsupported_media_type"},
	task.UntrustedArtifact: {"permission_error", "untrusted_artifact"},
	task.Deleted:           {badRequest, "deleted"},
	task.NotImplemented:    {badRequest, "not_implemented"},
	task.Canceled:          {badRequest, "canceled"},
}

// errorAt renders an error of a request to a path.
func errorAt(path string, err error) errorBody {
	body := errorOf(err)
	if param := prompts[path]; body.Error.Code == tooLong && param != "" {
		body.Error.Param = &param
	}
	return body
}

// errorOf renders an error.
func errorOf(err error) errorBody {
	v := gate.Refuse(err).Envelope
	words, ok := wordings[v.Code]
	if !ok { // a pool, a worker or the ledger is at fault
		words = wording{"server_error", "overloaded"}
		if v.Code == task.Internal || !v.Retriable {
			words.code = "server_error"
		}
	}
	e := errorView{Message: v.Message, Type: words.kind, Code: words.code}
	if words.code == "overloaded" {
		e.Message = "overloaded: " + e.Message
	}
	if b, ok := errors.AsType[*lenient.ParamError](err); ok {
		e.Param = &b.Param
	}
	if errors.Is(err, errNoPrevious) {
		e.Code = "previous_response_not_found"
	}
	if long, ok := errors.AsType[*task.TooLongError](err); ok {
		e.Code = tooLong
		e.Message = fmt.Sprintf("This model's maximum context length is %d tokens; prompt is too long: %d tokens > %d maximum. Shorten it.",
			long.Ctx, long.Tokens, long.Ctx)
	}
	return errorBody{e}
}

// prompts names what is too long where a prompt is.
var prompts = map[string]string{chatPath: "messages", completionsPath: "prompt", responsesPath: "input", embeddingsPath: "input"}

// Refuse implements gate.Front.
func (f *Front) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	f.x.Refuse(w, r, err, errorAt(r.URL.Path, err))
}
