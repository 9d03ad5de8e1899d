// SPDX-License-Identifier: GPL-3.0-or-later

package exchange

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// A client that names its request with this header can repeat it, and joins the task that it has (LO-405).
const keyHeader = "Idempotency-Key"

const (
	maxKey  = 255 // bytes of a key
	maxRuns = 16  // tasks that one key may come to, since those before ended without an answer
)

// keyOf is the request's key; empty: it has none.
func keyOf(h http.Header) (string, error) {
	values := h.Values(keyHeader)
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	switch {
	case len(values) > 1:
		return "", task.Errorf(task.InvalidParams, "the request has %d headers %s: send one", len(values), keyHeader)
	case len(key) > maxKey:
		return "", task.Errorf(task.InvalidParams, "the %s has %d bytes, and may have %d: send a shorter one, such as a UUID", keyHeader, len(key), maxKey)
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }):
		return "", task.Errorf(task.InvalidParams, "the %s has characters that are not printable ASCII: send another one, such as a UUID", keyHeader)
	}
	return key, nil
}

// first is the id of the first task of a request's key; empty: it has none.
func (x *Exchange) first(r *http.Request) (string, error) {
	key, err := keyOf(r.Header)
	if key == "" || err != nil {
		return "", err
	}
	return scoped(x.name, strings.TrimRight(r.URL.Path, "/"), gate.CallFrom(r.Context()).Identity, key), nil
}

// nth is the id of a key's task of that number, from 1.
func nth(first string, n int) string {
	if n == 1 {
		return first
	}
	return first + "-" + strconv.Itoa(n)
}

// Asked is the request that has come with the same key and body before, and has an answer, or gets one. False: there is none. A front needs it where it could
// not make the same of the body any more.
func (x *Exchange) Asked(r *http.Request, body []byte) (q task.Request, ok bool) {
	first, err := x.first(r)
	if first == "" || err != nil {
		return q, false
	}
	for n := 1; n <= maxRuns; n++ {
		of, _, err := x.Record(r.Context(), nth(first, n))
		if err != nil || of.Task.Request.BodySHA256 != sha256.Sum256(body) {
			return q, false
		}
		if !unanswered(of.Err) {
			return of.Task.Request, true
		}
	}
	return q, false
}

// scoped is the id of the first task of a key. One key on two paths, of two dialects, or of two callers is two keys.
func scoped(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return "key-" + hex.EncodeToString(sum[:16])
}

// submitOnce submits a request that has a key, or finds the task that it has. Where that ended without an answer, the key's next task follows.
func (x *Exchange) submitOnce(ctx context.Context, q task.Request, first string) (admitted task.Admission, err error) {
	for n := 1; n <= maxRuns; n++ {
		q.ID = nth(first, n)
		if admitted, err = x.o.Tasks.Submit(ctx, q); !unanswered(admitted.Failure) {
			break
		}
	}
	switch {
	case task.HasCode(err, task.Conflict):
		return admitted, task.Errorf(task.Conflict, "this %s was sent before, with another request: choose another key", keyHeader).Because(err)
	case task.HasCode(err, task.Deleted):
		return admitted, task.Errorf(task.Deleted, "the answer to the request with this %s is deleted by now: to have the request answered anew, send it with another key",
			keyHeader).Because(err)
	}
	return admitted, err
}

// unanswered reports whether a task ended so that repeating its request helps.
func unanswered(e *task.Error) bool {
	return e != nil && (e.Code == task.Canceled || e.Envelope().Retriable)
}
