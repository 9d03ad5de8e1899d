// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ogen-go/ogen/ogenerrors"

	"github.com/llama-orch/llama-orch/gen"
)

// bearer has the token in the form that the generated client wants.
type bearer string

func (b bearer) BearerAuth(context.Context, gen.OperationName) (gen.BearerAuth, error) {
	if b == "" {
		return gen.BearerAuth{}, ogenerrors.ErrSkipClientSecurity
	}
	return gen.BearerAuth{Token: string(b)}, nil
}

// transport is below the generated client, and turns every answer that is no success into an error. The generated decoders would refuse a newer
// server's error code, lose a proxy's status, and leave bodies open.
type transport struct {
	http *http.Client
	opts *Options
}

// Do implements the generated client's HTTP interface.
func (t *transport) Do(r *http.Request) (*http.Response, error) {
	response, err := t.http.Do(r)
	if err != nil {
		if cause := r.Context().Err(); cause != nil {
			return nil, cause
		}
		if outer, ok := errors.AsType[*url.Error](err); ok { // its text would repeat the URL
			err = outer.Err
		}
		return nil, &UnreachableError{Addr: t.opts.Addr, Err: err}
	}
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if response.StatusCode < http.StatusMultipleChoices {
		if media != eventStream {
			response.Body = &boundedBody{ReadCloser: response.Body, left: t.opts.MaxEventBytes, addr: t.opts.Addr}
		}
		return response, nil
	}
	defer response.Body.Close()
	return nil, answered(response, media, t.opts.Addr)
}

// maxErrorBytes bounds what is read of an error's body. The contract's longest error has about 6 KiB.
const maxErrorBytes = 64 << 10

// answered turns an answer that is no success into an error.
func answered(response *http.Response, media, addr string) error {
	body, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
	if err != nil {
		return &UnreachableError{Addr: addr, Err: err}
	}
	var e envelope
	if media == "application/json" {
		err = json.Unmarshal(body, &e)
	}
	if media != "application/json" || err != nil || e.Code == "" {
		return &ProtocolError{Status: response.StatusCode, Err: errors.New("the answer is not the API's error envelope")}
	}
	typed := e.error()
	typed.Status = response.StatusCode
	typed.CorrelationID = response.Header.Get("X-Correlation-Id")
	if typed.RetryAfter == 0 {
		typed.RetryAfter = retryAfter(response.Header)
	}
	return typed
}

// retryAfter reads a Retry-After in seconds. It returns 0 if there is none.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(strings.TrimSpace(h.Get("Retry-After")), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// boundedBody fails a read beyond its bound, and marks the error of a broken connection as such.
type boundedBody struct {
	io.ReadCloser
	left int
	addr string
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	if err != nil && !errors.Is(err, io.EOF) {
		err = &UnreachableError{Addr: b.addr, Err: err}
	}
	return n, err
}
