// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"net"
	"syscall"
)

// Listener makes connections that can be written to without waiting. The server's ConnContext must be the one of this package.
func Listener(l net.Listener) net.Listener { return listener{l} }

// ConnContext lets a request's handler find its connection.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(*conn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

type connKey struct{}

// connFrom returns nil where the request came another way.
func connFrom(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c, nil //nolint:nilerr // it is good without
	}
	w := &conn{TCPConn: tcp, raw: raw}
	w.send = w.sendOnce
	return w, nil
}

// conn is a TCP connection of which one may say for a while that its writes must not wait. One goroutine at a time writes.
type conn struct {
	*net.TCPConn
	raw  syscall.RawConn
	try  bool   // writes must not wait
	rest []byte // what such a write could not send: it goes before anything else
	send func(fd uintptr) bool
	data []byte // what send is to send
}

// Write keeps what it cannot send at once, where it must not wait.
func (c *conn) Write(b []byte) (int, error) {
	if !c.try {
		if err := c.finish(); err != nil {
			return 0, err
		}
		return c.TCPConn.Write(b)
	}
	c.data = b
	if len(c.rest) == 0 {
		_ = c.raw.Write(c.send) // whatever is wrong with the connection, the write that may wait meets it again
	}
	c.rest = append(c.rest, c.data...)
	c.data = nil
	return len(b), nil
}

// sendOnce asks the kernel once: sockets of Go never wait there.
func (c *conn) sendOnce(fd uintptr) bool {
	if n, err := syscall.Write(int(fd), c.data); err == nil {
		c.data = c.data[n:]
	}
	return true
}

// finish writes what was kept.
func (c *conn) finish() error {
	if len(c.rest) == 0 {
		return nil
	}
	_, err := c.TCPConn.Write(c.rest)
	c.rest = nil
	return err
}
