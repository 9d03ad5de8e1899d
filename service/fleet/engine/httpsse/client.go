// SPDX-License-Identifier: GPL-3.0-or-later

package httpsse

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/spare"
	"github.com/llama-orch/llama-orch/service/task"
)

// Bounds of what an engine may answer.
const (
	maxAnswer = 64 << 20 // embeddings of many texts are the largest
	maxEvent  = 8 << 20  // the final frame of some engines echoes the prompt
	maxError  = 64 << 10
	maxShown  = 500 // of an error, in a message
	maxName   = 160 // of a model
)

// Options of a client.
type Options struct {
	BaseURL string      // without a slash at the end, such as http://127.0.0.1:9700
	APIKey  string      // sent as a bearer token; empty: none
	Engine  string      // names the engine in errors
	Product string      // what people call the program that should answer; empty: the engine's name
	TLS     *tls.Config // nil: the system's authorities
	// Network is how the engine is reached. Nil: directly, whatever proxies the environment names.
	Network *Network
	// Retry is how often a request is sent again where the engine has no room for it yet; nil: never.
	Retry *Retry
}

// Network is how an engine is reached.
type Network struct {
	Transport http.RoundTripper // of requests
	// Dial makes the connection of a stream, to which the client adds the TLS.
	Dial func(ctx context.Context, to *url.URL) (net.Conn, error)
	// Ask is asked before a stream that goes over a connection that Dial made for another; nil: nobody is.
	Ask func(ctx context.Context, to *url.URL) error
}

// Client talks to one replica. Its methods may be called from several goroutines.
type Client struct {
	base   string
	auth   string
	engine string
	answer string // who should
	http   *http.Client
	secure *tls.Config
	dial   func(ctx context.Context, to *url.URL) (net.Conn, error)
	ask    func(ctx context.Context, to *url.URL) error
	retry  *Retry
	keep   keep // of streams' connections
}

// New makes a client. Close it to drop its idle connections.
func New(o Options) *Client {
	network := o.Network
	if network == nil {
		network = &Network{Dial: dial, Transport: Direct(o.TLS)}
	}
	c := &Client{base: strings.TrimRight(o.BaseURL, "/"), engine: o.Engine, answer: cmp.Or(o.Product, o.Engine), secure: o.TLS, retry: o.Retry, dial: network.Dial, ask: network.Ask, http: &http.Client{
		Transport: network.Transport,
		// A redirect would carry the key elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if c.ask == nil {
		c.ask = func(context.Context, *url.URL) error { return nil }
	}
	if o.APIKey != "" {
		c.auth = "Bearer " + o.APIKey
	}
	return c
}

// Direct is how an engine is reached that no policy is asked about. TLS may be nil. Close its idle connections at the end.
func Direct(secure *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:         connect, // and no proxy, see dial
		TLSClientConfig:     secure.Clone(),
		TLSHandshakeTimeout: handshakeTimeout,
		MaxIdleConnsPerHost: 64,
		// llama-server closes after 5 s without a request; being first avoids sending into a closing connection.
		IdleConnTimeout:    3 * time.Second,
		DisableCompression: true,
	}
}

// tls is the configuration for a stream's connection.
func (c *Client) tls(host string) *tls.Config {
	config := c.secure.Clone()
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	config.ServerName = cmp.Or(config.ServerName, host)
	return config
}

// Close drops idle connections.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	c.keep.close()
}

// Get decodes the JSON answer of a GET into out. Nil: whatever it is, it will do.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	text, err := c.get(ctx, path)
	if err != nil || out == nil {
		return err
	}
	return c.decode(path, text, out)
}

// Text is the body of the answer of a GET, whatever it holds.
func (c *Client) Text(ctx context.Context, path string) ([]byte, error) { return c.get(ctx, path) }

// Post sends body as JSON and decodes the JSON answer into out. It uses the connections of streams: every task asks its engine something before
// its stream, and net/http's transport would take four goroutine switches for that.
func (c *Client) Post(ctx context.Context, path string, body, out any) error {
	s, err := c.send(ctx, path, body)
	if err != nil {
		return err
	}
	defer s.Close()
	text, err := s.whole(maxAnswer)
	if err := c.unread(ctx, path, err); err != nil {
		return err
	}
	return c.decode(path, text, out)
}

func (c *Client) decode(path string, text []byte, out any) error {
	if err := json.Unmarshal(text, out); err != nil {
		return c.Reset(fmt.Errorf("%s did not answer with the JSON expected: %w", path, err))
	}
	return nil
}

// Identify is a Get of a path by which an engine is known: what answers it otherwise is another program, or there is none.
func (c *Client) Identify(ctx context.Context, path string, out any) error {
	err := c.Get(ctx, path, out)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	if errors.As(err, &syntax) || errors.As(err, &kind) {
		return c.Stranger(fmt.Errorf("%s did not answer with the JSON expected", path))
	}
	return err
}

// Alive is a GET of which the answer is not looked at: any that is no error will do.
func (c *Client) Alive(ctx context.Context, path string) error {
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.Broken(ctx, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return c.accepted(resp)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxError) // so that the connection can be used again
	return resp.Body.Close()
}

// StrangerError says that what answers at an engine's address is another program. That does not pass by itself.
type StrangerError struct {
	Base    string // the address
	Product string // what should answer there
	Err     error  // how it is known
}

func (e *StrangerError) Error() string {
	return fmt.Sprintf("what answers at %s is no %s: %v", e.Base, e.Product, e.Err)
}

func (e *StrangerError) Unwrap() error { return e.Err }

// UnservedError says that an engine serves other models than the pool's. That does not pass by itself.
type UnservedError struct {
	Base   string // the engine's address
	Model  string
	Served []string
}

func (e *UnservedError) Error() string {
	served := "none"
	if len(e.Served) > 0 {
		served = strings.Join(e.Served, ", ")
	}
	return fmt.Sprintf("the engine at %s does not serve the model %s; it serves %s", e.Base, task.Clip(e.Model, maxName), task.Clip(served, maxShown))
}

// Unserved is WORKER_RESET because of an UnservedError. It is not retriable.
func (c *Client) Unserved(model string, served []string) error {
	e := task.Errorf(task.WorkerReset, "the pool's engine does not serve the pool's model; sending the task again does not help, tell whoever runs this server").
		Because(&UnservedError{Base: c.base, Model: model, Served: served})
	e.Engine = c.engine
	return e
}

// Stranger is WORKER_RESET because of a StrangerError. It is not retriable.
func (c *Client) Stranger(err error) error {
	e := task.Errorf(task.WorkerReset, "what answers at the address of the pool's engine is no %s; sending the task again does not help, tell whoever runs this server", c.answer).
		Because(&StrangerError{Base: c.base, Product: c.answer, Err: err})
	e.Engine = c.engine
	return e
}

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.Broken(ctx, err)
	}
	if err := c.accepted(resp); err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = errTooLarge
	}
	return text, c.unread(ctx, path, err)
}

// unread maps the error of an answer that could not be read.
func (c *Client) unread(ctx context.Context, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTooLarge):
		return c.Reset(fmt.Errorf("%s answered more than %d bytes", path, maxAnswer))
	}
	return c.Broken(ctx, err)
}

func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("making the request to the engine: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.auth != "" {
		req.Header.Set("Authorization", c.auth)
	}
	if at := task.Traceparent(ctx); at != "" {
		req.Header.Set("Traceparent", at)
	}
	return req, nil
}

// accepted returns nil for an answer 200. It closes any other, and returns what it says.
func (c *Client) accepted(resp *http.Response) error {
	encoding := resp.Header.Get("Content-Encoding")
	if resp.StatusCode == http.StatusOK && (encoding == "" || encoding == "identity") {
		return nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return c.Reset(fmt.Errorf("the engine's answer is compressed (%s), which nobody asked for", task.Clip(encoding, maxShown)))
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
	return c.refused(&StatusError{Status: resp.StatusCode, Message: message(text), Body: text, After: retryAfter(resp.Header)})
}

// Refused maps an engine's error answer. What the engine says of the request goes to the client. Everything else is the worker's trouble,
// and another try may help, unless the answer shows that this is no engine.
func (c *Client) Refused(status int, body []byte) error {
	return c.refused(&StatusError{Status: status, Message: message(body), Body: body})
}

func (c *Client) refused(cause *StatusError) error {
	switch cause.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusNotImplemented:
		e := task.Errorf(task.InvalidParams, "the engine refused the request: %s", cause.Message).Because(cause)
		e.Engine = c.engine
		return e
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return c.Stranger(cause) // an engine has the paths that it is asked for
	}
	return c.Reset(cause)
}

// StatusError is an engine's answer other than 200.
type StatusError struct {
	Status  int
	Message string
	Body    []byte        // at most 64 KiB of it
	After   time.Duration // in which the engine wants to be asked again; 0: it says nothing of it
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the engine answered %d: %s", e.Status, e.Message)
}

// Broken maps the error of a connection: to the cause of ctx's end, if ctx has ended, else to WORKER_RESET. What the policy says stands.
func (c *Client) Broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("the call of the engine was ended: %w", context.Cause(ctx))
	}
	if denied, ok := errors.AsType[*task.Error](err); ok && denied.Code == task.PolicyDenied {
		denied.Engine = c.engine
		return denied
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return c.Reset(err)
}

// Reset is WORKER_RESET, retriable, because of err. A shortage of our own is no failure of the engine (LO-839).
func (c *Client) Reset(err error) error {
	e := task.Errorf(task.WorkerReset, "the engine failed or its connection broke; send the task again").Because(err).Retry(0)
	if status, ok := errors.AsType[*StatusError](err); ok {
		e = e.Retry(status.After)
	}
	if spare.Short(err) {
		e = task.Errorf(task.WorkerReset, "the orchestrator has not enough file descriptors or memory to reach the engine; send the task again later").Because(err).Retry(time.Second)
	}
	e.Engine = c.engine
	return e
}

// message finds the human part of an error body: llama-server's and OpenAI's {"error": {"message"}}, TGI's and Triton's
// {"error": "..."}, FastAPI's {"detail"}.
func message(body []byte) string {
	var b struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
		Detail  json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(body, &b) != nil {
		return short(string(body))
	}
	for _, raw := range []json.RawMessage{b.Error, b.Detail} {
		var object struct {
			Message string `json:"message"`
		}
		var text string
		if json.Unmarshal(raw, &object) == nil && object.Message != "" {
			return short(object.Message)
		}
		if json.Unmarshal(raw, &text) == nil && text != "" {
			return short(text)
		}
	}
	if b.Message != "" {
		return short(b.Message)
	}
	return short(string(body))
}

// short cuts what an engine says of an error to the length of a message.
func short(s string) string {
	s = strings.TrimSpace(strings.ToValidUTF8(s, "\uFFFD"))
	if s == "" {
		return "(no message)"
	}
	return task.Clip(s, maxShown)
}
