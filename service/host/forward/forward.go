// SPDX-License-Identifier: GPL-3.0-or-later

// Package forward passes requests on to the daemon that they are for, where several share a ledger (LO-715). A request goes on once: one that was passed on is
// answered where it came, whatever the answer is.
package forward

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Header marks a request that was passed on, with the name of the host that did it.
const Header = "X-Llorch-Passed-By"

// Hosts are the daemons that share the ledger.
type Hosts interface {
	// Hosts are all of them, as last looked at.
	Hosts() []task.Host
	// Refusal is nil for a pool whose queue this daemon holds.
	Refusal(pool string) error
	// MaySend reports whether this daemon's lease of a pool runs for sure, or nobody else has the pool.
	MaySend(pool string) bool
}

// Options are what a Forwarder is made from.
type Options struct {
	Self  string // this daemon's id
	Name  string // what it is called
	Hosts Hosts
	// PoolOf is the pool of a task that is live in this process.
	PoolOf func(id string) (pool string, live bool)
	// Holder is the id of the daemon that holds a live task; empty: none does.
	Holder func(ctx context.Context, id string) (string, error)
	// Serving are the pools of this daemon that a model's name means here.
	Serving   func(model string) []string
	Token     string // that all daemons share; empty: there is none
	Transport http.RoundTripper
	Within    time.Duration // what one write to the client may take
	Lease     time.Duration // how long another daemon holds a pool after it was last heard of
	Patience  time.Duration // how long a stream waits for its task to be taken over
	Log       *zap.Logger
}

// Forwarder passes requests on. Its methods may be called from several goroutines.
type Forwarder struct{ o Options }

// New makes a forwarder.
func New(o Options) *Forwarder { return &Forwarder{o} }

// Before puts the forwarder before a front.
func (f *Forwarder) Before(front gate.Front) gate.Front { return &before{front, f} }

// before is a front whose requests are looked at before it has them.
type before struct {
	gate.Front

	f *Forwarder
}

// ServeHTTP implements gate.Front.
func (b *before) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get(Header) != "" {
		if id, ok := under(r.URL, "/v1/tasks/"); ok && b.f.stale(id) {
			b.Refuse(w, r, errStale(id))
			return
		}
		b.Front.ServeHTTP(w, r)
		return
	}
	to, err := b.f.target(b.Front, r)
	switch {
	case err != nil:
		b.Refuse(w, r, err)
	case to == nil:
		b.Front.ServeHTTP(w, r)
	default:
		b.f.pass(w, r, *to, b.Front)
	}
}

// target is the daemon that a request is for; nil: this one.
func (f *Forwarder) target(front gate.Front, r *http.Request) (*task.Host, error) {
	if !slices.ContainsFunc(f.o.Hosts.Hosts(), f.other) {
		return nil, nil
	}
	if id, ok := under(r.URL, "/v1/tasks/"); ok {
		return f.ofTask(r.Context(), id)
	}
	if id, ok := under(r.URL, "/v1/pools/"); ok {
		return f.havingPool(id), nil
	}
	if r.Method != http.MethodPost || front.Route(r).Upload > 0 {
		return nil, nil
	}
	return f.ofBody(r), nil
}

// other reports whether a host is up, and is not this one.
func (f *Forwarder) other(h task.Host) bool { return h.Up && h.ID != f.o.Self }

// under is the part of a path behind a prefix.
func under(u *url.URL, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(u.EscapedPath(), prefix)
	if !ok {
		return "", false
	}
	part, _, _ := strings.Cut(rest, "/")
	id, err := url.PathUnescape(part)
	return id, err == nil && id != ""
}

// live reports whether a task is live in this process.
func (f *Forwarder) live(id string) bool {
	_, live := f.o.PoolOf(id)
	return live
}

// stale reports whether what this process knows of a live task may be over: its lease does not run for sure, and another daemon may have taken the task since.
func (f *Forwarder) stale(id string) bool {
	pool, live := f.o.PoolOf(id)
	return live && !f.o.Hosts.MaySend(pool)
}

func errStale(id string) error {
	return task.Errorf(task.PoolUnavailable, "this host has not reached the database for longer than its lease, and does not know who has task %.128q: try again in a moment; `llama-orch hosts` shows who is there", id).
		Retry(time.Second)
}

// ofTask is the daemon that holds a live task.
func (f *Forwarder) ofTask(ctx context.Context, id string) (*task.Host, error) {
	stale := f.stale(id)
	if !stale && f.live(id) {
		return nil, nil
	}
	owner, err := f.o.Holder(ctx, id)
	if err != nil {
		return nil, task.Errorf(task.LedgerUnavailable, "the database does not say which host has the task: try again in a moment; the orchestrator's log has the cause").
			Retry(time.Second).Because(err)
	}
	switch {
	case owner == f.o.Self:
		return nil, nil
	case owner == "" && stale: // it has ended elsewhere, and this process has yet to hear of that
		return nil, errStale(id)
	case owner == "":
		return nil, nil
	}
	for _, h := range f.o.Hosts.Hosts() {
		if h.ID == owner && h.Up {
			return &h, nil
		}
	}
	return nil, task.Errorf(task.PoolUnavailable, "the host that had task %.128q is gone, and its pool is not taken over yet: try again in a moment; `llama-orch hosts` shows who is there", id).
		Retry(time.Second)
}

// havingPool is a daemon that can serve a pool which this one cannot; nil: this one can, or nobody.
func (f *Forwarder) havingPool(id string) *task.Host {
	var found *task.Host
	for _, h := range f.o.Hosts.Hosts() {
		p := h.Pool(id)
		switch {
		case p == nil:
		case h.ID == f.o.Self:
			return nil
		case h.Up && (found == nil || p.Holds):
			found = &h
		}
	}
	return found
}

// wish is what a body says of where its task is to run, in the native API and in the dialects.
type wish struct {
	Ref       string `json:"model_ref"`
	Model     string `json:"model"`
	TaskID    string `json:"task_id"`
	Placement struct {
		Pool string `json:"pool_id"`
	} `json:"placement"`
}

// wished reads a body and puts it back. It reports false where it cannot be read: the front says what is wrong with it.
func wished(r *http.Request) (w wish, ok bool) {
	body, err := io.ReadAll(r.Body) // the gate bounds it
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), failing{err}))
	if err == nil {
		r.ContentLength = int64(len(body))
		err = json.Unmarshal(body, &w)
	}
	return w, err == nil
}

// ofBody is the daemon for what a body asks; nil: this one.
func (f *Forwarder) ofBody(r *http.Request) *task.Host {
	w, ok := wished(r)
	if !ok {
		return nil
	}
	if w.TaskID != "" && f.live(w.TaskID) {
		return nil
	}
	if pool := w.Placement.Pool; pool != "" {
		if f.o.Hosts.Refusal(pool) == nil {
			return nil
		}
		return f.holding(func(p task.HostPool) bool { return p.ID == pool })
	}
	model := w.Ref
	if model == "" {
		model = w.Model
	}
	if model == "" {
		return nil
	}
	here := f.o.Serving(model)
	for _, pool := range here {
		if f.o.Hosts.Refusal(pool) == nil {
			return nil
		}
	}
	return f.holding(func(p task.HostPool) bool {
		return slices.Contains(here, p.ID) || len(here) == 0 && (p.Model == model || p.Ref == model)
	})
}

// failing is what is left of a body that could not be read.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

// holding is another daemon that holds a pool; nil: none does.
func (f *Forwarder) holding(is func(task.HostPool) bool) *task.Host {
	for _, h := range f.o.Hosts.Hosts() {
		if f.other(h) && slices.ContainsFunc(h.Pools, func(p task.HostPool) bool { return p.Holds && is(p) }) {
			return &h
		}
	}
	return nil
}

// pass has another daemon answer a request.
func (f *Forwarder) pass(w http.ResponseWriter, r *http.Request, to task.Host, front gate.Front) {
	base, err := url.Parse(to.Address)
	if err != nil || base.Host == "" {
		front.Refuse(w, r, task.Errorf(task.PoolUnavailable, "this is for the host %s, which has announced no address: set hosts.address there, or send it there", to.Name).Forever())
		return
	}
	call := gate.CallFrom(r.Context())
	begun := false
	proxy := httputil.ReverseProxy{
		Transport: f.o.Transport, FlushInterval: -1, ErrorLog: zap.NewStdLog(f.o.Log),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(base)
			if call.Head {
				p.Out.Method = http.MethodHead
			}
			f.mark(p.Out.Header, call.CorrelationID)
		},
		ModifyResponse: func(res *http.Response) error {
			begun = true
			res.Header.Del(gate.CorrelationHeader) // the gate has set it
			for name := range res.Header {
				if strings.HasPrefix(name, "Access-Control-") {
					res.Header.Del(name)
				}
			}
			if id, ok := streamOf(r); ok && res.StatusCode == http.StatusOK && strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
				res.Body = f.relay(front, r, id, to, res.Body)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if begun || r.Context().Err() != nil || errors.Is(err, context.Canceled) {
				panic(http.ErrAbortHandler)
			}
			f.o.Log.Warn("a request could not be passed on to another host", zap.String("host", to.Name), zap.String("correlation_id", call.CorrelationID), zap.Error(err))
			front.Refuse(w, r, task.Errorf(task.PoolUnavailable, "this is for the host %s, which does not answer: try again in a moment; `llama-orch hosts` shows who is there", to.Name).
				Retry(time.Second).Because(fmt.Errorf("pass on to %s: %w", to.Name, err)))
		},
	}
	proxy.ServeHTTP(&paced{w, http.NewResponseController(w), f.o.Within}, r)
}

// mark makes a request's headers those of one that is passed on.
func (f *Forwarder) mark(h http.Header, correlationID string) {
	gate.Forward(h, f.o.Token)
	h.Set(gate.CorrelationHeader, correlationID)
	h.Set(Header, f.o.Name)
}

// paced gives each write its own time: a stream may be silent for long.
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
