// SPDX-License-Identifier: GPL-3.0-or-later

package dialect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// Checked is a transport that holds each answer against a document.
type Checked struct {
	// Next sends the requests.
	Next http.RoundTripper
	// Check holds a body against the document. It is called with what was read, at the latest when the body is closed.
	Check Check

	mu   sync.Mutex
	seen int
	errs []error
}

// RoundTrip implements http.RoundTripper.
func (c *Checked) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := c.Next.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("send a request: %w", err)
	}
	if r.Method != http.MethodHead && res.StatusCode != http.StatusNoContent {
		res.Body = &body{ReadCloser: res.Body, to: c, path: r.URL.Path, res: res}
	}
	return res, nil
}

// CloseIdleConnections closes those of Next.
func (c *Checked) CloseIdleConnections() {
	if next, ok := c.Next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}

// Result is how many answers were checked, and what was wrong with them.
func (c *Checked) Result() (seen int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen, errors.Join(c.errs...)
}

// body is an answer that is being read.
type body struct {
	io.ReadCloser

	to      *Checked
	path    string
	res     *http.Response
	read    bytes.Buffer
	checked bool
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Write(p[:n])
	if err != nil {
		b.check(errors.Is(err, io.EOF))
	}
	return n, err //nolint:wrapcheck // a reader's errors are compared
}

// Close implements io.Closer. A refusal that nobody read is read now.
func (b *body) Close() error {
	if b.res.StatusCode != http.StatusOK {
		_, _ = io.Copy(io.Discard, b)
	}
	b.check(false)
	return b.ReadCloser.Close() //nolint:wrapcheck // as above
}

// check checks what was read, once. A half of an answer that is no stream says nothing.
func (b *body) check(whole bool) {
	contentType := b.res.Header.Get("Content-Type")
	if b.checked || !whole && !strings.HasPrefix(contentType, eventStream) && contentType != lineStream {
		return
	}
	b.checked = true
	err := b.to.Check(b.path, b.res.StatusCode, contentType, b.read.Bytes())
	b.to.mu.Lock()
	defer b.to.mu.Unlock()
	b.to.seen++
	if err != nil {
		b.to.errs = append(b.to.errs, fmt.Errorf("%s answered %d: %w", b.path, b.res.StatusCode, err))
	}
}
