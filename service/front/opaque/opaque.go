// SPDX-License-Identifier: GPL-3.0-or-later

// Package opaque passes requests that are no tasks of the API to the servers of the pools that have their paths as routes, through the line of tasks (LO-467).
// It knows nothing of what they ask, but for the model that they name (LO-468).
package opaque

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/task"
)

// Engine is the way to the server that serves a request.
type Engine struct {
	ReplicaID string
	URL       *url.URL // its base
	Key       string   // that it asks for; empty: none
	Transport http.RoundTripper
}

// Passage is what is made of a request while it is in the line.
type Passage interface {
	// Queued tells its place, before anything else happens to it.
	Queued(a task.Admission)
	// Serve has a server serve it, and returns once nothing of it is under way any more. Sent and came are to be called when some of the request has gone to
	// the server, and when some of the answer has come.
	Serve(ctx context.Context, e Engine, sent, came func()) error
}

// Line is the line of tasks.
type Line interface {
	// Takes reports whether a request for a path and of a model, which may be empty, is some pool's.
	Takes(path, model string) bool
	// Pass admits a request and returns once it is over, or refuses it. When ctx ends, its client is gone.
	Pass(ctx context.Context, q task.Request, p Passage) error
}

// Options are what a Front is made from. Line, Refuse and Else are needed.
type Options struct {
	Line Line
	// Refuse answers with an error, in the shape of a dialect.
	Refuse func(w http.ResponseWriter, r *http.Request, err error)
	Else   gate.Front    // of what is no pool's
	Window int64         // bytes of a body that are read before the request is in the line; default gate.DefaultMaxBody
	Body   int64         // bytes of a body; default Window
	Within time.Duration // what one write to the client may take; default gate.DefaultTimeout
	Log    *zap.Logger   // default none
}

// Front implements gate.Front.
type Front struct{ o Options }

// New makes a front.
func New(o Options) *Front {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.Named("opaque")
	o.Window, o.Within = cmp.Or(o.Window, gate.DefaultMaxBody), cmp.Or(o.Within, gate.DefaultTimeout)
	o.Body = max(o.Body, o.Window)
	return &Front{o}
}

var methods = []string{http.MethodGet, http.MethodPost}

// known are the paths of requests that are never tasks, whether a pool has them or not.
var known = []string{"/v1/audio", "/v1/images"}

// ours reports whether a path is that of opaque requests, and whether another front has it as well.
func (f *Front) ours(r *http.Request) (ours, shared bool) {
	for _, path := range known {
		if r.URL.Path == path || strings.HasPrefix(r.URL.Path, path+"/") {
			return true, false
		}
	}
	if !f.o.Line.Takes(r.URL.Path, "") {
		return false, false
	}
	return true, f.o.Else.Route(r).Operation != ""
}

// Route implements gate.Front.
func (f *Front) Route(r *http.Request) gate.Route {
	switch ours, shared := f.ours(r); {
	case !ours, shared: // the bounds of the other front hold, since its body may be the other's
		return f.o.Else.Route(r)
	}
	return gate.Route{Operation: "opaque", Upload: f.o.Body, Held: f.o.Window, Methods: methods}
}

// Refuse implements gate.Front.
func (f *Front) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	if ours, shared := f.ours(r); !ours || shared {
		f.o.Else.Refuse(w, r, err)
		return
	}
	f.o.Refuse(w, r, err)
}

// ServeHTTP serves a request that the gate has let through.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ours, shared := f.ours(r)
	if !ours {
		f.o.Else.ServeHTTP(w, r)
		return
	}
	in, err := f.read(r)
	if err != nil {
		f.o.Refuse(w, r, err)
		return
	}
	model := in.model(r)
	if shared && !f.o.Line.Takes(r.URL.Path, model) {
		r.Body = in.again(r.Body)
		f.o.Else.ServeHTTP(w, r)
		return
	}
	if err := f.serve(w, r, in, model); err != nil {
		f.o.Refuse(w, r, err)
	}
}

func (f *Front) serve(w http.ResponseWriter, r *http.Request, in *window, model string) error {
	q, err := request(w, r, model)
	if err != nil {
		return err
	}
	port.Leaves(r.Context())
	p := &passage{f: f, w: w, r: r, in: in}
	err = f.o.Line.Pass(r.Context(), q, p)
	if err == nil {
		return nil
	}
	if p.begun || r.Context().Err() != nil { // nobody is to take the answer for whole
		panic(http.ErrAbortHandler)
	}
	return err
}

// The headers that an opaque request may have for the line.
const (
	priorityHeader = "X-Priority"
	deadlineHeader = "X-Deadline-Ms"
)

// request is what the line has to know.
func request(w http.ResponseWriter, r *http.Request, model string) (task.Request, error) {
	call := gate.CallFrom(r.Context())
	q := task.Request{
		ModelRef: model, Workload: task.Opaque, Path: r.URL.Path, Priority: task.Interactive, Determinism: task.BestEffort, KVHint: task.KVCold,
		OnDisconnect: task.Continue, Placement: task.Placement{Mode: task.Auto}, CorrelationID: call.CorrelationID, Traceparent: call.Traceparent, Actor: call.Identity,
	}
	exchange.Identify(w.Header(), r)
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", gate.Allow(methods))
		return q, task.Errorf(task.MethodNotAllowed, "only GET and POST are passed on, not %s", task.Clip(r.Method, 20))
	}
	switch p := task.Priority(r.Header.Get(priorityHeader)); p {
	case "", task.Interactive:
	case task.Batch:
		q.Priority = p
	default:
		return q, task.Errorf(task.InvalidParams, "the header %s is interactive or batch, not %q", priorityHeader, task.Clip(string(p), 40))
	}
	if text := r.Header.Get(deadlineHeader); text != "" {
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil || ms < 1 || ms > maxDeadline.Milliseconds() {
			return q, task.Errorf(task.InvalidParams, "the header %s is a number of milliseconds from 1 to %d, not %q", deadlineHeader, maxDeadline.Milliseconds(), task.Clip(text, 40))
		}
		q.Deadline = time.Duration(ms) * time.Millisecond
	}
	return q, nil
}

// maxDeadline is the longest one, as of native tasks.
const maxDeadline = 24 * time.Hour

// read reads the beginning of a request's body.
func (f *Front) read(r *http.Request) (*window, error) {
	in := &window{whole: true}
	if r.Body == nil || r.Body == http.NoBody {
		return in, nil
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, f.o.Window))
	if err != nil {
		return nil, err
	}
	in.data, in.whole = data, int64(len(data)) < f.o.Window
	return in, nil
}

// window is the beginning of a body, or all of it.
type window struct {
	data  []byte
	whole bool
}

// again is the body from its beginning.
func (in *window) again(rest io.ReadCloser) io.ReadCloser {
	if in.whole {
		return io.NopCloser(bytes.NewReader(in.data))
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(in.data), rest), rest}
}
