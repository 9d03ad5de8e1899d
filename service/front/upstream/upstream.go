// SPDX-License-Identifier: GPL-3.0-or-later

// Package upstream passes requests through to the engines' own pages and routes, past the line of tasks (LO-427).
package upstream

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/task"
)

// Prefix is where the front is mounted.
const Prefix = "/upstream"

// ReplicaHeader names the replica whose engine has answered.
const ReplicaHeader = gate.ReplicaHeader

// Engine is the way to the engine of one replica, for one request.
type Engine struct {
	ReplicaID string
	URL       *url.URL // its base
	Key       string   // that it asks for; empty: none
	Transport http.RoundTripper
	// Bound returns a context that also ends when the request may not go on, such as when the replica's worker is lost.
	Bound func(ctx context.Context) (context.Context, context.CancelFunc)
	// Done gives back what the request has of the engine. Whole says that the engine came to its own end.
	Done func(whole bool)
}

// Engines finds the engines.
type Engines interface {
	// Reach finds the way for a request to a pool's engine, by its method and clean path, or refuses it with a *task.Error. A POST gets a slot.
	Reach(poolID, method, path string) (Engine, error)
}

// Options are what a Front is made from. Engines is needed.
type Options struct {
	Engines Engines
	Log     *zap.Logger   // default none
	Within  time.Duration // what one write to the client may take; default 30 s
}

// Front implements gate.Front.
type Front struct {
	o     Options
	proxy httputil.ReverseProxy // without what is each request's own
}

// New makes a front.
func New(o Options) *Front {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.Named("upstream")
	o.Within = cmp.Or(o.Within, gate.DefaultTimeout)
	std, err := zap.NewStdLogAt(o.Log, zap.DebugLevel)
	if err != nil {
		panic(err) // there is such a level
	}
	return &Front{o, httputil.ReverseProxy{FlushInterval: -1, ErrorLog: std}}
}

var methods = []string{http.MethodGet, http.MethodPost}

// Route implements gate.Front. Callers on this machine need the token too, where others need none.
func (f *Front) Route(*http.Request) gate.Route {
	return gate.Route{Operation: "upstream", Access: gate.WithTokenAlways, Methods: methods}
}

// Refuse implements gate.Front, in the native API's shape.
func (f *Front) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	refusal := gate.Refuse(err)
	refusal.Log(r.Context(), f.o.Log)
	refusal.SetHeaders(w.Header())
	body, err := json.Marshal(refusal.Envelope)
	if err != nil {
		panic(err) // it always encodes
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(refusal.Status)
	if _, err := w.Write(body); err != nil {
		f.o.Log.Debug("a refusal could not be sent", zap.Error(err))
	}
}

// target is what a request is for.
type target struct {
	pool string
	path string // of the engine, decoded
	raw  string // the same, as it was sent
	bare bool   // there is nothing behind the pool's name, and no slash either
}

// read finds out what a request is for. The gate has taken a slash from the end of its path, which counts for an engine.
func read(r *http.Request) (t target, err error) {
	raw, slash := r.URL.EscapedPath(), false
	if sent, err := url.ParseRequestURI(r.RequestURI); err == nil {
		slash = strings.HasSuffix(sent.EscapedPath(), "/")
	}
	id, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(raw, Prefix), "/"), "/")
	if t.pool, err = url.PathUnescape(id); err != nil || t.pool == "" {
		return t, task.Errorf(task.NotFound, "the path names no pool: write %s/POOL/ and what the engine is to be asked for behind it", Prefix)
	}
	if t.raw = "/" + rest; slash && !strings.HasSuffix(t.raw, "/") {
		t.raw += "/"
	}
	if t.path, err = url.PathUnescape(t.raw); err != nil {
		return t, task.Errorf(task.InvalidParams, "the path is not encoded as one: write %%25 for a percent sign").Because(err)
	}
	if slices.Contains(strings.FieldsFunc(t.path, func(c rune) bool { return c == '/' || c == '\\' }), "..") {
		return t, task.Errorf(task.InvalidParams, "the path has a part `..`: write the engine's path as it is")
	}
	t.bare = rest == "" && !slash
	return t, nil
}

// ServeHTTP serves a request that the gate has let through.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f.serve(w, r); err != nil {
		f.Refuse(w, r, err)
	}
}

func (f *Front) serve(w http.ResponseWriter, r *http.Request) error {
	t, err := read(r)
	if err != nil {
		return err
	}
	if !slices.Contains(methods, r.Method) {
		w.Header().Set("Allow", gate.Allow(methods))
		return task.Errorf(task.MethodNotAllowed, "only GET and POST are passed through to engines, not %s", task.Clip(r.Method, 20))
	}
	port.Leaves(r.Context())
	// All of the body is read before a slot is taken: a slow client must not hold one up.
	var body []byte
	if r.Body != nil {
		if body, err = io.ReadAll(r.Body); err != nil {
			return err
		}
	}
	e, err := f.o.Engines.Reach(t.pool, r.Method, path.Clean(t.path))
	if err != nil {
		return err
	}
	p := passage{f: f, t: t, e: e, body: body, began: time.Now()}
	if t.bare && r.Method == http.MethodGet { // a page's own addresses are relative to the slash
		e.Done(true)
		w.Header().Set("Location", p.location((&url.URL{Path: strings.TrimRight(e.URL.Path, "/") + "/", RawQuery: r.URL.RawQuery}).String()))
		w.WriteHeader(http.StatusPermanentRedirect)
		return nil
	}
	defer p.end(r)
	return p.pass(w, r)
}

// passage is one request on its way through.
type passage struct {
	f      *Front
	t      target
	e      Engine
	body   []byte
	began  time.Time
	status int   // of the engine's answer; 0: there was none
	whole  bool  // the engine's answer went through to its end
	err    error // why there was no answer
}

// end gives back what the request had, and tells the log of it. Queries are left out: they may have prompts.
func (p *passage) end(r *http.Request) {
	p.e.Done(p.whole)
	call := gate.CallFrom(r.Context())
	p.f.o.Log.Info("a request was passed through to an engine",
		zap.String("correlation_id", call.CorrelationID), zap.String("identity", call.Identity), zap.String("pool_id", p.t.pool),
		zap.String("replica_id", p.e.ReplicaID), zap.String("method", r.Method), zap.String("path", task.Clip(p.t.path, maxPath)), zap.Int("status", p.status),
		zap.Bool("whole", p.whole), zap.Duration("took_ms", time.Since(p.began)), zap.NamedError("cause", p.err))
}

// maxPath is how many bytes of a path the log has.
const maxPath = 200

// pass sends the request to the engine, and its answer to the client.
func (p *passage) pass(w http.ResponseWriter, r *http.Request) error {
	ctx, stop := p.e.Bound(r.Context())
	defer stop()
	w.Header().Set(ReplicaHeader, p.e.ReplicaID)
	proxy := p.f.proxy
	proxy.Rewrite, proxy.ModifyResponse, proxy.Transport = p.rewrite, p.answered, p.e.Transport
	proxy.ErrorHandler = func(_ http.ResponseWriter, _ *http.Request, err error) { p.err = err }
	proxy.ServeHTTP(&paced{w, http.NewResponseController(w), p.f.o.Within}, r.WithContext(ctx))
	if p.err == nil {
		p.whole = true
		return nil
	}
	if r.Context().Err() != nil { // the client is gone
		panic(http.ErrAbortHandler)
	}
	p.status = 0
	if e, ok := errors.AsType[*task.Error](context.Cause(ctx)); ok {
		return e // the transport's error may be the same
	}
	if e, ok := errors.AsType[*task.Error](p.err); ok {
		return e
	}
	e := task.Errorf(task.PoolUnavailable, "the engine of replica %s did not answer, or its connection broke: try again; `llama-orch pools %s` says how it stands", p.e.ReplicaID, p.t.pool).
		Because(p.err).Retry(time.Second)
	e.PoolID = p.t.pool
	return e
}

// rewrite makes the request for the engine.
func (p *passage) rewrite(r *httputil.ProxyRequest) {
	out := r.Out
	base := *p.e.URL
	raw := strings.TrimRight(base.EscapedPath(), "/") + p.t.raw
	base.Path, base.RawPath, base.RawQuery = strings.TrimRight(base.Path, "/")+p.t.path, raw, out.URL.RawQuery
	out.URL, out.Host = &base, ""
	if gate.CallFrom(r.In.Context()).Head {
		out.Method = http.MethodHead
	}
	gate.Forward(out.Header, p.e.Key)
	out.Body, out.ContentLength, out.GetBody, out.TransferEncoding = http.NoBody, 0, nil, nil
	if len(p.body) > 0 {
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p.body)), nil }
		out.Body, _ = out.GetBody()
		out.ContentLength = int64(len(p.body))
		out.Header.Set("Content-Length", strconv.Itoa(len(p.body)))
	}
}

// answered looks at the head of the engine's answer.
func (p *passage) answered(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return errors.New("the engine switched to another protocol, although nobody asked it to")
	}
	p.status = res.StatusCode
	gate.Back(res.Header)
	if to := res.Header.Get("Location"); to != "" {
		res.Header.Set("Location", p.location(to))
	}
	return nil
}

// location is where a redirect of the engine leads when it is followed from here.
func (p *passage) location(to string) string {
	u, err := url.Parse(to)
	if err != nil || !strings.HasPrefix(u.Path, "/") || u.Host != "" && u.Host != p.e.URL.Host {
		return to
	}
	base := strings.TrimRight(p.e.URL.EscapedPath(), "/")
	here := Prefix + "/" + url.PathEscape(p.t.pool) + strings.TrimPrefix(u.EscapedPath(), base)
	if u.RawQuery != "" {
		here += "?" + u.RawQuery
	}
	return here
}

// paced gives each write its own time: an engine may be silent for long.
type paced struct {
	http.ResponseWriter

	control *http.ResponseController
	within  time.Duration
}

// Unwrap is for http.ResponseController.
func (p *paced) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// Write is http.ResponseWriter's.
func (p *paced) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(p.within)) // without one, the gate's holds
	return p.ResponseWriter.Write(b)
}
