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
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	ht "github.com/ogen-go/ogen/http"
	"github.com/ogen-go/ogen/ogenerrors"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/task"
)

const correlationHeader = "X-Correlation-Id"

// server is the API's handler: what every request passes before gen routes and decodes it.
type server struct {
	Options
	contract   *contract
	routes     *gen.Server
	deliveries deliveries
}

// call is what one request carries to its handler.
type call struct {
	correlationID string
	identity      string
	bodySHA256    [sha256.Size]byte // of the compacted JSON
	body          []byte
	request       *http.Request
	writer        *http.ResponseController // of the answer
	stream        Stream                   // is the answer; nil: gen's handler gave it
}

type callKey struct{}

// callFrom never returns nil.
func callFrom(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// recorder notes the status, and keeps the connection's own controls within reach of http.ResponseController.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// ServeHTTP names the request, then authenticates it, then serves it.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	c := &call{correlationID: correlationID(r.Header.Get(correlationHeader))}
	r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
	c.request = r
	w.Header().Set(correlationHeader, c.correlationID)
	rec := &recorder{ResponseWriter: w}
	// A client that does not read its answer must not keep it for ever; a stream sets the time anew for each write.
	c.writer = http.NewResponseController(w)
	_ = c.writer.SetWriteDeadline(began.Add(s.WriteTimeout))
	route, found := s.routes.FindPath(r.Method, r.URL)
	defer func() {
		s.recovered(rec, r, recover())
		s.Log.Debug("served a request", zap.String("correlation_id", c.correlationID), zap.String("identity", c.identity),
			zap.String("method", r.Method), zap.String("operation", route.Name()), zap.Int("status", rec.status),
			zap.Duration("took_ms", time.Since(began)))
	}()
	var op *operation
	if found {
		op = s.contract.byName[route.Name()]
	}
	if err := s.admit(rec, r, c, op); err != nil {
		s.writeError(rec, r, err)
		return
	}
	s.routes.ServeHTTP(rec, r)
	if c.stream == nil {
		return
	}
	if err := s.deliver(w, r, c, began); err != nil { //nolint:contextcheck // a stream outlives its handler
		s.writeError(rec, r, err)
		return
	}
	rec.status = http.StatusOK
}

// admit checks what needs no handler. op is nil where no operation matches; gen words that refusal.
func (s *server) admit(w http.ResponseWriter, r *http.Request, c *call, op *operation) (err error) {
	if op == nil || !op.open {
		if c.identity, err = s.Auth.Check(r, op != nil && op.guarded); err != nil {
			return err
		}
	}
	if op == nil {
		return nil
	}
	if !live[op.name] {
		return op.notImplemented()
	}
	if err := checkQuery(r.URL.RawQuery, op.queryNames()); err != nil {
		return err
	}
	if op.body != nil {
		return s.readBody(w, r, c)
	}
	return nil
}

// correlationID echoes a sound id and makes one otherwise: what is echoed goes to logs and headers (OC-CTRL-2052).
func correlationID(offered string) string {
	if offered == "" || len(offered) > 128 {
		return uuid.NewString()
	}
	for _, b := range []byte(offered) {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '.', b == '_', b == ':', b == '-':
		default:
			return uuid.NewString()
		}
	}
	return offered
}

// recovered turns a panic into INTERNAL; its stack goes to the log only. A response that has begun is broken off, so that no
// client takes it for whole.
func (s *server) recovered(rec *recorder, r *http.Request, p any) {
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	s.panicked(callFrom(r.Context()).correlationID, p)
	if rec.status != 0 {
		panic(http.ErrAbortHandler)
	}
	s.writeError(rec, r, task.AsError(fmt.Errorf("panic: %v", p)))
}

// panicked is called in the deferred call that recovered p.
func (s *server) panicked(correlationID string, p any) {
	s.Log.Error("a handler panicked", zap.String("correlation_id", correlationID),
		zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
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
		if !slices.Contains(known, name) {
			return task.Errorf(task.InvalidParams, "%s", unknown("query parameter", task.Clip(name, maxQuote), name, known))
		}
		if len(values) > 1 {
			return task.Errorf(task.InvalidParams, "query parameter `%s` is given %d times: give it once", name, len(values))
		}
	}
	return nil
}

// readBody reads a JSON body once, bounded, and leaves it for gen's decoder.
func (s *server) readBody(w http.ResponseWriter, r *http.Request, c *call) error {
	if err := jsonContent(r.Header); err != nil {
		return err
	}
	tooLarge := task.Errorf(task.TooLarge, "the body is larger than the %d bytes this server takes: shorten it, or raise the server's limit", s.MaxBody)
	if r.ContentLength > s.MaxBody {
		return tooLarge
	}
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(s.ReadTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("bound the reading of the body: %w", err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge
	}
	if err != nil {
		return task.Errorf(task.InvalidParams, "the body broke off after %d bytes: send it again", len(body)).Because(err)
	}
	if err := control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("unbound the reading of the connection: %w", err)
	}
	if c.bodySHA256, err = digest(body); err != nil {
		return err
	}
	c.body = body
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return nil
}

func jsonContent(h http.Header) error {
	sent := h.Get("Content-Type")
	kind, params, err := mime.ParseMediaType(sent)
	if err == nil && kind == "application/json" && (params["charset"] == "" || strings.EqualFold(params["charset"], "utf-8")) {
		return nil
	}
	return task.Errorf(task.InvalidParams, "this call takes JSON: set the header `Content-Type: application/json`, not %q", task.Clip(sent, maxQuote))
}

// digest checks that body is one JSON value in UTF-8 and hashes it without its white space.
func digest(body []byte) (sum [sha256.Size]byte, err error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return sum, task.Errorf(task.InvalidParams, "this call needs a JSON body and has none")
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
func (s *server) refused(ctx context.Context, w http.ResponseWriter, r *http.Request, err error) {
	var (
		params *ogenerrors.DecodeParamsError
		param  *ogenerrors.DecodeParamError
		body   *ogenerrors.DecodeRequestError
	)
	switch {
	case errors.As(err, &params) && errors.As(err, &param):
		err = s.badParam(s.contract.byName[params.OperationName()], r, param)
	case errors.As(err, &body):
		why := s.contract.explainBody(s.contract.byName[body.OperationName()].body, callFrom(ctx).body)
		if why == "" {
			why = "the body does not fit the contract: " + body.Err.Error()
		}
		err = task.Errorf(task.InvalidParams, "%s", why).Because(err)
	case errors.Is(err, ht.ErrNotImplemented):
		err = task.Errorf(task.NotImplemented, "this operation is not implemented yet; GET /v1/capabilities lists what is live")
	default:
		err = fmt.Errorf("serve the request: %w", err)
	}
	s.writeError(w, r, err)
}

func (s *server) badParam(op *operation, r *http.Request, p *ogenerrors.DecodeParamError) error {
	in := string(p.In)
	var sent string
	switch in {
	case "query":
		sent = r.URL.Query().Get(p.Name)
	case "header":
		sent = r.Header.Get(p.Name)
	case "path":
		if route, ok := s.routes.FindPath(r.Method, r.URL); ok && len(route.Args()) == 1 {
			sent = route.Args()[0]
		}
	}
	allowed := "as the contract says"
	for name, param := range op.params {
		if strings.EqualFold(name, in+" "+p.Name) {
			allowed = s.contract.describe(s.contract.resolve(param))
		}
	}
	return task.Errorf(task.InvalidParams, "%s parameter `%s` must be %s, not %q", in, p.Name, allowed, task.Clip(sent, maxQuote)).Because(p)
}

func (s *server) notFound(w http.ResponseWriter, r *http.Request) {
	s.writeError(w, r, task.Errorf(task.NotFound, "there is no path %q; GET /v1/capabilities lists the paths", task.Clip(r.URL.Path, maxQuote)))
}

func (s *server) notAllowed(w http.ResponseWriter, r *http.Request, allowed string) {
	h := w.Header()
	for _, name := range []string{"Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Accept-Post", "Accept-Patch"} {
		h.Del(name) // gen answers OPTIONS as if pages of other origins were welcome
	}
	allowed = strings.ReplaceAll(allowed, ",", ", ")
	h.Set("Allow", allowed)
	s.writeError(w, r, task.Errorf(task.MethodNotAllowed, "%s takes %s, not %s", task.Clip(r.URL.Path, maxQuote), allowed, task.Clip(r.Method, maxQuote)))
}
