// SPDX-License-Identifier: GPL-3.0-or-later

package delivery

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// again is a listener that yields the connections on which a stream ended and another request began. The HTTP server reads that
// request, so that a client can send it on the connection that it has.
type again struct {
	conns chan net.Conn
	over  chan struct{}
	once  sync.Once
	heard atomic.Bool // somebody accepts
}

func newAgain() *again { return &again{conns: make(chan net.Conn), over: make(chan struct{})} }

// give hands a connection over, or closes it where nobody listens any more.
func (a *again) give(c net.Conn) {
	select {
	case a.conns <- c:
	case <-a.over:
		_ = c.Close() // the server takes no more requests
	}
}

// Accept implements net.Listener.
func (a *again) Accept() (net.Conn, error) {
	a.heard.Store(true)
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.over:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (a *again) Close() error {
	a.once.Do(func() { close(a.over) })
	return nil
}

// Addr implements net.Listener.
func (a *again) Addr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "stream" }
func (address) String() string  { return "after a stream" }

// begun is a connection of whose next request some bytes have been read.
type begun struct {
	net.Conn

	read []byte
}

// Read yields what was read first.
func (c *begun) Read(b []byte) (int, error) {
	if len(c.read) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.read)
	c.read = c.read[n:]
	return n, nil
}

// NetConn is for whoever looks for the connection of the port.
func (c *begun) NetConn() net.Conn { return c.Conn }

// CloseWrite closes one direction. By it net/http refuses a body that is too large: the client can read the refusal while it still sends.
func (c *begun) CloseWrite() error {
	if under, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return under.CloseWrite()
	}
	return errors.ErrUnsupported
}
