// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// body is a request's body, bounded in size and time. Its errors are *task.Error where the client can do something about them.
// Each read may wait for so long, and all of them together for longer: a slow client is served as long as it moves.
type body struct {
	in      io.ReadCloser // the request's own
	bounded io.Reader     // in, up to most bytes
	length  int64         // as the request says; -1: it does not
	most    int64
	timeout time.Duration // for each read
	last    time.Time     // for the whole body
	control *http.ResponseController
	answer  http.ResponseWriter
	room    *room // what all bodies take together; nil: this one takes nothing of it
	read    int64
	held    int64 // what it takes of the room
	holds   int64 // what it takes of the room at most; 0: all that is read
	cut     atomic.Bool
	err     error // what the last read ended with: it stays so
}

// wholeBody is how many times the time of one read a whole body may take.
const wholeBody = 20

func newBody(w http.ResponseWriter, r *http.Request, most int64, timeout time.Duration, all *room) *body {
	b := &body{
		in: r.Body, bounded: http.MaxBytesReader(w, r.Body, most), length: r.ContentLength, most: most, timeout: timeout,
		last: time.Now().Add(wholeBody * timeout), control: http.NewResponseController(w), answer: w, room: all,
	}
	if b.length > most {
		b.err = b.tooLarge()
	}
	return b
}

// widen gives a body of which nothing was read yet another bound. Only so much of its beginning is held in memory.
func (b *body) widen(most, held int64) {
	b.most, b.bounded, b.err = most, http.MaxBytesReader(b.answer, b.in, most), nil
	if b.holds = held; held == 0 {
		b.room = nil
	}
	if b.length > most {
		b.err = b.tooLarge()
	}
}

// Read is io.Reader's. Its errors are TOO_LARGE, INVALID_PARAMS and ADMISSION_REJECT.
func (b *body) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	until := time.Now().Add(b.timeout)
	if until.After(b.last) {
		until = b.last
	}
	if b.err = b.deadline("bound the reading of the body", until); b.err != nil {
		return 0, b.err
	}
	if b.cut.Load() {
		_ = b.deadline("", time.Unix(1, 0))
	}
	n, err = b.bounded.Read(p)
	b.read += int64(n)
	switch {
	case !b.hold(int64(n)):
		b.err = errNoRoom()
	case err != nil:
		b.err = b.end(err)
	}
	return n, b.err
}

// Cut ends a read of an upload that waits for its client, and all that follow. It may be called beside the read.
func Cut(r *http.Request) {
	if c, ok := r.Context().Value(callKey{}).(*Call); ok && c.body != nil {
		c.body.cut.Store(true)
		_ = c.body.deadline("", time.Unix(1, 0)) // a read that is about to set its own sees that it was cut
	}
}

// Whole reports whether the body was read to its end, so that the next byte of the connection begins another request.
func (b *body) Whole() bool { return errors.Is(b.err, io.EOF) }

// Close is io.Closer's.
func (b *body) Close() error { return b.in.Close() }

func (b *body) end(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return b.tooLarge()
	}
	if !errors.Is(err, io.EOF) {
		return task.Errorf(task.InvalidParams, "the body broke off after %d bytes: send it again", b.read).Because(err)
	}
	if err := b.deadline("unbound the reading of the connection", time.Time{}); err != nil {
		return err
	}
	return io.EOF
}

func (b *body) deadline(what string, at time.Time) error {
	if err := b.control.SetReadDeadline(at); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (b *body) tooLarge() error {
	return task.Errorf(task.TooLarge, "the body is larger than the %d bytes this server takes: shorten it, or raise the server's limit", b.most)
}

// smallRest is how much of an unread body is read for the sake of the connection.
const smallRest = 16 << 10

// settle is called before the answer begins. It reports whether the body was read to its end, or is as good as that. If not, the answer
// must not wait for it, and the connection ends with the answer: net/http reads what still comes, until the deadline.
func (b *body) settle(asked bool) (whole bool) {
	if errors.Is(b.err, io.EOF) {
		return true
	}
	if b.err == nil && !asked && b.length <= smallRest {
		if b.deadline("", time.Now().Add(20*time.Millisecond)) == nil {
			n, err := io.CopyN(io.Discard, b.in, smallRest)
			if b.read += n; errors.Is(err, io.EOF) {
				b.err = b.end(io.EOF)
				return true
			}
		}
	}
	_ = b.deadline("", time.Now().Add(restWithin)) // without one, the server's own bounds hold
	return false
}

// restWithin is how long a client that was answered early may go on to send.
const restWithin = 2 * time.Second

// hold takes of the memory for all. It reports whether there was as much.
func (b *body) hold(n int64) bool {
	if b.room == nil {
		return true
	}
	if b.holds > 0 {
		n = min(n, b.holds-b.held)
	}
	b.held += n
	return b.room.take(n)
}

// release gives back what the body took of the memory for all.
func (b *body) release() {
	if b.room != nil {
		b.room.give(b.held)
	}
}

// room is memory that many share.
type room struct {
	most int64
	used atomic.Int64
}

// take reports whether there was as much. It is counted in any case, until it is given back.
func (r *room) take(n int64) bool { return r.used.Add(n) <= r.most }

func (r *room) give(n int64) { r.used.Add(-n) }
