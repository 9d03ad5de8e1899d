// SPDX-License-Identifier: GPL-3.0-or-later

package delivery

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/service/nowait"
	"github.com/llama-orch/llama-orch/service/port"
)

const (
	// idleWithin is how long a connection waits for another request behind a stream.
	idleWithin = 2 * time.Minute
	// maxAhead bounds what a client may send behind its request while the stream lasts.
	maxAhead = 64 << 10
)

// wire is a stream's connection once net/http has let go of it (ADR 014). It writes one response, whose body it cuts in chunks.
// Behind a whole response the client may send another request, which net/http reads again. For every response that net/http writes,
// it keeps 22 kB of stacks and buffers, and each write goes through four layers.
//
// One goroutine at a time writes, and another reads.
type wire struct {
	conn    net.Conn
	raw     syscall.RawConn // nil: every write may wait
	send    func(fd uintptr) bool
	chunked bool
	again   bool // another request may follow on the connection
	pace    Pace
	data    []byte // what send is to send
	rest    []byte // what is to go before anything else: the head, and what a write that may not wait could not send
	started bool   // the head was sent, or some of it
	ended   bool   // the end of the body is written

	mu        sync.Mutex
	ahead     []byte // what the client has sent behind its request
	half      bool   // the client has closed its side, and may still read
	probed    bool   // a write was to tell whether it does
	idle      bool   // the response is over, and the connection waits for another request
	dismissed bool   // it must not wait
}

// scratch lends the memory in which chunks are put together. A stream has some while it writes, and none while it waits.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// takeOver makes the response's connection a wire.
func takeOver(w http.ResponseWriter, r *http.Request, timeout time.Duration) (*wire, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the connection: %w", err)
	}
	read, _ := rw.Reader.Peek(rw.Reader.Buffered()) // it has been read already
	ahead := bytes.Clone(read)
	if c, ok := conn.(*begun); ok {
		conn, ahead = c.Conn, append(ahead, c.read...)
	}
	o := newWire(conn, r.ProtoAtLeast(1, 1), timeout)
	o.again = o.chunked && !r.Close && whole(r.Body)
	o.ahead = ahead
	return o, nil
}

// whole reports whether a request's body was read to its end. Behind another one, nobody would know where the next request begins.
func whole(body io.ReadCloser) bool {
	b, ok := body.(interface{ Whole() bool })
	return body == http.NoBody || ok && b.Whole()
}

func newWire(conn net.Conn, chunked bool, timeout time.Duration) *wire {
	o := &wire{conn: conn, chunked: chunked, pace: Pace{Set: conn.SetWriteDeadline, Timeout: timeout}}
	o.send = o.sendOnce
	if c, ok := conn.(syscall.Conn); ok {
		o.raw, _ = c.SyscallConn() // without it, every write may wait
	}
	return o
}

// begin makes the head of the response: the given fields, and those that belong to the connection. The first write sends it.
func (o *wire) begin(fields http.Header) {
	var b bytes.Buffer
	if o.chunked {
		b.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n")
	} else {
		b.WriteString("HTTP/1.0 200 OK\r\n")
	}
	if !o.again {
		b.WriteString("Connection: close\r\n")
	}
	fmt.Fprintf(&b, "Date: %s\r\n", time.Now().UTC().Format(http.TimeFormat))
	_ = fields.Write(&b) // a buffer takes all
	b.WriteString("\r\n")
	o.rest = b.Bytes()
}

// write sends what is left of earlier writes, then the frames, then what is said aside, and with last the end of the body. Any of
// them may be empty.
func (o *wire) write(frames, aside []byte, last bool) error {
	if err := o.pace.Bound(); err != nil {
		return err
	}
	b := scratch.Get().(*[]byte)
	defer scratch.Put(b)
	*b = o.chunk(o.chunk(append((*b)[:0], o.rest...), frames), aside)
	o.rest, o.started = nil, true
	if last && o.chunked {
		*b = append(*b, "0\r\n\r\n"...)
		o.ended = true
	}
	if len(*b) == 0 {
		return nil
	}
	return o.flush(*b)
}

// try sends what can be sent without waiting, and reports whether that was all. Write sends the rest.
func (o *wire) try(frames []byte) bool {
	b := scratch.Get().(*[]byte)
	defer scratch.Put(b)
	*b = o.chunk(append((*b)[:0], o.rest...), frames)
	o.data, o.started = *b, true
	if o.raw != nil && o.pace.Bound() == nil {
		_ = o.raw.Write(o.send) // if the connection is broken, the write that may wait finds out again
	}
	o.rest, o.data = append(o.rest[:0], o.data...), nil
	return len(o.rest) == 0
}

// breakOff sends the head where nothing was sent so far. A token of which a part was sent stays as it is: after a cancel no more of it
// may go out.
func (o *wire) breakOff() {
	if !o.started {
		_ = o.write(nil, nil, false) // the stream is lost anyway
	}
}

// end tells the client that the response is complete, where that was not said yet.
func (o *wire) end() error {
	if o.ended {
		return nil
	}
	return o.write(nil, nil, true)
}

// finish ends the response. Behind a whole one the connection may wait for another request, and watch has it from here on. Else the
// connection is closed.
func (o *wire) finish(whole bool) {
	o.mu.Lock()
	o.idle = whole && o.again && !o.dismissed && (!o.half || len(o.ahead) > 0)
	waits := o.idle
	if waits {
		port.ConnWaits(o.conn)
		until := time.Now().Add(idleWithin)
		if len(o.ahead) > 0 {
			until = longAgo // it is there: watch need not wait for more of it
		}
		waits = o.conn.SetReadDeadline(until) == nil
	}
	o.mu.Unlock()
	if !waits {
		o.close(whole)
	}
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// dismiss has the connection wait for no further request.
func (o *wire) dismiss() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dismissed = true
	if o.idle {
		_ = o.conn.Close() // nothing is under way
	}
}

// close ends the connection. A client that reads chunks sees whether the last one came. Where there are no chunks, a stream that
// was broken off ends with a reset.
func (o *wire) close(whole bool) {
	if c, ok := o.conn.(interface{ SetLinger(sec int) error }); ok && !whole && !o.chunked {
		_ = c.SetLinger(0) // it may be closed already
	}
	_ = o.conn.Close() // an error changes nothing: the connection is gone
}

// watch returns when the client has left or the connection was closed. Where another request has begun behind the response, it returns
// the connection with what was read of that.
func (o *wire) watch() net.Conn {
	b := make([]byte, 64)
	for {
		n, err := o.conn.Read(b)
		if errors.Is(err, io.EOF) && o.halfClosed() {
			err = port.Gone(o.raw)
		}
		next, more := o.heard(b[:n], err)
		if next == nil && !more {
			_ = o.conn.Close() // the client is gone, or sent nothing for long enough
		}
		if !more {
			return next
		}
	}
}

// halfClosed notes that the client has closed its side. It reports whether the client may still read: only a write tells.
func (o *wire) halfClosed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.half = o.raw != nil && !o.idle
	return o.half
}

// doubtful reports, once, that the client has closed its side, so that a write is to tell whether it is gone.
func (o *wire) doubtful() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	ask := o.half && !o.probed
	o.probed = o.half
	return ask
}

// heard takes in what the client sent behind its request. If that begins another request and the response is over, it returns the
// connection for that request. Otherwise more says whether to go on reading.
func (o *wire) heard(b []byte, err error) (next net.Conn, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !o.again: // nobody will serve it
	case len(o.ahead)+len(b) > maxAhead:
		o.again, o.ahead = false, nil
	default:
		o.ahead = append(o.ahead, b...)
	}
	if (err != nil || o.half) && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, false // nil where half: it takes no bytes any more
	}
	if !o.idle {
		return nil, true
	}
	o.idle = false
	if len(o.ahead) == 0 || o.conn.SetDeadline(time.Time{}) != nil {
		return nil, false
	}
	return &begun{o.conn, o.ahead}, false
}

// chunk appends the frames to b as they are sent.
func (o *wire) chunk(b, frames []byte) []byte {
	if !o.chunked || len(frames) == 0 { // an empty chunk would end the body
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
