// SPDX-License-Identifier: GPL-3.0-or-later

// Package port bounds who holds connections to a server, and ends them so that a client gets its answer (LO-821, LO-830).
//
// A connection waits until a request on it was let in, and again behind each answer. Where there is no room for a new connection, the one
// that has waited longest makes room. So whoever opens connections and asks for nothing shuts nobody out.
package port

import (
	"container/list"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Options bound a port.
type Options struct {
	Most       int // connections; default what Room says
	PerAddress int // connections of one address; default three quarters of Most
	// HalfClose serves clients that close their side once they have sent their request. What looks like the end of such a
	// client is the end only when it takes no bytes any more. A server whose clients cancel by leaving must not set it.
	HalfClose bool
	// Refused is called for each connection that was closed because there is no room; nil: by nobody.
	Refused func(from net.Addr)
	// Panicked is called, in the deferred call that recovered it, with a panic of a goroutine that has no caller; nil: it goes on.
	Panicked func(p any)
	// Refusal words what net/http refuses by itself, before a handler is called, in place of net/http's own response. The server's
	// ConnState has to be State, and its handlers have to call Begun. Nil: net/http's own words.
	Refusal func(said []byte) []byte
	// TLS is spoken on each connection; nil: none is.
	TLS *tls.Config
	// Linger is how long a connection takes in what its client still sends behind an answer that came early. Default 10 s.
	Linger time.Duration
}

// Room is how many connections a process may hold, by its limit of descriptors: what is left is for its files and its workers.
func Room() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 512
	}
	n := int(min(limit.Cur, 1<<17))
	return max(n-max(64, n/4), n/4, 4)
}

// Listener is a listener whose connections are bounded.
type Listener struct {
	net.Listener

	o       Options
	mu      sync.Mutex
	open    map[*conn]struct{}
	from    map[netip.Addr]int
	waiting list.List // of *conn, the longest waiting first
	dropped bool
	closing sync.WaitGroup
}

// Bound bounds a listener of TCP.
func Bound(l net.Listener, o Options) *Listener {
	if o.Most <= 0 {
		o.Most = Room()
	}
	if o.PerAddress <= 0 {
		o.PerAddress = max(o.Most-o.Most/4, 1)
	}
	if o.Linger <= 0 {
		o.Linger = 10 * time.Second
	}
	return &Listener{Listener: l, o: o, open: map[*conn]struct{}{}, from: map[netip.Addr]int{}}
}

// Accept is net.Listener's.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			_ = c.Close()
			return nil, fmt.Errorf("a connection is a %T, not one of TCP", c)
		}
		switch admitted := l.admit(tcp); {
		case admitted != nil && l.o.TLS != nil:
			return &secure{tls.Server(admitted, l.o.TLS), admitted}, nil
		case admitted != nil:
			return admitted, nil
		}
		if l.o.Refused != nil {
			l.o.Refused(tcp.RemoteAddr())
		}
		_ = tcp.Close() // nothing was said on it
	}
}

// panicked is deferred by a goroutine that has no caller.
func (l *Listener) panicked() {
	p := recover()
	switch {
	case p == nil:
	case l.o.Panicked == nil:
		panic(p)
	default:
		l.o.Panicked(p)
	}
}

// Drop ends all connections, and waits for those that take in the rest of what a client sends.
func (l *Listener) Drop() {
	l.mu.Lock()
	l.dropped = true
	for c := range l.open {
		_ = c.TCPConn.Close() // it may be closed already
	}
	l.mu.Unlock()
	l.closing.Wait()
}

// admit takes a connection in, where there is room or one that waits makes some.
func (l *Listener) admit(tcp *net.TCPConn) *conn {
	c := &conn{TCPConn: tcp, l: l, sealed: l.o.TLS != nil}
	if addr, ok := tcp.RemoteAddr().(*net.TCPAddr); ok {
		c.from = network(addr.AddrPort().Addr())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped {
		return nil
	}
	if l.from[c.from] >= l.o.PerAddress && !l.evict(func(w *conn) bool { return w.from == c.from }) {
		return nil
	}
	if len(l.open) >= l.o.Most && !l.evict(func(*conn) bool { return true }) {
		return nil
	}
	l.open[c] = struct{}{}
	l.from[c.from]++
	c.waits = l.waiting.PushBack(c)
	return c
}

// network is what counts as one address: one of IPv4, or a network of IPv6, of which a client has as many addresses as it likes.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a
	}
	p, _ := a.Prefix(64) // it is one of IPv6, or none at all
	return p.Addr()
}

// evict closes the connection that has waited longest of those that may go. The caller holds mu.
func (l *Listener) evict(may func(*conn) bool) bool {
	for e := l.waiting.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); may(c) {
			l.forget(c)
			_ = c.TCPConn.Close()
			return true
		}
	}
	return false
}

// forget takes a connection off the books. The caller holds mu.
func (l *Listener) forget(c *conn) {
	if _, ok := l.open[c]; !ok {
		return
	}
	delete(l.open, c)
	if l.from[c.from]--; l.from[c.from] == 0 {
		delete(l.from, c.from)
	}
	c.wait(false)
}

type key struct{}

// Context is for http.Server's ConnContext: Served finds the connection of a request by it.
func Context(ctx context.Context, c net.Conn) context.Context {
	if own := of(c); own != nil {
		return context.WithValue(ctx, key{}, own)
	}
	return ctx
}

// State is for http.Server's ConnState: between two requests no handler answers.
func State(c net.Conn, s http.ConnState) {
	if s != http.StateNew && s != http.StateIdle {
		return
	}
	if own := of(c); own != nil {
		own.handled.Store(false)
		own.leaves.Store(false)
	}
}

// Begun says that a handler answers a request.
func Begun(ctx context.Context) {
	if c, ok := ctx.Value(key{}).(*conn); ok {
		c.handled.Store(true)
	}
}

// Leaves says that a request ends when its client closes its side, although it may still read: the handler cannot send a sign of life to find
// out, and the request takes too much for somebody who has gone. It has to be called before the body is read.
func Leaves(ctx context.Context) {
	if c, ok := ctx.Value(key{}).(*conn); ok {
		c.leaves.Store(true)
	}
}

// Served says that a request was let in, and that its connection no longer waits.
func Served(ctx context.Context) {
	if c, ok := ctx.Value(key{}).(*conn); ok {
		c.set(false)
	}
}

// Waits says that a request's connection waits for another request.
func Waits(ctx context.Context) {
	if c, ok := ctx.Value(key{}).(*conn); ok {
		c.set(true)
	}
}

// ConnWaits is Waits for a connection that a handler has taken over.
func ConnWaits(c net.Conn) {
	if own := of(c); own != nil {
		own.set(true)
	}
}

// of finds our connection in what was put around it.
func of(c net.Conn) *conn {
	for {
		switch at := c.(type) {
		case *conn:
			return at
		case interface{ NetConn() net.Conn }:
			c = at.NetConn()
		default:
			return nil
		}
	}
}
