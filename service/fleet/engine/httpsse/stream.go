// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/nowait"
	"github.com/llama-orch/llama-orch/service/spare"
)

const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 10 * time.Second
	maxHead          = 64 << 10 // of an answer
	readSize         = 16 << 10
)

// buffers are read into. A stream has one only while there is something to read; over TLS it keeps one.
var buffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// heads read the heads of answers.
var heads = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// Stream is an event stream on a connection that it has to itself. Another stream may have the connection afterwards, where this
// one came to its end. net/http's transport keeps two goroutines and several buffers for a stream as long as it lasts (ADR 014).
type Stream struct {
	client  *Client
	conn    net.Conn
	last    bool        // the engine closes the connection behind this answer
	release func() bool // keeps the end of ctx from ending the connection
	page    bool        // the answer says that it is no stream of events
	begin   []byte      // the part of the body that came with the head
	chunked bool
	left    int64 // bytes that are left of the body; -1: it ends with the connection
	chunks  chunks
	parser  parser                                   // of events
	feed    func(body []byte) (more bool, err error) // has the body's bytes, as they come
	over    bool
	err     error // why; nil: feed wanted no more
	closed  bool
}

// Stream posts body as JSON and returns the stream of events that answers. The end of ctx ends it.
func (c *Client) Stream(ctx context.Context, path string, body any) (*Stream, error) {
	s, err := c.send(ctx, path, body)
	if err != nil || !s.page {
		return s, err
	}
	defer s.Close()
	text, err := s.whole(maxError)
	if err != nil && !errors.Is(err, errTooLarge) {
		return nil, c.Broken(ctx, err)
	}
	return nil, c.noStream(text)
}

// noStream maps an answer 200 that is no stream: an error, to which some proxies give no other status.
func (c *Client) noStream(text []byte) error {
	var body struct {
		Error *struct {
			Code json.Number `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(text, &body) == nil && body.Error != nil {
		if code, err := body.Error.Code.Int64(); err == nil && code >= http.StatusBadRequest && code < 600 {
			return c.Refused(int(code), text)
		}
	}
	return c.Reset(fmt.Errorf("the engine answered no event stream, but: %s", message(text)))
}

// send posts body as JSON, again where the engine has no room for it yet and it may be asked again.
func (c *Client) send(ctx context.Context, path string, body any) (*Stream, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encoding the request to the engine: %w", err)
	}
	for try := 1; ; try++ {
		s, err := c.post(ctx, path, data)
		wait, again := c.retry.next(try, err)
		if !again {
			return s, err
		}
		if c.retry.sleep(ctx, wait) != nil {
			return nil, c.Broken(ctx, err)
		}
	}
}

func (c *Client) post(ctx context.Context, path string, data []byte) (*Stream, error) {
	req, err := c.request(ctx, http.MethodPost, path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := req.Write(&out); err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	s, resp, err := c.open(ctx, req, out.Bytes())
	if err != nil {
		return nil, c.Broken(ctx, err)
	}
	if err := c.accepted(resp); err != nil {
		s.end(false)
		return nil, err
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // of one that cannot be read, the events will show what it is
	s.page = kind == "application/json" || kind == "text/html"
	return s, nil
}

// open sends the request and reads the head of its answer. Where a kept connection turns out to be dead it tries again on a new
// one: nothing that an engine is asked leaves a trace, so a second try is harmless.
func (c *Client) open(ctx context.Context, req *http.Request, out []byte) (*Stream, *http.Response, error) {
	if conn := c.keep.take(); conn != nil {
		if err := c.ask(ctx, req.URL); err != nil {
			_ = conn.Close() // it is not wanted any more
			return nil, nil, err
		}
		if s, resp, err := c.begin(ctx, conn, req, out); err == nil || ctx.Err() != nil {
			return s, resp, err
		}
	}
	conn, err := c.connect(ctx, req.URL)
	if err != nil {
		return nil, nil, err
	}
	return c.begin(ctx, conn, req, out)
}

func (c *Client) begin(ctx context.Context, conn net.Conn, req *http.Request, out []byte) (*Stream, *http.Response, error) {
	s := &Stream{
		client: c, conn: conn, parser: parser{limit: maxEvent},
		release: context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) }),
	}
	begun := false
	defer func() {
		if !begun {
			s.end(false)
		}
	}()
	resp, err := s.exchange(req, out)
	if err != nil {
		return nil, nil, err
	}
	begun = true
	return s, resp, nil
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// exchange sends the request and reads the head of the answer. A refusal may come before the engine has read the whole request.
func (s *Stream) exchange(req *http.Request, out []byte) (resp *http.Response, err error) {
	sent := make(chan error, 1)
	if out = s.sendNow(out); len(out) == 0 {
		sent <- nil
	} else {
		go func() { // joined below
			_, err := contain.Try(func() (int, error) { return s.conn.Write(out) })
			sent <- err
		}()
	}
	defer func() {
		if err != nil || resp == nil || resp.StatusCode != http.StatusOK {
			_ = s.conn.SetWriteDeadline(longAgo) // the rest of the request is of no use
		}
		sendErr := <-sent
		if panicked, ok := errors.AsType[*contain.PanicError](sendErr); ok {
			panic(panicked) // as if the caller had sent it
		}
		if err != nil && sendErr != nil && !errors.Is(sendErr, os.ErrDeadlineExceeded) {
			err = sendErr
		}
	}()
	head := &io.LimitedReader{R: s.conn, N: maxHead}
	in := heads.Get().(*bufio.Reader)
	in.Reset(head)
	for resp == nil || resp.StatusCode < http.StatusOK { // an interim answer, such as 103: another one follows
		if resp, err = http.ReadResponse(in, req); err != nil {
			return nil, err
		}
	}
	if resp.StatusCode != http.StatusOK {
		head.N = maxError
		return resp, nil
	}
	begin, _ := in.Peek(in.Buffered()) // it has been read already
	defer heads.Put(in)
	s.begin, s.chunked, s.left, s.last = bytes.Clone(begin), len(resp.TransferEncoding) > 0, resp.ContentLength, resp.Close
	return resp, nil
}

// sendNow sends what the kernel takes at once, and returns the rest. So a small request needs no goroutine of its own.
func (s *Stream) sendNow(out []byte) []byte {
	tcp, ok := s.conn.(*net.TCPConn)
	if !ok {
		return out
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return out
	}
	_ = raw.Control(func(fd uintptr) { // an error shows again when the rest is sent
		if n, err := nowait.Write(fd, out); err == nil {
			out = out[n:]
		}
	})
	return out
}

// Each calls each with every event, until each wants no more. It returns the error of each, or io.EOF if the stream ended first. It returns
// io.ErrUnexpectedEOF if the stream ended within an event, or the connection before the body, or else the connection's error.
func (s *Stream) Each(each func(Event) (more bool, err error)) error {
	s.take(func(body []byte) (bool, error) { return s.parser.feed(body, each) })
	return s.err
}

// Framed reports whether the answer's head says how its body ends. Else an end cannot be told from a broken connection.
func (s *Stream) Framed() bool { return s.chunked || s.left >= 0 }

// take gives feed the bytes of the body, until there are no more, or it wants no more.
func (s *Stream) take(feed func(body []byte) (more bool, err error)) {
	s.feed = feed
	s.came(s.begin)
	s.begin = nil
	if tcp, ok := s.conn.(*net.TCPConn); ok {
		s.follow(tcp)
	}
	for !s.over { // TLS
		s.more()
	}
}

// whole returns the body.
func (s *Stream) whole(most int) ([]byte, error) {
	var all []byte
	s.take(func(body []byte) (bool, error) {
		if all = append(all, body...); len(all) > most {
			return false, errTooLarge
		}
		return true, nil
	})
	if errors.Is(s.err, io.EOF) {
		s.err = nil
	}
	return all, s.err
}

var errTooLarge = errors.New("the answer is too large")

// follow reads whenever the kernel says that there is something to read.
func (s *Stream) follow(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	for err == nil && !s.over { // each raw.Read checks the deadline, even if the engine never pauses
		err = raw.Read(s.read)
	}
	if !s.over {
		s.fail(err)
	}
}

// read takes what there is. It returns false to be called again when there is more. It reads until nothing is left before it waits: when
// data and the connection's end come together, the kernel wakes a reader only once.
func (s *Stream) read(fd uintptr) bool {
	b := buffers.Get().(*[readSize]byte)
	defer buffers.Put(b)
	n, err := nowait.Read(fd, b[:])
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return false
	case err != nil:
		s.fail(os.NewSyscallError("read", err))
	case n == 0:
		s.fail(io.EOF)
	default:
		s.came(b[:n])
	}
	return true
}

// more waits for bytes and takes them.
func (s *Stream) more() {
	b := buffers.Get().(*[readSize]byte)
	defer buffers.Put(b)
	n, err := s.conn.Read(b[:])
	s.came(b[:n])
	if err != nil && !s.over {
		s.fail(err)
	}
}

// came takes in bytes of the body.
func (s *Stream) came(b []byte) {
	var ended bool
	var bad error
	switch {
	case s.chunked:
		b, ended, bad = s.chunks.strip(b)
	case s.left >= 0:
		s.chunks.spoilt = int64(len(b)) > s.left
		b = b[:min(int64(len(b)), s.left)]
		s.left -= int64(len(b))
		ended = s.left == 0
	}
	more, err := s.feed(b)
	switch {
	case !more || err != nil:
		s.over, s.err = true, err
	case bad != nil:
		s.fail(bad)
	case ended:
		s.over, s.err = true, s.parser.end()
	}
}

// fail ends the stream. The end of the connection is also the end of the body, if nothing else tells where that is.
func (s *Stream) fail(err error) {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
		if !s.chunked && s.left < 0 {
			err = s.parser.end()
		}
	}
	s.over, s.err = true, err
}

// Close ends the stream. Where each wanted no more, the connection is kept for another stream. Else closing it makes the engine
// stop.
func (s *Stream) Close() { s.end(s.over && s.err == nil) }

func (s *Stream) end(done bool) {
	if s.closed { // the connection may be another stream's by now
		return
	}
	s.closed = true
	released := s.release()
	if tcp, ok := s.conn.(*net.TCPConn); ok && done && released && s.bounded() && !s.last && !s.chunks.spoilt {
		s.client.keep.put(tcp, s.chunks)
		return
	}
	_ = s.conn.Close() // whatever it says, the stream is over
}

// bounded reports whether the answer says where its body ends, and, where it has no chunks, whether that was reached.
func (s *Stream) bounded() bool {
	if s.left == 0 && !s.chunked {
		s.chunks.state = bodyEnd
	}
	return s.chunked || s.left == 0
}

// connect makes a connection for a stream.
func (c *Client) connect(ctx context.Context, to *url.URL) (net.Conn, error) {
	conn, err := c.dial(ctx, to)
	if err != nil || to.Scheme != "https" {
		return conn, err
	}
	ctx, stop := context.WithTimeout(ctx, handshakeTimeout)
	defer stop()
	secure := tls.Client(conn, c.tls(to.Hostname()))
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the handshake failed
		return nil, err
	}
	return secure, nil
}

var dialer = &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}

// dial connects a client that was given no Network. It follows no proxy settings: an engine on loopback must not be reached by way of
// HTTP_PROXY.
func dial(ctx context.Context, to *url.URL) (net.Conn, error) {
	port := to.Port()
	if port == "" {
		port = to.Scheme // is the port's name, too
	}
	return connect(ctx, "tcp", net.JoinHostPort(to.Hostname(), port))
}

// connect takes a descriptor of the reserve where there is no other.
func connect(ctx context.Context, network, address string) (net.Conn, error) {
	return spare.Get(func() (net.Conn, error) { return dialer.DialContext(ctx, network, address) })
}
