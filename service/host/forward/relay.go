// SPDX-License-Identifier: GPL-3.0-or-later

package forward

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
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
// the last event that went through, and its reader sees one stream (LO-720). One goroutine reads, and closes.
type relay struct {
	f     *Forwarder
	front gate.Front
	r     *http.Request // of the reader
	id    string        // of the task
	log   *zap.Logger
	ctx   context.Context
	stop  context.CancelFunc
	watch sync.WaitGroup

	rest  []byte    // of an event that has not come whole
	out   []byte    // whole events that the reader has not taken
	last  string    // the id of the last event that went through
	over  bool      // that was the task's last
	left  bool      // the daemon has ended this stream alone
	began time.Time // when it began to wait
	said  time.Time // when the reader was told that it waits

	opened time.Time // when its body was
	from   string    // the last event before that

	mu   sync.Mutex
	body io.ReadCloser // nil: it is looked for who has the task
	host string        // the id of the daemon that sends
	came atomic.Int64  // bytes
}

const (
	// maxEvent bounds one event. A daemon's events are smaller.
	maxEvent = 64 << 20
	// tryEvery is how often it is looked for who has the task now, and sayEvery how often the reader is told that this goes on.
	tryEvery = 200 * time.Millisecond
	sayEvery = time.Second
	// asideID begins the id of an error that ends one stream and not its task (LO-827).
	asideID = "999999999999999999-"
)

// streamOf is the task whose events a request asks for; false: it asks for something else.
func streamOf(r *http.Request) (id string, ok bool) {
	id, ok = under(r.URL, "/v1/tasks/")
	return id, ok && r.Method == http.MethodGet && !gate.CallFrom(r.Context()).Head && strings.HasSuffix(r.URL.Path, "/stream")
}

// relay puts one before the body of another daemon's answer.
func (f *Forwarder) relay(front gate.Front, r *http.Request, id string, from task.Host, body io.ReadCloser) *relay {
	ctx, stop := context.WithCancel(r.Context())
	l := &relay{f: f, front: front, r: r, id: id, log: f.o.Log.With(zap.String("job_id", id)), ctx: ctx, stop: stop, body: body, host: from.ID}
	if l.last = r.Header.Get("Last-Event-ID"); l.last == "" {
		l.last = r.URL.Query().Get("after")
	}
	l.began, l.opened, l.from = time.Now(), time.Now(), l.last
	l.watch.Go(func() {
		contain.Loop(ctx, l.log, "watching a stream that is passed on panicked, and goes on", l.look)
	})
	return l
}

// Close implements io.Closer.
func (l *relay) Close() error {
	l.stop()
	l.setBody(nil, "")
	l.watch.Wait()
	return nil
}

// setBody has the stream go on with another body, and closes the one before.
func (l *relay) setBody(body io.ReadCloser, host string) {
	l.mu.Lock()
	was := l.body
	l.body, l.host = body, host
	l.mu.Unlock()
	l.opened, l.from = time.Now(), l.last
	if was != nil {
		_ = was.Close()
	}
}

// Read implements io.Reader. It returns whole events alone, so that none is cut where the daemon behind it goes away; only one that is larger than p comes in
// pieces, once it is there.
func (l *relay) Read(p []byte) (int, error) {
	for {
		if n := copy(p, l.out); n > 0 {
			l.out = l.out[n:]
			return n, nil
		}
		if l.over {
			return 0, io.EOF
		}
		if err := l.ctx.Err(); err != nil {
			return 0, err
		}
		body := l.body // which nobody else sets
		if body == nil {
			if err := l.wait(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := l.events(p, body)
		if n > 0 {
			return n, nil
		}
		if err != nil && !l.over {
			l.broke(err)
		}
	}
}

// broke has the stream wait for whoever takes the task over. One that breaks off again as soon as it was opened goes on waiting.
func (l *relay) broke(err error) {
	if l.last != l.from || time.Since(l.opened) > l.f.o.Lease {
		l.log.Info("the host that sends a task's stream has gone, and the stream waits for the one that takes the task over", zap.String("host_id", l.host), zap.String("last_event", l.last), zap.Error(err))
		l.began, l.said = time.Now(), time.Time{}
	} else {
		lifecycle.Pause(l.ctx, tryEvery)
	}
	l.rest = nil
	l.setBody(nil, "")
}

// events reads what has come, and returns how much of it are whole events.
func (l *relay) events(p []byte, body io.Reader) (int, error) {
	if len(l.rest) >= len(p) { // an event that is larger
		if len(l.rest) > maxEvent {
			return 0, fmt.Errorf("an event of more than %d bytes", maxEvent)
		}
		n, err := body.Read(p)
		l.came.Add(int64(n))
		l.rest = append(l.rest, p[:n]...)
		if whole := bytes.LastIndex(l.rest, gap) + len(gap); whole >= len(gap) && l.passes(l.rest[:whole]) {
			l.out, l.rest = l.rest[:whole:whole], bytes.Clone(l.rest[whole:])
			return 0, nil
		}
		return 0, cmp.Or(l.givenUp(), err)
	}
	n := copy(p, l.rest)
	m, err := body.Read(p[n:])
	l.came.Add(int64(m))
	n += m
	whole := bytes.LastIndex(p[:n], gap) + len(gap)
	if whole < len(gap) {
		whole = 0
	}
	l.rest = append(l.rest[:0], p[whole:n]...)
	if whole > 0 && l.passes(p[:whole]) {
		return whole, nil
	}
	return 0, cmp.Or(l.givenUp(), err)
}

// gap ends an event.
var gap = []byte("\n\n")

// passes notes which events go through. False: they end this stream alone, and not the task, and are not passed on.
func (l *relay) passes(events []byte) bool {
	start := bytes.LastIndex(events[:len(events)-len(gap)], gap) + len(gap) // of the last one
	if start < len(gap) {
		start = 0
	}
	before, final := events[:start], events[start:]
	id, kind := heads(final)
	if strings.HasPrefix(id, asideID) && stops(final) {
		l.left = true
		l.note(before)
		l.out = bytes.Clone(before)
		return false
	}
	l.over = kind == "end" || kind == "error"
	if id != "" {
		l.last = id
	} else {
		l.note(before)
	}
	return true
}

// stops reports whether an error is that of a daemon that stops. Any other one tells the reader something of its own, such as that the task's record has less than it
// was sent.
func stops(event []byte) bool {
	for line := range bytes.Lines(event) {
		var e task.Envelope
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok && json.Unmarshal(data, &e) == nil {
			return e.Code == task.ShuttingDown
		}
	}
	return false
}

// note notes the last id of some events.
func (l *relay) note(events []byte) {
	for len(events) > 0 {
		i := bytes.LastIndex(events[:len(events)-len(gap)], gap)
		start := 0
		if i >= 0 {
			start = i + len(gap)
		}
		if id, _ := heads(events[start:]); id != "" {
			l.last = id
			return
		}
		events = events[:start]
	}
}

// errLeft says that a daemon has ended its stream, and not the task.
var errLeft = errors.New("it has ended the stream")

func (l *relay) givenUp() error {
	if !l.left {
		return nil
	}
	l.left = false
	return errLeft
}

// look closes a stream that is silent since its daemon hangs or is cut off, once another one has the task.
func (l *relay) look(ctx context.Context) {
	for had := int64(-1); lifecycle.Pause(ctx, l.f.o.Lease); {
		if now := l.came.Load(); now != had {
			had = now
			continue
		}
		owner, err := l.f.o.Holder(ctx, l.id)
		l.mu.Lock()
		body := l.body
		moved := err == nil && body != nil && owner != l.host
		l.mu.Unlock()
		if moved {
			_ = body.Close()
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

// wait looks once for who has the task now. An error says that nobody has taken it for Patience, or that there is no more to come.
func (l *relay) wait() error {
	if time.Since(l.began) >= l.f.o.Patience {
		return fmt.Errorf("no host has taken task %s over within %s", l.id, l.f.o.Patience)
	}
	body, host, done, err := l.ask(l.ctx)
	switch {
	case body != nil:
		l.setBody(body, host)
		return nil
	case done:
		return err
	case time.Since(l.said) >= sayEvery:
		l.said = time.Now()
		l.out = []byte(": the host of this task has gone; waiting for another one to take it over\n\n")
		return nil
	}
	lifecycle.Pause(l.ctx, tryEvery)
	return nil
}

// ask opens the stream where the task is now. Done says that asking again is of no use.
func (l *relay) ask(ctx context.Context) (body io.ReadCloser, host string, done bool, err error) {
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
		return nil, "", false, err
	}
	var res *http.Response
	host = l.f.o.Self
	if to == nil {
		res, err = l.here(r)
	} else {
		host = to.ID
		res, err = l.there(r, *to)
	}
	if err != nil {
		return nil, "", false, err
	}
	switch {
	case res.StatusCode == http.StatusOK:
		return res.Body, host, false, nil
	case res.StatusCode >= http.StatusInternalServerError, res.StatusCode == http.StatusTooManyRequests, res.StatusCode == http.StatusNotFound && to != nil:
		err = fmt.Errorf("it is answered with %s", res.Status) // such as a daemon that has the claim, and not yet what came with it
	default:
		done, err = true, fmt.Errorf("it is answered with %s", res.Status)
	}
	_ = res.Body.Close()
	return nil, "", done, err
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

type closer func() error

func (c closer) Close() error { return c() }

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
