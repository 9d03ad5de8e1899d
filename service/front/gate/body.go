// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// body is a request's body, bounded in size and time. Its errors are *task.Error where the client can do something about them.
type body struct {
	in      io.ReadCloser // the request's own
	bounded io.Reader     // in, up to most bytes
	length  int64         // as the request says; -1: it does not
	most    int64
	timeout time.Duration // to read all of it; the time begins with the first read
	control *http.ResponseController
	begun   bool
	read    int64
	err     error // what the last read ended with: it stays so
}

func newBody(w http.ResponseWriter, r *http.Request, most int64, timeout time.Duration) *body {
	return &body{
		in: r.Body, bounded: http.MaxBytesReader(w, r.Body, most), length: r.ContentLength, most: most, timeout: timeout,
		control: http.NewResponseController(w),
	}
}

// Read is io.Reader's. Its errors are TOO_LARGE and INVALID_PARAMS.
func (b *body) Read(p []byte) (n int, err error) {
	if b.err == nil && !b.begun {
		b.begun = true
		b.err = b.begin()
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err = b.bounded.Read(p)
	b.read += int64(n)
	if err != nil {
		b.err = b.end(err)
	}
	return n, b.err
}

// Close is io.Closer's.
func (b *body) Close() error { return b.in.Close() }

func (b *body) begin() error {
	if b.length > b.most {
		return b.tooLarge()
	}
	return b.deadline("bound the reading of the body", time.Now().Add(b.timeout))
}

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
