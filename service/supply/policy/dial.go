// SPDX-License-Identifier: GPL-3.0-or-later

package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	dialTimeout      = 15 * time.Second
	handshakeTimeout = 15 * time.Second
	idleTimeout      = 90 * time.Second
	maxRedirects     = 10
	maxHeaderBytes   = 256 << 10
)

// decidedKey holds the target for which a request was decided, so that dialling is judged by the same name and scheme.
type decidedKey struct{}

// Transport returns a transport that asks the policy before every request, also before one that follows a redirect. When it dials, it asks
// again with the addresses that the name leads to. It uses no proxy, since the names have to be looked up here.
func (p *Policy) Transport(a Action) http.RoundTripper {
	return &transport{p: p, action: a, inner: &http.Transport{
		DialContext: p.DialContext(a), TLSClientConfig: p.o.TLS.Clone(), ForceAttemptHTTP2: true, TLSHandshakeTimeout: handshakeTimeout,
		IdleConnTimeout: idleTimeout, MaxIdleConnsPerHost: 64, MaxResponseHeaderBytes: maxHeaderBytes,
	}}
}

type transport struct {
	p      *Policy
	action Action
	inner  *http.Transport
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	target, err := t.p.ask(r.Context(), t.action, r.URL)
	if err != nil {
		return nil, err
	}
	return t.inner.RoundTrip(r.WithContext(context.WithValue(r.Context(), decidedKey{}, target)))
}

// CloseIdleConnections is a method that http.Client looks for.
func (t *transport) CloseIdleConnections() { t.inner.CloseIdleConnections() }

// Client returns a client over Transport. It follows at most 10 redirects, and none from https to plain http. Its owner closes
// its idle connections.
func (p *Policy) Client(a Action) *http.Client {
	return &http.Client{Transport: p.Transport(a), CheckRedirect: func(r *http.Request, via []*http.Request) error {
		target, err := TargetOf(r.URL)
		if err != nil {
			return task.Errorf(task.InvalidParams, "a redirect leads to what is %v", err)
		}
		if len(via) > maxRedirects {
			return p.report(r.Context(), a, target, verdict{
				denied, fmt.Sprintf("at most %d redirects", maxRedirects), "The source sends its callers on and on: give the final address.",
			}, "request")
		}
		if target.scheme == "http" && via[len(via)-1].URL.Scheme == "https" {
			return p.report(r.Context(), a, target, verdict{
				denied, "no redirect from https to http", "The source would send the bytes unprotected: give an address that stays with https.",
			}, "request")
		}
		return nil
	}}
}

// DialContext returns a dialler for clients with a transport of their own. It looks up the name, refuses the addresses that the policy does not
// allow, and connects to one that the policy allows; nobody looks the name up again in between. If Transport has not asked about a
// connection, it is first decided with the scheme tcp. When a decided call passes this second check, no second audit line is written.
func (p *Policy) DialContext(a Action) func(ctx context.Context, network, address string) (net.Conn, error) {
	dial := p.dialContext(a)
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		// net/http dials in a goroutine of its own.
		if panicked := contain.Do(p.log, "the dial of an outbound call panicked", func() { conn, err = dial(ctx, network, address) }); panicked != nil {
			return nil, panicked
		}
		return conn, err
	}
}

func (p *Policy) dialContext(a Action) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		dialled, err := newTarget("tcp", host, port)
		if err != nil {
			return nil, task.Errorf(task.InvalidParams, "an address that is called is %v", err)
		}
		t, ok := ctx.Value(decidedKey{}).(Target)
		if !ok || t.host != dialled.host || t.port != dialled.port {
			t = dialled
			if err := p.Decide(ctx, a, t); err != nil {
				return nil, err
			}
		}
		return p.connect(ctx, a, t, network)
	}
}

// Dial returns a function that opens a plain connection, without TLS, to the host of a URL. It asks the policy as Transport does.
func (p *Policy) Dial(a Action) func(ctx context.Context, to *url.URL) (net.Conn, error) {
	return func(ctx context.Context, to *url.URL) (net.Conn, error) {
		t, err := p.ask(ctx, a, to)
		if err != nil {
			return nil, err
		}
		return p.connect(ctx, a, t, "tcp")
	}
}

// Ask returns a way to ask the policy about a call of a URL over a connection that is there already, as Transport asks it.
func (p *Policy) Ask(a Action) func(ctx context.Context, to *url.URL) error {
	return func(ctx context.Context, to *url.URL) error {
		_, err := p.ask(ctx, a, to)
		return err
	}
}

// ask decides a call of a URL.
func (p *Policy) ask(ctx context.Context, a Action, to *url.URL) (Target, error) {
	t, err := TargetOf(to)
	if err != nil {
		return t, task.Errorf(task.InvalidParams, "an address that is called is %v", err)
	}
	return t, p.Decide(ctx, a, t)
}

// connect tries the addresses of the target in turn.
func (p *Policy) connect(ctx context.Context, a Action, t Target, network string) (net.Conn, error) {
	addrs := []netip.Addr{t.addr}
	if !t.addr.IsValid() {
		ctx, stop := context.WithTimeout(ctx, dialTimeout)
		defer stop()
		var err error
		if addrs, err = p.o.Resolver.LookupNetIP(ctx, "ip", t.host); err != nil {
			return nil, err
		}
	}
	var failed, refused error
	for _, addr := range addrs {
		v := p.rules.Load().dial(a, t, addr, p.o.Loopback)
		if v.decision != allowed {
			if err := p.report(ctx, a, t, v, "dial"); err != nil {
				refused = err
				continue
			}
		}
		conn, err := p.o.Dial(ctx, network, net.JoinHostPort(addr.Unmap().String(), t.port))
		if err == nil {
			return conn, nil
		}
		failed = errors.Join(failed, err)
	}
	switch {
	case failed != nil: // an allowed address did not answer; it may do so later
		return nil, failed
	case refused != nil:
		return nil, refused
	}
	return nil, &net.DNSError{Err: "no such host", Name: t.host, IsNotFound: true}
}
