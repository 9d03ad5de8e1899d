// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/service/nowait"
)

const (
	// keptFor is how long a connection is kept for another stream. llama-server closes one after 5 s without a request, and to
	// be first avoids sending into a connection that closes.
	keptFor = 3 * time.Second
	maxKept = 64
)

// keep holds the connections of streams that came to their end, for streams to come. The zero value is ready for use.
type keep struct {
	mu     sync.Mutex
	idle   []kept      // the last to come is the last
	timer  *time.Timer // closes those that nobody took; nil: there are none
	closed bool
}

// kept is a connection whose answer may still lack its last bytes: an adapter stops reading after the engine's last event, and does
// not wait for the end of the body.
type kept struct {
	conn  *net.TCPConn
	body  chunks
	since time.Time
}

// put keeps a connection, or closes it where there are enough.
func (k *keep) put(conn *net.TCPConn, body chunks) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || len(k.idle) == maxKept {
		_ = conn.Close() // the answer has been read
		return
	}
	k.idle = append(k.idle, kept{conn, body, time.Now()})
	if k.timer == nil {
		k.timer = time.AfterFunc(keptFor, k.tidy)
	}
}

// take returns a connection that is whole and quiet, or nil.
func (k *keep) take() *net.TCPConn {
	for {
		c, ok := k.last()
		if !ok {
			return nil
		}
		if time.Since(c.since) < keptFor && c.quiet() {
			return c.conn
		}
		_ = c.conn.Close() // too old, or not quiet
	}
}

func (k *keep) last() (kept, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.idle)
	if n == 0 {
		return kept{}, false
	}
	c := k.idle[n-1]
	k.idle = k.idle[:n-1]
	return c, true
}

// tidy closes the connections that have been kept for long enough.
func (k *keep) tidy() {
	k.mu.Lock()
	defer k.mu.Unlock()
	young := slices.IndexFunc(k.idle, func(c kept) bool { return time.Since(c.since) < keptFor })
	if young < 0 {
		young = len(k.idle)
	}
	for _, c := range k.idle[:young] {
		_ = c.conn.Close() // nobody needs it
	}
	k.idle = slices.Delete(k.idle, 0, young)
	if len(k.idle) == 0 {
		k.timer = nil
		return
	}
	k.timer.Reset(keptFor)
}

// close closes what is kept, and what comes from now on.
func (k *keep) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.timer != nil {
		k.timer.Stop()
	}
	for _, c := range k.idle {
		_ = c.conn.Close() // nobody needs it
	}
	k.idle = nil
}

// quiet reports whether the answer before is over and nothing came behind it. It does not wait: what has not come by now
// costs a new connection.
func (c *kept) quiet() (quiet bool) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return false
	}
	b := buffers.Get().(*[readSize]byte)
	defer buffers.Put(b)
	err = raw.Control(func(fd uintptr) {
		for {
			n, err := nowait.Read(fd, b[:])
			if errors.Is(err, syscall.EAGAIN) {
				quiet = c.body.state == bodyEnd && !c.body.spoilt
				return
			}
			if err != nil || n == 0 || c.body.state == bodyEnd {
				return
			}
			if _, _, err = c.body.strip(b[:n]); err != nil {
				return
			}
		}
	})
	return quiet && err == nil
}
