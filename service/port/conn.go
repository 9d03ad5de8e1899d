// SPDX-License-Identifier: GPL-3.0-or-later

package port

import (
	"container/list"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lingerIdle is how long a client may send nothing before its connection is closed behind an early answer.
	lingerIdle = 2 * time.Second
	// lingerBytes bounds what is read and thrown away behind an early answer.
	lingerBytes = 64 << 20
)

// conn is a connection that is counted.
type conn struct {
	*net.TCPConn

	l     *Listener
	from  netip.Addr
	waits *list.Element // in the listener's list; nil: it doesn't wait; held with the listener's mu

	handled atomic.Bool // a handler answers the request that was read last
	leaves  atomic.Bool // its client is gone once it has closed its side, until the end of the request
	refused atomic.Bool // net/http has refused what it read, and ends the connection
	sealed  bool        // TLS is spoken on it, so that what it carries says nothing here

	early  atomic.Bool // the server has said its last, and the client may still be sending
	closed atomic.Bool
}

// Read is net.Conn's. While a handler is at work, net/http reads one byte to see whether the client is still there. Where a
// client has closed its side alone, it is.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if c.l.o.HalfClose && !c.sealed && !c.leaves.Load() && len(b) == 1 && errors.Is(err, io.EOF) {
		raw, gone := c.SyscallConn()
		if gone == nil {
			gone = Gone(raw)
		}
		if gone != nil {
			err = gone
		}
	}
	return n, err
}

// Write is net.Conn's. What net/http writes while no handler answers is a refusal of its own: of something that is no request that it
// can read.
func (c *conn) Write(b []byte) (int, error) {
	if c.sealed {
		return c.TCPConn.Write(b)
	}
	return c.refuse(b, c.TCPConn.Write)
}

// refuse writes, or the port's own words where net/http refuses.
func (c *conn) refuse(b []byte, write func([]byte) (int, error)) (int, error) {
	if c.l.o.Refusal == nil || c.handled.Load() {
		return write(b)
	}
	if !c.refused.Swap(true) {
		if _, err := write(c.l.o.Refusal(b)); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// Gone waits until a client that has closed its side takes no more bytes. It fails when the connection is closed or its deadline
// for reads has passed.
func Gone(c syscall.RawConn) error { return c.Read(hungUp) }

// CloseWrite ends what the server says. Net/http calls it where it answered before it had read the whole request.
func (c *conn) CloseWrite() error {
	c.early.Store(true)
	return c.TCPConn.CloseWrite()
}

// Close is net.Conn's. If a connection with unread bytes were closed, its client would get a reset, and might not see the answer.
// So behind an early answer the rest is read and thrown away, in bounds.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	if !c.early.Load() {
		return c.end()
	}
	c.set(true)
	c.l.mu.Lock()
	_, open := c.l.open[c]
	lingers := open && !c.l.dropped
	if lingers {
		c.l.closing.Add(1) // before Drop waits, which takes the lock first
	}
	c.l.mu.Unlock()
	if !lingers {
		return c.end()
	}
	go c.linger() // joined by Drop
	return nil
}

// linger takes in what the client still sends, and closes the connection.
func (c *conn) linger() {
	defer c.l.panicked()
	defer c.l.closing.Done()
	defer func() { _ = c.end() }() // it may be closed already
	c.drain()
}

func (c *conn) end() error {
	c.l.mu.Lock()
	c.l.forget(c)
	c.l.mu.Unlock()
	return c.TCPConn.Close()
}

func (c *conn) drain() {
	last := time.Now().Add(c.l.o.Linger)
	b := make([]byte, 16<<10)
	for left := lingerBytes; left > 0; {
		until := time.Now().Add(lingerIdle)
		if until.After(last) {
			until = last
		}
		if c.SetReadDeadline(until) != nil {
			return
		}
		n, err := c.TCPConn.Read(b)
		if left -= n; err != nil {
			return
		}
	}
}

// set has the connection wait, or not.
func (c *conn) set(waits bool) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if _, open := c.l.open[c]; open {
		c.wait(waits)
	}
}

// wait puts the connection on the list of those that wait, or takes it off. The caller holds the listener's mu.
func (c *conn) wait(waits bool) {
	if c.waits != nil {
		c.l.waiting.Remove(c.waits)
		c.waits = nil
	}
	if waits {
		c.waits = c.l.waiting.PushBack(c)
	}
}

// hungUp reports whether a socket is closed on both sides, or broken.
func hungUp(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	for {
		n, err := unix.Poll(p, 0)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		return err != nil || n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
	}
}
