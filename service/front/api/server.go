// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	ht "github.com/ogen-go/ogen/http"
	"github.com/ogen-go/ogen/ogenerrors"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// call is what one request carries to its handler, beside what the gate knows of it. It does not change.
type call struct {
	request    *http.Request
	body       []byte            // in normal form
	bodySHA256 [sha256.Size]byte // of the JSON as it was sent, compacted
}

type callKey struct{}

// callFrom never returns nil.
func callFrom(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// Route names the operation of a request, and says who may call it.
func (h *Handler) Route(r *http.Request) (out gate.Route) {
	if r.Method == http.MethodOptions {
		for _, method := range h.contract.methods {
			if _, found := h.routes.FindPath(method, r.URL); found {
				out.Methods = append(out.Methods, method)
			}
		}
		return out
	}
	route, found := h.routes.FindPath(r.Method, r.URL)
	if !found {
		return out
	}
	out.Operation = route.Name()
	switch op := h.contract.byName[route.Name()]; {
	case op.open:
		out.Access = gate.Anybody
	case op.guarded:
		out.Access = gate.WithTokenAlways
	}
	return out
}

// ServeHTTP checks what the contract says of a request beside what gen checks, and lets gen call the handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{}
	if err := h.read(r, c); err != nil {
		h.rejected(r, err)
		h.Refuse(w, r, err)
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
	c.request = r
	h.routes.ServeHTTP(w, r)
}

// read checks a request's query and body. Where no operation takes the request, gen words the refusal.
func (h *Handler) read(r *http.Request, c *call) error {
	op := h.contract.byName[gate.CallFrom(r.Context()).Route.Operation]
	if op == nil {
		return nil
	}
	if !live[op.name] {
		return op.notImplemented()
	}
	if op.name == gen.StreamTaskOperation {
		resume(r)
	}
	if err := checkQuery(r.URL.RawQuery, op.query); err != nil {
		return err
	}
	if op.body == nil {
		return nil
	}
	return readBody(r, c, op)
}

func checkQuery(raw string, known []string) error {
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return task.Errorf(task.InvalidParams, "the query string is malformed: escape it as a URL's").Because(err)
	}
	for name, values := range query {
		if len(values) > 1 && slices.Contains(known, name) {
			return task.Errorf(task.InvalidParams, "query parameter `%s` is given %d times: give it once", name, len(values))
		}
	}
	return nil
}

// readBody reads a JSON body once, and leaves it for gen's decoder, as that takes it. The gate bounds and decodes it.
func readBody(r *http.Request, c *call, op *operation) (err error) {
	if r.ContentLength == 0 && r.Header.Get("Content-Type") == "" {
		return noBody()
	}
	if err = jsonContent(r.Header); err != nil {
		return err
	}
	if c.body, err = io.ReadAll(r.Body); err != nil {
		return err
	}
	if c.bodySHA256, err = digest(c.body); err != nil {
		return err
	}
	c.body = op.shape.normal(c.body)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(c.body)), int64(len(c.body))
	return nil
}

func jsonContent(h http.Header) error {
	sent := h.Get("Content-Type")
	kind, params, err := mime.ParseMediaType(sent)
	if err == nil && kind == "application/json" {
		switch strings.ToLower(params["charset"]) {
		case "", "utf-8", "utf8":
			return nil
		}
	}
	return task.Errorf(task.UnsupportedMedia, "this call takes JSON in UTF-8: set the header `Content-Type: application/json`, not %q", task.Clip(sent, maxQuote))
}

func noBody() error {
	return task.Errorf(task.InvalidParams, "this call needs a JSON body and has none")
}

// digest checks that body is one JSON value in UTF-8 and hashes it without its white space.
func digest(body []byte) (sum [sha256.Size]byte, err error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return sum, noBody()
	}
	if !utf8.Valid(body) {
		return sum, task.Errorf(task.InvalidParams, "the body is not UTF-8: encode it so")
	}
	var compact bytes.Buffer
	compact.Grow(len(body))
	if err := json.Compact(&compact, body); err != nil {
		at := int64(0)
		if syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(body, new(json.RawMessage))); ok { // Compact knows no offset
			at = syntax.Offset
		}
		return sum, task.Errorf(task.InvalidParams, "the body is not valid JSON at byte %d: %s", at, err)
	}
	return sha256.Sum256(compact.Bytes()), nil
}

// refused words what gen's decoders refused.
func (h *Handler) refused(ctx context.Context, w http.ResponseWriter, r *http.Request, err error) {
	var (
		params *ogenerrors.DecodeParamsError
		param  *ogenerrors.DecodeParamError
		body   *ogenerrors.DecodeRequestError
	)
	switch {
	case errors.As(err, &params) && errors.As(err, &param):
		err = h.badParam(h.contract.byName[params.OperationName()], r, param)
	case errors.As(err, &body):
		why := h.contract.explainBody(h.contract.byName[body.OperationName()].body, callFrom(ctx).body)
		if why == "" {
			why = "the body does not fit the contract: " + body.Err.Error()
		}
		err = task.Errorf(task.InvalidParams, "%s", why).Because(err)
	case errors.Is(err, ht.ErrNotImplemented):
		err = task.Errorf(task.NotImplemented, "this operation is not implemented yet; GET /v1/capabilities lists what is live")
	default:
		err = fmt.Errorf("serve the request: %w", err)
	}
	h.rejected(r, err)
	h.Refuse(w, r, err)
}

// rejected counts what was refused if it was to be a task.
func (h *Handler) rejected(r *http.Request, err error) {
	if gate.CallFrom(r.Context()).Route.Operation == gen.CreateTaskOperation && r.Context().Err() == nil {
		h.Tasks.Rejected(err)
	}
}

func (h *Handler) badParam(op *operation, r *http.Request, p *ogenerrors.DecodeParamError) error {
	in := string(p.In)
	var sent string
	switch in {
	case "query":
		sent = r.URL.Query().Get(p.Name)
	case "header":
		sent = r.Header.Get(p.Name)
	case "path":
		if route, ok := h.routes.FindPath(r.Method, r.URL); ok && len(route.Args()) == 1 {
			sent = route.Args()[0]
		}
	}
	allowed := "as the contract says"
	for name, param := range op.params {
		if strings.EqualFold(name, in+" "+p.Name) {
			allowed = h.contract.describe(h.contract.resolve(param))
		}
	}
	return task.Errorf(task.InvalidParams, "%s parameter `%s` must be %s, not %q", in, p.Name, allowed, task.Clip(sent, maxQuote)).Because(p)
}

func (h *Handler) notFound(w http.ResponseWriter, r *http.Request) {
	h.Refuse(w, r, task.Errorf(task.NotFound, "there is no path %q; GET /v1/capabilities lists the paths", task.Clip(r.URL.Path, maxQuote)))
}

func (h *Handler) notAllowed(w http.ResponseWriter, r *http.Request, allowed string) {
	methods := strings.Split(allowed, ",")
	w.Header().Set("Allow", gate.Allow(methods))
	h.Refuse(w, r, task.Errorf(task.MethodNotAllowed, "%s takes %s, not %s", task.Clip(r.URL.Path, maxQuote), strings.Join(methods, ", "), task.Clip(r.Method, maxQuote)))
}
