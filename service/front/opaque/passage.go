// SPDX-License-Identifier: GPL-3.0-or-later

package opaque

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// passage is one request on its way through. While the line has it, the handler waits, so that only the line's run uses its connection.
type passage struct {
	f     *Front
	w     http.ResponseWriter
	r     *http.Request
	in    *window
	begun bool // the answer has
}

// Queued implements Passage.
func (p *passage) Queued(a task.Admission) {
	h := p.w.Header()
	h.Set("X-Durable", "no")
	h.Set("X-Task-Id", a.TaskID)
	h.Set("X-Queue-Position", strconv.Itoa(max(a.QueuePosition, 0)))
}

// atEnd has something done when ctx ends, unless it is stopped before.
func (f *Front) atEnd(ctx context.Context, do func()) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		_ = contain.Do(f.o.Log, "cutting a request that is passed on short panicked", do) // it is logged
	})
}

// Serve implements Passage.
func (p *passage) Serve(ctx context.Context, e Engine, sent, came func()) error {
	began, status := time.Now(), 0
	passing, gone := context.WithCancel(ctx)
	defer gone()
	up := &upload{p: p, sent: sent, turn: make(chan struct{}, 1), gone: passing.Done()}
	defer up.end()
	defer p.f.atEnd(ctx, up.end)()       // the transport waits for a read of the body, which may wait for the client
	call := gate.CallFrom(p.r.Context()) //nolint:contextcheck // what it asks of the request is not about its time
	defer func() {
		p.f.o.Log.Info("a request was passed to a pool's server", zap.String("correlation_id", call.CorrelationID), zap.String("identity", call.Identity),
			zap.String("replica_id", e.ReplicaID), zap.String("method", p.r.Method), zap.String("path", task.Clip(p.r.URL.Path, maxPath)),
			zap.Int("status", status), zap.Duration("took_ms", time.Since(began)))
	}()
	answer, err := e.Transport.RoundTrip(p.onward(ctx, e, up))
	if err != nil {
		return up.blame(err)
	}
	defer answer.Body.Close()
	if status = answer.StatusCode; status == http.StatusSwitchingProtocols {
		return errors.New("the server switched to another protocol, although nobody asked it to")
	}
	up.end() // an answer is not waited for while its request is still read
	came()
	return p.back(ctx, e, answer, came)
}

// maxPath is how many bytes of a path the log has. Queries are left out: they may have what was asked.
const maxPath = 200

// onward makes the request for the server.
func (p *passage) onward(ctx context.Context, e Engine, up *upload) *http.Request {
	to := *p.r.URL
	to.Scheme, to.Host, to.User = e.URL.Scheme, e.URL.Host, nil
	base := strings.TrimRight(e.URL.EscapedPath(), "/")
	to.RawPath = base + p.r.URL.EscapedPath()
	if path, err := url.PathUnescape(to.RawPath); err == nil {
		to.Path = path
	}
	out := (&http.Request{Method: p.r.Method, URL: &to, Header: p.r.Header.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	gate.Forward(out.Header, e.Key)
	out.Header.Del("Content-Length")
	out.Header.Del(priorityHeader)
	out.Header.Del(deadlineHeader)
	switch {
	case p.in.whole && len(p.in.data) == 0:
		out.Body = http.NoBody
	case p.in.whole:
		out.ContentLength = int64(len(p.in.data))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p.in.data)), nil }
		out.Body, _ = out.GetBody()
	default:
		out.Body, out.ContentLength = up, -1
		if p.r.Header.Get("Content-Encoding") == "" && p.r.ContentLength > 0 {
			out.ContentLength = p.r.ContentLength
		}
		up.in, up.left = io.MultiReader(bytes.NewReader(p.in.data), p.r.Body), out.ContentLength
	}
	return out
}

// back sends the answer to the client as it comes.
func (p *passage) back(ctx context.Context, e Engine, answer *http.Response, came func()) error {
	h := p.w.Header()
	gate.Back(answer.Header)
	for name := range strings.SplitSeq(answer.Header.Get("Connection"), ",") {
		answer.Header.Del(strings.TrimSpace(name))
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"} {
		answer.Header.Del(name)
	}
	for _, name := range []string{"X-Durable", "X-Task-Id", "X-Queue-Position", "X-Request-Id", "Request-Id"} { // ours
		answer.Header.Del(name)
	}
	maps.Copy(h, answer.Header)
	h.Set(gate.ReplicaHeader, e.ReplicaID)
	out := &paced{ctx: ctx, w: p.w, control: http.NewResponseController(p.w), within: p.f.o.Within}
	defer p.f.atEnd(ctx, out.cut)()
	if err := out.fence(); err != nil {
		return err
	}
	p.begun = true
	p.w.WriteHeader(answer.StatusCode)
	for buffer := make([]byte, 32<<10); ; {
		n, err := answer.Body.Read(buffer)
		if n > 0 {
			came()
			if err := out.write(buffer[:n]); err != nil {
				return err
			}
			came()
		}
		switch {
		case errors.Is(err, io.EOF):
			return out.flush()
		case err != nil:
			return err
		}
	}
}

// paced gives each write its own time, and none once ctx has ended.
type paced struct {
	ctx     context.Context
	w       http.ResponseWriter
	control *http.ResponseController
	within  time.Duration
}

// cut ends a write that waits for the client.
func (o *paced) cut() { _ = o.control.SetWriteDeadline(time.Unix(1, 0)) }

// fence gives the next write its time.
func (o *paced) fence() error {
	_ = o.control.SetWriteDeadline(time.Now().Add(o.within)) // without one, the gate's holds
	if o.ctx.Err() != nil {
		o.cut()
		return context.Cause(o.ctx)
	}
	return nil
}

func (o *paced) write(b []byte) error {
	if err := o.fence(); err != nil {
		return err
	}
	if _, err := o.w.Write(b); err != nil {
		return errClient(err)
	}
	return o.flush()
}

func (o *paced) flush() error {
	if err := o.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errClient(err)
	}
	return nil
}

// errClient is the end of a passage whose client does not take the answer.
func errClient(err error) error {
	return task.Errorf(task.Canceled, "the request's client went away, or did not take its answer in time").Because(err)
}

// upload is the body of a request that was not read whole before. The transport reads it, in a goroutine that may outlive the answer.
type upload struct {
	p    *passage
	in   io.Reader // nil: there is none
	sent func()

	turn chan struct{}   // capacity 1: holds something during each read
	gone <-chan struct{} // closed when the answer is through
	left int64           // bytes of the body that the server has not got; below 0: nobody knows
	over bool
	err  error // why the client's body could not be read
}

// Read is io.Reader's.
func (u *upload) Read(b []byte) (n int, err error) {
	u.turn <- struct{}{}
	if u.over {
		<-u.turn
		return u.rest()
	}
	defer func() { <-u.turn }()
	n, err = u.in.Read(b)
	if n > 0 {
		u.left -= int64(n)
		u.sent()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		u.err = err
	}
	return n, err
}

// rest is what a read behind the answer gets. The transport closes the server's connection on an error, which would cut an answer that is still on its way; so the error
// waits until the answer is through.
func (u *upload) rest() (int, error) {
	if u.left == 0 { // the transport only looks whether there is more
		return 0, io.EOF
	}
	<-u.gone
	return 0, errOver
}

// errOver ends the reading of a request that nobody needs any more.
var errOver = errors.New("the request is over")

// Close is io.Closer's.
func (u *upload) Close() error { return nil }

// lastRead is how long a read may take behind the answer. One that only looks for the end of the body is over at once; a longer one waits for the client.
const lastRead = 100 * time.Millisecond

// end waits until nobody reads, and lets nobody read any more.
func (u *upload) end() {
	if u.in == nil {
		return
	}
	patience := time.NewTimer(lastRead)
	defer patience.Stop()
	select {
	case u.turn <- struct{}{}:
	case <-patience.C:
		gate.Cut(u.p.r)
		u.turn <- struct{}{}
	}
	u.over = true
	<-u.turn
}

// blame is the client's error where its body is what broke off, and else the server's.
func (u *upload) blame(err error) error {
	u.end()
	if u.err != nil {
		return u.err
	}
	return err
}
