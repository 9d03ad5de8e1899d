// SPDX-License-Identifier: GPL-3.0-or-later

package delivery

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/service/nowait"
)

// wire is a stream's connection once net/http has let go of it (ADR 014). It writes one response, whose body it cuts in chunks,
// and then ends the connection. For every response that net/http writes, it keeps 22 kB of stacks and buffers, and each write
// goes through four layers.
//
// One goroutine at a time writes.
type wire struct {
	conn    net.Conn
	raw     syscall.RawConn // nil: every write may wait
	send    func(fd uintptr) bool
	chunked bool
	pace    Pace
	data    []byte // what send is to send
	rest    []byte // what a write that may not wait could not send: it goes before anything else
}

// scratch lends the memory in which chunks are put together. A stream has some while it writes, and none while it waits.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// takeOver makes the response's connection a wire.
func takeOver(w http.ResponseWriter, r *http.Request, timeout time.Duration) (*wire, error) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the connection: %w", err)
	}
	return newWire(conn, r.ProtoAtLeast(1, 1), timeout), nil
}

func newWire(conn net.Conn, chunked bool, timeout time.Duration) *wire {
	o := &wire{conn: conn, chunked: chunked, pace: Pace{Set: conn.SetWriteDeadline, Timeout: timeout}}
	o.send = o.sendOnce
	if c, ok := conn.(syscall.Conn); ok {
		o.raw, _ = c.SyscallConn() // without it, every write may wait
	}
	return o
}

// head is the head of the response: the given fields, and those that belong to the connection.
func (o *wire) head(fields http.Header) []byte {
	var b bytes.Buffer
	if o.chunked {
		b.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n")
	} else {
		b.WriteString("HTTP/1.0 200 OK\r\n")
	}
	fmt.Fprintf(&b, "Date: %s\r\nConnection: close\r\n", time.Now().UTC().Format(http.TimeFormat))
	_ = fields.Write(&b) // a buffer takes all
	b.WriteString("\r\n")
	return b.Bytes()
}

// begin sends the head at once: a stream that is resumed at its end may have no event for a long time.
func (o *wire) begin(head []byte) error {
	if err := o.pace.Bound(); err != nil {
		return err
	}
	return o.flush(head)
}

// write sends what earlier writes have left, and then the frames. There may be none.
func (o *wire) write(frames []byte) error {
	if err := o.pace.Bound(); err != nil {
		return err
	}
	if len(o.rest) > 0 {
		if err := o.flush(o.rest); err != nil {
			return err
		}
		o.rest = nil
	}
	if len(frames) == 0 {
		return nil
	}
	b := scratch.Get().(*[]byte)
	defer scratch.Put(b)
	*b = o.chunk((*b)[:0], frames)
	return o.flush(*b)
}

// try sends what can be sent without waiting, and reports whether that was all. Write sends the rest.
func (o *wire) try(frames []byte) bool {
	b := scratch.Get().(*[]byte)
	defer scratch.Put(b)
	*b = o.chunk((*b)[:0], frames)
	o.data = *b
	if o.raw != nil && o.pace.Bound() == nil {
		_ = o.raw.Write(o.send) // if the connection is broken, the write that may wait finds out again
	}
	o.rest, o.data = append(o.rest, o.data...), nil
	return len(o.rest) == 0
}

// end tells the client that the response is complete.
func (o *wire) end() error {
	if !o.chunked {
		return nil
	}
	if err := o.pace.Bound(); err != nil {
		return err
	}
	return o.flush([]byte("0\r\n\r\n"))
}

// close ends the connection. A client that reads chunks sees whether the last one came. Where there are no chunks, a stream that
// was broken off ends with a reset.
func (o *wire) close(whole bool) {
	if tcp, ok := o.conn.(*net.TCPConn); ok && !whole && !o.chunked {
		_ = tcp.SetLinger(0) // it may be closed already
	}
	_ = o.conn.Close() // an error changes nothing: the connection is gone
}

// gone returns when the client has left, or the connection was closed. Nobody needs what a client sends after its request.
func (o *wire) gone() {
	b := make([]byte, 64)
	for {
		if _, err := o.conn.Read(b); err != nil {
			return
		}
	}
}

// chunk appends the frames to b as they are sent.
func (o *wire) chunk(b, frames []byte) []byte {
	if !o.chunked {
		return append(b, frames...)
	}
	b = strconv.AppendUint(b, uint64(len(frames)), 16)
	b = append(b, "\r\n"...)
	b = append(b, frames...)
	return append(b, "\r\n"...)
}

func (o *wire) flush(b []byte) error {
	if _, err := o.conn.Write(b); err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	return nil
}

// sendOnce asks the kernel once. It never waits, since Go's sockets are non-blocking.
func (o *wire) sendOnce(fd uintptr) bool {
	if n, err := nowait.Write(fd, o.data); err == nil {
		o.data = o.data[n:]
	}
	return true
}

// Pace gives each of many writes to one client a time limit, so that a client that is gone or stuck frees its goroutine.
type Pace struct {
	Set     func(time.Time) error // sets the connection's deadline for writes
	Timeout time.Duration
	at      time.Time // when the deadline was set last
}

// Bound is called before a write. To move the deadline for each token would cost more than to encode the token, so a deadline
// may stand for a tenth of the time.
func (p *Pace) Bound() error {
	now := time.Now()
	if now.Sub(p.at) < p.Timeout/10 {
		return nil
	}
	p.at = now
	if err := p.Set(now.Add(p.Timeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("bound a write: %w", err)
	}
	return nil
}
