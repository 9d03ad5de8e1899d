// SPDX-License-Identifier: GPL-3.0-or-later

// Package gate is what every request passes before a front serves it (ADR 016). The gate names the request, checks who calls,
// bounds the body, turns a panic into an error, and writes one line to the log. It also holds the one table that says how an
// error looks over HTTP.
package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/task"
)

// CorrelationHeader carries the id that a request has in its answer and in the log.
const CorrelationHeader = "X-Correlation-Id"

// Front is one dialect of the API: an http.Handler that turns its requests into tasks, and what comes of them into its own
// answers.
type Front interface {
	http.Handler
	// Route says what the gate needs to know of a request before it lets it through.
	Route(r *http.Request) Route
	// Refuse answers with an error, in the front's own shape.
	Refuse(w http.ResponseWriter, r *http.Request, err error)
}

// Route is what a front says of a request. The zero value is right for a request that no operation takes: its caller is
// checked before it hears so.
type Route struct {
	Operation string // for the log; empty: there is none
	Access    Access
	Upload    int64    // bytes of a body that the front passes on as it comes, to the disk or elsewhere; 0: a body is read into memory, and the gate's bound holds
	Held      int64    // of Upload, so many bytes at the beginning are read into memory
	Methods   []string // that the path takes. Only needed where the request is an OPTIONS; empty: there is no such path
}

// Access is who may call an operation.
type Access uint8

// The ways in.
const (
	WithToken Access = iota // callers with the token, and those on loopback where they need none
	Anybody
	WithTokenAlways // callers with the token, on loopback too
)

// Call is what the gate knows of a request that it has let through.
type Call struct {
	CorrelationID string
	Traceparent   string // the client's place in a trace (LO-629); empty: none
	Identity      string // `localhost` or `token:<6 hex>`; empty: the operation is open, and this caller may not call others
	Route         Route
	Session       func() bool // whether the browser's session by which the caller was let in goes on (LO-604); nil: there is none
	Head          bool        // the request is a HEAD. A front sees it as a GET, and what it writes as a body goes nowhere

	body *body // of an upload
}

// Over reports whether the caller's session has ended since. Streams ask now and then.
func (c Call) Over() bool { return c.Session != nil && !c.Session() }

type callKey struct{}

// CallFrom returns what the gate knows of a request, by its context.
func CallFrom(ctx context.Context) Call {
	if c, ok := ctx.Value(callKey{}).(*Call); ok {
		return *c
	}
	return Call{}
}

// Options are what a gate is made from. Auth and a front for "/" are needed.
type Options struct {
	Auth *Auth
	// Fronts are the fronts by the path that each is mounted at. A front gets its path and what lies under it, unless another
	// is mounted further down.
	Fronts map[string]Front
	// Exact are fronts that get one path each, and nothing that lies under it.
	Exact        map[string]Front
	Log          *zap.Logger           // default none
	Registerer   prometheus.Registerer // of the series; nil: nobody reads them
	MaxBody      int64                 // bytes of a request body; default 4 MiB
	MaxBodies    int64                 // bytes of all bodies that are being read or served; default 64 MiB, at least MaxBody
	ReadTimeout  time.Duration         // to read the next bytes of a request's body; default 30 s, and 20 times as much for the whole
	WriteTimeout time.Duration         // to write an answer; what takes longer asks for more time itself; default 30 s
}

// The defaults of Options.
const (
	DefaultMaxBody = 4 << 20
	DefaultTimeout = 30 * time.Second

	defaultMaxBodies = 64 << 20
)

// Gate is the handler of the whole server.
type Gate struct {
	o      Options
	mounts []mount // the longest paths first
	bodies room

	responses *prometheus.CounterVec
}

type mount struct {
	path  string
	under string // what the paths under it begin with
	front Front
}

// New makes a gate.
func New(o Options) (*Gate, error) {
	if o.Auth == nil || o.Fronts["/"] == nil {
		return nil, errors.New("gate: Auth and a front for / are needed")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.Named("gate")
	o.MaxBody = cmp.Or(o.MaxBody, DefaultMaxBody)
	o.ReadTimeout, o.WriteTimeout = cmp.Or(o.ReadTimeout, DefaultTimeout), cmp.Or(o.WriteTimeout, DefaultTimeout)
	o.MaxBodies = max(cmp.Or(o.MaxBodies, defaultMaxBodies), o.MaxBody)
	g := &Gate{o: o, bodies: room{most: o.MaxBodies}}
	var err error
	if g.responses, err = newResponses(o.Registerer); err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	for path, front := range o.Fronts {
		if !strings.HasPrefix(path, "/") || path != "/" && strings.HasSuffix(path, "/") {
			return nil, fmt.Errorf("gate: a front is mounted at %q: a path begins with / and does not end with it", path)
		}
		g.mounts = append(g.mounts, mount{path: path, under: strings.TrimSuffix(path, "/") + "/", front: front})
	}
	slices.SortFunc(g.mounts, func(a, b mount) int { return cmp.Compare(len(b.path), len(a.path)) })
	return g, nil
}

// front is the one for a path.
func (g *Gate) front(path string) Front {
	if exact := g.o.Exact[path]; exact != nil {
		return exact
	}
	for _, m := range g.mounts {
		if path == m.path || strings.HasPrefix(path, m.under) {
			return m.front
		}
	}
	return g.o.Fronts["/"] // the path has no slash, as that of `OPTIONS *`
}

// ServeHTTP names the request, checks its caller, and hands it to its front.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began, method := time.Now(), r.Method
	port.Begun(r.Context())
	c := &Call{CorrelationID: correlationID(r.Header.Get(CorrelationHeader)), Head: method == http.MethodHead}
	if header := r.Header.Get("Traceparent"); header != "" {
		if _, ok := task.ParseTraceparent(header); ok {
			c.Traceparent = header
		}
	}
	r = plain(r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
	out := &recorder{ResponseWriter: w, within: g.o.WriteTimeout, answered: func(status int) { g.answered(c.Route, status) }}
	out.Header().Set(CorrelationHeader, c.CorrelationID)
	welcome := g.o.Auth.pages.welcome(out.Header(), r.Header.Get("Origin"))
	if welcome {
		out.shows = shown
	}
	out.bound()
	front := g.front(r.URL.Path)
	if r.Body != nil && r.Body != http.NoBody {
		out.body = newBody(out, r, g.o.MaxBody, g.o.ReadTimeout, &g.bodies)
		out.asked = r.Header.Get("Expect") != ""
		r.Body = out.body
		defer out.body.release()
		if d := decode(r, out.body, out.Header()); d != nil {
			defer d.release()
		}
	}
	defer out.waits(r)
	defer func() {
		g.recovered(out, r, front, recover())
		g.o.Log.Debug("served a request", zap.String("correlation_id", c.CorrelationID), zap.String("identity", c.Identity),
			zap.String("method", method), zap.String("operation", c.Route.Operation), zap.Int("status", out.status),
			zap.Duration("took_ms", time.Since(began)))
	}()
	c.Route = front.Route(r)
	if out.body != nil && c.Route.Upload > 0 {
		out.body.widen(c.Route.Upload, c.Route.Held)
		c.body = out.body
	}
	if method == http.MethodOptions {
		methods := everyMethod
		if len(c.Route.Methods) > 0 {
			methods = Allow(c.Route.Methods)
		}
		if len(c.Route.Methods) > 0 || preflight(r) || r.URL.Path == "*" {
			g.options(out, r, front, methods, welcome)
			return
		}
	}
	if c.Route.Access == Anybody { // some of its answer may be for those who could call everything
		c.Identity, c.Session, _ = g.o.Auth.admit(r, false)
	} else {
		var err error
		if c.Identity, c.Session, err = g.o.Auth.admit(r, c.Route.Access == WithTokenAlways); err != nil {
			front.Refuse(out, r, err)
			return
		}
	}
	port.Served(r.Context())
	front.ServeHTTP(out, r)
	if out.status == 0 && !out.taken { // it has no body, and none of the request's may hold it up
		out.WriteHeader(http.StatusOK)
	}
}

// plain makes of a request, which is a copy already, what fronts know: without a slash behind the path, and a GET in place of a
// HEAD, since net/http sends no body to that (LO-828).
func plain(r *http.Request) *http.Request {
	if r.Method == http.MethodHead {
		r.Method = http.MethodGet
	}
	path, raw := r.URL.Path, r.URL.RawPath
	if len(path) > 1 && strings.HasSuffix(path, "/") && (raw == "" || strings.HasSuffix(raw, "/")) { // else the slash belongs to a name
		u := *r.URL
		u.Path, u.RawPath = strings.TrimSuffix(path, "/"), strings.TrimSuffix(raw, "/")
		r.URL = &u
	}
	return r
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
func (g *Gate) recovered(out *recorder, r *http.Request, front Front, p any) {
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	LogPanic(g.o.Log, CallFrom(r.Context()).CorrelationID, p)
	if out.status != 0 {
		panic(http.ErrAbortHandler)
	}
	front.Refuse(out, r, task.AsError(fmt.Errorf("panic: %v", p)))
}

// LogPanic is called in the deferred call that recovered p.
func LogPanic(log *zap.Logger, correlationID string, p any) {
	contain.Log(log, "a handler panicked", p, zap.String("correlation_id", correlationID))
}
