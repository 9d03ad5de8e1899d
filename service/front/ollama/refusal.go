// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// errorBody is an error in the dialect's shape.
type errorBody struct {
	Error string `json:"error"`
}

// noModelError is MODEL_NOT_FOUND with the name that the client sent. Clients look for both.
type noModelError struct {
	name string
	err  error
}

// Error implements error.
func (e *noModelError) Error() string { return e.err.Error() }

// Unwrap returns the refusal itself.
func (e *noModelError) Unwrap() error { return e.err }

// naming adds the model's name to an error that says that there is none.
func naming(name string, err error) error {
	if task.HasCode(err, task.ModelNotFound) {
		return &noModelError{name, err}
	}
	return err
}

// errorOf renders an error. Clients look for some of its words.
func errorOf(err error) errorBody {
	refusal := gate.Refuse(err)
	says := refusal.Envelope.Message
	if none, ok := errors.AsType[*noModelError](err); ok {
		return errorBody{fmt.Sprintf("model '%s' not found: %s", task.Clip(none.name, maxQuote), says)}
	}
	if long, ok := errors.AsType[*task.TooLongError](err); ok {
		return errorBody{fmt.Sprintf("the input length exceeds the context length: prompt is too long: %d tokens > %d maximum. Shorten it.", long.Tokens, long.Ctx)}
	}
	e := refusal.Envelope
	callers := e.Code == task.BudgetExceeded || e.Code == task.RateLimited // the caller asked for too much, and nothing is overloaded
	if e.Retriable && !callers && (refusal.Status == http.StatusTooManyRequests || refusal.Status == http.StatusServiceUnavailable) {
		says = "overloaded: " + says
	}
	return errorBody{says}
}

const maxQuote = 100

// appendError appends an error as a line of a stream.
func appendError(b []byte, err error) []byte {
	return appendLine(b, errorOf(err))
}

// appendLine appends a line of a stream.
func appendLine(b []byte, v any) []byte { return append(append(b, exchange.JSON(v)...), '\n') }

// Refuse implements gate.Front.
func (f *Front) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	f.x.Refuse(w, r, err, errorOf(err))
}

// What the dialect has and this server has not, and what to do instead.
const (
	noCopy   = "a model is not copied here: give it another name in the server's configuration, as `aliases: {NAME: MODEL}`"
	noCreate = "a model is not created here: pull its file, and write system prompts and parameters into the requests, or into the pool's configuration"
	noPush   = "a model is not pushed from here: its file stays on this server"
	noBlobs  = "files are not uploaded here: put the file on the server, or pull it by /api/pull"
)

func cannot(why string) func(http.ResponseWriter, *http.Request) error {
	return func(http.ResponseWriter, *http.Request) error { return task.Errorf(task.NotImplemented, "%s", why) }
}

// submit sends a request off as a task.
func (f *Front) submit(
	w http.ResponseWriter, r *http.Request, shown string, q task.Request, names *lenient.Names, body []byte,
) (*exchange.Answer, error) {
	a, err := f.x.Submit(w, r, q, body)
	return a, naming(shown, names.Err(err))
}
