// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// call is one request to the API.
type call struct {
	method  string
	path    []string // its parts, as they are before they are escaped
	query   url.Values
	header  http.Header
	body    []byte // JSON; nil: none
	patient bool   // it may wait before it answers
}

func get(path ...string) call { return call{method: http.MethodGet, path: path} }

// post has a body that was held to the contract before.
func post(body []byte, path ...string) call {
	return call{method: http.MethodPost, path: path, body: body}
}

func remove(path ...string) call { return call{method: http.MethodDelete, path: path} }

// waits lets a call wait for its answer as long as its context allows.
func (o call) waits() call {
	o.patient = true
	return o
}

// with adds a parameter of the query, unless it is empty.
func (o call) with(name, value string) call {
	if value != "" {
		if o.query == nil {
			o.query = url.Values{}
		}
		o.query.Set(name, value)
	}
	return o
}

// at is the path with its query.
func (o call) at() string {
	var at strings.Builder
	for _, part := range o.path {
		at.WriteString("/" + url.PathEscape(part))
	}
	if len(o.query) > 0 {
		at.WriteString("?" + o.query.Encode())
	}
	return at.String()
}

// send makes a call, and turns every answer that is no success into an error. The caller closes the body of a success. Where a server takes no connection, nothing of the call
// has reached it, and the next server gets it.
func (c *Client) send(ctx context.Context, o call) (*http.Response, error) {
	for tries := 1; ; tries++ {
		now := c.now.Load()
		response, err := c.sendTo(ctx, c.bases[now], o)
		if dial, ok := errors.AsType[*net.OpError](err); !ok || dial.Op != "dial" || ctx.Err() != nil {
			return response, err
		}
		c.now.CompareAndSwap(now, (now+1)%int64(len(c.bases))) // unless another call has gone on already
		if tries >= len(c.bases) {
			return response, err
		}
	}
}

func (c *Client) sendTo(ctx context.Context, base string, o call) (*http.Response, error) {
	at := base + o.at()
	var body io.Reader = http.NoBody
	if o.body != nil {
		body = bytes.NewReader(o.body)
	}
	request, err := http.NewRequestWithContext(ctx, o.method, at, body)
	if err != nil {
		return nil, &ProtocolError{Err: err}
	}
	maps.Copy(request.Header, o.header)
	if o.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.opts.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.opts.Token)
	}
	over := c.opts.HTTPClient
	if o.patient {
		over = c.patient
	}
	response, err := over.Do(request)
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if response.StatusCode < http.StatusMultipleChoices {
		return response, nil
	}
	defer response.Body.Close()
	return nil, c.refused(response)
}

// lost is the error of an answer that did not come, or not whole.
func (c *Client) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if outer, ok := errors.AsType[*url.Error](err); ok { // its text would repeat the URL
		err = outer.Err
	}
	return &UnreachableError{Addr: c.opts.Addr, Err: err}
}

// ask makes a call whose answer is JSON. Gen is the answer's type in gen, which holds it to the contract.
func ask[Plain, Gen any, P shape[Gen]](ctx context.Context, c *Client, o call) (*Plain, error) {
	response, err := c.send(ctx, o)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if kind := mediaType(response); kind != "application/json" {
		return nil, &ProtocolError{Err: fmt.Errorf("the answer is of the type %.80q, and not JSON", kind)}
	}
	text, err := c.read(ctx, response)
	if err != nil {
		return nil, err
	}
	out := new(Plain)
	if err := errors.Join(check[Gen, P](text), json.Unmarshal(text, out)); err != nil {
		return nil, &ProtocolError{Err: err}
	}
	return out, nil
}

// tell makes a call whose answer has no content.
func (c *Client) tell(ctx context.Context, o call) error {
	response, err := c.send(ctx, o)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		return &ProtocolError{Status: response.StatusCode, Err: errors.New("the answer was to have no content")}
	}
	return nil
}

// read reads an answer whole, up to Options.MaxEventBytes.
func (c *Client) read(ctx context.Context, response *http.Response) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(response.Body, int64(c.opts.MaxEventBytes)+1))
	switch {
	case err != nil:
		return nil, c.lost(ctx, err)
	case len(text) > c.opts.MaxEventBytes:
		return nil, &ProtocolError{Err: errTooLarge}
	}
	return text, nil
}

func mediaType(response *http.Response) string {
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	return kind
}

// maxErrorBytes bounds what is read of an error's body. The contract's longest error, that of /readyz, has a reason for each pool.
const maxErrorBytes = 1 << 20

// refused turns an answer that is no success into an error.
func (c *Client) refused(response *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
	if err != nil {
		return &UnreachableError{Addr: c.opts.Addr, Err: err}
	}
	e := &Error{}
	if mediaType(response) != "application/json" || json.Unmarshal(body, e) != nil || e.Code == "" {
		return &ProtocolError{Status: response.StatusCode, Err: errors.New("the answer is not the API's error envelope")}
	}
	e.Status = response.StatusCode
	e.CorrelationID = response.Header.Get("X-Correlation-Id")
	if e.RetryAfter == 0 {
		e.RetryAfter = retryAfter(response.Header)
	}
	return e
}

// retryAfter reads a Retry-After in seconds. It returns 0 if there is none.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(strings.TrimSpace(h.Get("Retry-After")), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
