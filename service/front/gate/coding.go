// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/llama-orch/llama-orch/service/task"
)

// codings are what a body's Content-Encoding may be, as the header Accept-Encoding lists them.
const codings = "gzip, zstd"

const (
	// maxWindow is what a frame of zstd may ask a decoder to remember. RFC 9659 allows clients no more.
	maxWindow = 8 << 20
	// minWindow is what it may always ask for.
	minWindow = 128 << 10
)

// decoded is a request's body behind its Content-Encoding (LO-828). What it decodes to is bounded as the body itself is. It decodes
// nothing before somebody reads, so a request whose body nobody wants is not refused for its coding.
type decoded struct {
	body   *body
	coding string
	answer http.Header // of the response
	in     io.Reader   // nil: nothing was read yet
	done   func()      // ends in
	read   int64
	err    error // what the last read ended with: it stays so
}

// decode puts a decoder in front of a request's body, where its headers name a coding.
func decode(r *http.Request, b *body, answer http.Header) *decoded {
	named := r.Header.Values("Content-Encoding")
	if len(named) == 0 {
		return nil
	}
	coding := strings.ToLower(strings.TrimSpace(strings.Join(named, ",")))
	if coding == "" || coding == "identity" {
		return nil
	}
	d := &decoded{body: b, coding: coding, answer: answer}
	r.Body, r.ContentLength = d, -1
	return d
}

// Read is io.Reader's. Its errors are those of the body, and UNSUPPORTED_MEDIA_TYPE.
func (d *decoded) Read(p []byte) (n int, err error) {
	if d.err != nil {
		return 0, d.err
	}
	if d.in == nil {
		if d.err = d.open(); d.err != nil {
			return 0, d.err
		}
	}
	n, err = d.in.Read(p)
	d.read += int64(n)
	switch {
	case d.read > d.body.most:
		d.err = d.body.tooLarge()
	case n > 0 && !d.body.hold(int64(n)):
		d.err = errNoRoom()
	case err != nil:
		d.err = d.end(err)
	}
	if d.err != nil {
		d.release()
	}
	return n, d.err
}

// Close is io.Closer's.
func (d *decoded) Close() error {
	d.release()
	return d.body.Close()
}

func (d *decoded) open() error {
	switch d.coding {
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(d.body)
		if err != nil {
			return d.end(err)
		}
		d.in = z
	case "zstd":
		return d.openZstd()
	default:
		d.answer.Set("Accept-Encoding", codings)
		return task.Errorf(task.UnsupportedMedia, "the body's Content-Encoding %q is not known here: send it as it is, or as one of %s", task.Clip(d.coding, maxWhy), codings)
	}
	return nil
}

// openZstd looks at the first frame's head, for a decoder makes as much room as that asks for. Further frames may not ask for more.
func (d *decoded) openZstd() error {
	in := bufio.NewReader(d.body)
	first, err := in.Peek(zstd.HeaderMaxSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return d.end(err)
	}
	var head zstd.Header
	if err := head.Decode(first); err != nil {
		return d.end(err)
	}
	if head.HasFCS && head.FrameContentSize > uint64(d.body.most) {
		return d.body.tooLarge()
	}
	window := min(max(head.WindowSize, minWindow), maxWindow)
	if head.SingleSegment { // the content is the window
		window = min(max(head.FrameContentSize, minWindow), maxWindow)
	}
	if head.Skippable { // the frame that counts comes behind it
		window = maxWindow
	}
	if !d.body.hold(int64(window)) {
		return errNoRoom()
	}
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return d.end(err)
	}
	d.in, d.done = z, z.Close
	return nil
}

// end words what the decoder ended with.
func (d *decoded) end(err error) error {
	switch {
	case errors.Is(err, io.EOF) && d.in != nil:
		return io.EOF
	case d.body.err != nil && !errors.Is(d.body.err, io.EOF):
		return d.body.err
	}
	return task.Errorf(task.InvalidParams, "the body is not whole %s, as its Content-Encoding says: send it again, or as it is", d.coding).Because(err)
}

func (d *decoded) release() {
	if d.done != nil {
		d.done()
		d.done = nil
	}
}

func errNoRoom() error {
	return task.Errorf(task.AdmissionReject, "the bodies that are being read take all the memory there is for them: send it again").Retry(time.Second)
}
