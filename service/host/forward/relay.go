// SPDX-License-Identifier: GPL-3.0-or-later

package forward

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

// relay is a stream of a task's events that another daemon sends. When that daemon goes away, the stream goes on at whichever daemon takes the task over, behind
// the last event that went through, and its reader sees one stream (LO-720).
type relay struct {
	f     *Forwarder
	front gate.Front
	r     *http.Request // of the reader
	id    string        // of the task
	log   *zap.Logger
	out   *io.PipeWriter

	host string       // the id of the daemon that sends
	last string       // the id of the last event that went through
	over bool         // that was the task's last
	came atomic.Int64 // how much has come
}

const (
	// maxFrame bounds one event. A daemon's events are smaller.
	maxFrame = 64 << 20
	// tryEvery is how often it is looked for who has the task now, and sayEvery how often the reader is told that this goes on.
	tryEvery = 200 * time.Millisecond
	sayEvery = time.Second
	// asideID begins the id of an error that ends one stream and not its task (LO-827).
	asideID = "999999999999999999-"
)

// errLeft says that a stream's daemon has the task no more.
var errLeft = errors.New("another daemon has the task")

// streamOf is the task whose events a request asks for; false: it asks for something else.
func streamOf(r *http.Request) (id string, ok bool) {
	id, ok = under(r.URL, "/v1/tasks/")
	return id, ok && r.Method == http.MethodGet && !gate.CallFrom(r.Context()).Head && strings.HasSuffix(r.URL.Path, "/stream")
}

// relay puts one before the body of another daemon's answer.
func (f *Forwarder) relay(front gate.Front, r *http.Request, id string, from task.Host, body io.ReadCloser) io.ReadCloser {
	in, out := io.Pipe()
	ctx, stop := context.WithCancel(r.Context())
	last := r.Header.Get("Last-Event-ID")
	if last == "" {
		last = r.URL.Query().Get("after")
	}
	l := &relay{f: f, front: front, r: r, id: id, log: f.o.Log.With(zap.String("job_id", id)), out: out, host: from.ID, last: last}
	go func() {
		_ = contain.Do(l.log, "passing a stream on panicked", func() {
			err := errors.New("it panicked")
			defer func() { _ = out.CloseWithError(err) }() // nil is the end
			err = l.run(ctx, body)
		})
	}()
	return struct {
		io.Reader
		io.Closer
	}{in, closer(func() error {
		stop()
		return in.Close()
	})}
}

type closer func() error

func (c closer) Close() error { return c() }

// run passes the stream on until its task's last event, its reader's end, or until nobody has the task for too long.
func (l *relay) run(ctx context.Context, body io.ReadCloser) error {
	for {
		err := l.copy(ctx, body)
		_ = body.Close()
		if l.over || ctx.Err() != nil {
			return ctx.Err()
		}
		l.log.Info("the host that sends a task's stream has gone, and the stream waits for the one that takes the task over", zap.String("host_id", l.host), zap.String("last_event", l.last), zap.Error(err))
		if body, err = l.next(ctx); body == nil {
			return err
		}
	}
}

// copy passes on whole events alone, so that none is cut where the daemon behind it goes away.
func (l *relay) copy(ctx context.Context, body io.ReadCloser) error {
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		_ = contain.Do(l.log, "watching a stream that is passed on panicked", func() { l.watch(watching, body) })
	})
	defer watch.Wait()
	defer stop()
	lines := bufio.NewReaderSize(body, 16<<10)
	var frame []byte
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err // what has come of an event is dropped
		}
		l.came.Add(int64(len(line)))
		frame = append(frame, line...)
		if len(frame) > maxFrame {
			return fmt.Errorf("an event of more than %d bytes", maxFrame)
		}
		if !bytes.HasSuffix(frame, []byte("\n\n")) {
			continue
		}
		id, kind := heads(frame)
		if strings.HasPrefix(id, asideID) {
			return errLeft // this stream has ended, and its task has not
		}
		if _, err := l.out.Write(frame); err != nil {
			return err
		}
		if id != "" {
			l.last = id
		}
		if l.over = kind == "end" || kind == "error"; l.over {
			return nil
		}
		frame = frame[:0]
	}
}

// watch closes a stream that is silent since its daemon hangs or is cut off, once another one has the task.
func (l *relay) watch(ctx context.Context, body io.Closer) {
	for had := int64(-1); lifecycle.Pause(ctx, l.f.o.Lease); {
		if now := l.came.Load(); now != had {
			had = now
			continue
		}
		if owner, err := l.f.o.Holder(ctx, l.id); err == nil && owner != l.host {
			_ = body.Close()
			return
		}
	}
}

// heads are the id and the name of an event.
func heads(frame []byte) (id, kind string) {
	for line := range bytes.Lines(frame) {
		if v, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
			id = string(bytes.TrimSpace(v))
		}
		if v, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
			kind = string(bytes.TrimSpace(v))
		}
	}
	return id, kind
}

// next is the stream of the daemon that has the task now; nil: there is no more to come, or nobody has taken the task for Patience.
func (l *relay) next(ctx context.Context) (io.ReadCloser, error) {
	began, said := time.Now(), time.Time{}
	for time.Since(began) < l.f.o.Patience {
		body, done, err := l.ask(ctx)
		if body != nil || done {
			return body, err
		}
		if time.Since(said) >= sayEvery {
			said = time.Now()
			if _, err := io.WriteString(l.out, ": the host of this task has gone; waiting for another one to take it over\n\n"); err != nil {
				return nil, err
			}
		}
		if !lifecycle.Pause(ctx, tryEvery) {
			return nil, ctx.Err()
		}
	}
	return nil, fmt.Errorf("no host has taken task %s over within %s", l.id, l.f.o.Patience)
}

// ask opens the stream where the task is now. Done says that asking again is of no use.
func (l *relay) ask(ctx context.Context) (body io.ReadCloser, done bool, err error) {
	r := l.r.Clone(ctx)
	r.Body, r.Close = http.NoBody, true
	query := r.URL.Query()
	query.Del("after")
	r.URL.RawQuery = query.Encode()
	r.Header.Del("Last-Event-ID")
	if l.last != "" {
		r.Header.Set("Last-Event-ID", l.last)
	}
	to, err := l.f.ofTask(ctx, l.id)
	if err != nil {
		return nil, false, err
	}
	var res *http.Response
	host := l.f.o.Self
	if to == nil {
		res, err = l.here(r)
	} else {
		host = to.ID
		res, err = l.there(r, *to)
	}
	if err != nil {
		return nil, false, err
	}
	switch {
	case res.StatusCode == http.StatusOK:
		l.host = host
		return res.Body, false, nil
	case res.StatusCode >= http.StatusInternalServerError, res.StatusCode == http.StatusTooManyRequests, res.StatusCode == http.StatusNotFound && to != nil:
		err = fmt.Errorf("it is answered with %s", res.Status) // such as a daemon that has the claim, and not yet what came with it
	default:
		done, err = true, fmt.Errorf("it is answered with %s", res.Status)
	}
	_ = res.Body.Close()
	return nil, done, err
}

// there asks another daemon.
func (l *relay) there(r *http.Request, to task.Host) (*http.Response, error) {
	out, err := http.NewRequestWithContext(r.Context(), http.MethodGet, strings.TrimSuffix(to.Address, "/")+r.URL.RequestURI(), nil)
	if err != nil {
		return nil, err
	}
	out.Header = r.Header
	l.f.mark(out.Header, gate.CallFrom(r.Context()).CorrelationID)
	return l.f.o.Transport.RoundTrip(out)
}

// here asks the front behind this forwarder. It writes to a connection, as to any client.
func (l *relay) here(r *http.Request) (*http.Response, error) {
	ours, theirs := net.Pipe()
	w := &internal{conn: theirs, header: http.Header{}}
	go func() {
		_ = contain.Do(l.log, "answering a stream that was passed on panicked", func() {
			defer w.finish()
			l.front.ServeHTTP(w, r)
		})
	}()
	stop := context.AfterFunc(r.Context(), func() {
		_ = contain.Do(l.log, "hanging up panicked", func() { _ = ours.Close() })
	})
	res, err := http.ReadResponse(bufio.NewReader(ours), r)
	if err != nil {
		stop()
		_ = ours.Close()
		return nil, err
	}
	body := res.Body
	res.Body = struct {
		io.Reader
		io.Closer
	}{body, closer(func() error {
		stop()
		return ours.Close()
	})}
	return res, nil
}

// internal is the connection of a request of this process to itself. What is no stream is written as an answer without a length.
type internal struct {
	conn   net.Conn
	header http.Header

	taken bool // by a stream, which writes to it and closes it
	head  bool // the answer has begun
}

// Header is http.ResponseWriter's.
func (w *internal) Header() http.Header { return w.header }

// WriteHeader is http.ResponseWriter's.
func (w *internal) WriteHeader(status int) {
	if !w.head && !w.taken {
		w.head = true
		_, _ = fmt.Fprintf(w.conn, "HTTP/1.0 %d %s\r\n\r\n", status, http.StatusText(status))
	}
}

// Write is http.ResponseWriter's.
func (w *internal) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.conn.Write(b)
}

// Hijack is http.Hijacker's.
func (w *internal) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.taken = true
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// finish ends the answer, if it is no stream.
func (w *internal) finish() {
	if !w.taken {
		w.WriteHeader(http.StatusOK)
		_ = w.conn.Close()
	}
}
