// SPDX-License-Identifier: GPL-3.0-or-later

// Package sdk is a thin typed client of the llama-orch API: transport, event streams that resume, and typed errors, over
// the generated client in gen. It holds no prompts and no policy.
//
// A task is submitted, then its stream is read:
//
//	client, err := sdk.New(sdk.Options{Addr: "http://127.0.0.1:8080"})
//	...
//	admission, err := client.Submit(ctx, &gen.TaskRequest{ModelRef: "haiku", Prompt: gen.NewOptString("...")})
//	...
//	for event, err := range client.Stream(ctx, string(admission.TaskID), "") {
//		if err != nil {
//			return err // the stream could not be read
//		}
//		switch e := event.(type) {
//		case sdk.Token:
//			fmt.Print(e.Text)
//		case sdk.ErrorEvent:
//			return e.Err // the task ended without an answer
//		}
//	}
//
// Errors of every method are one of
//   - [*Error]: the server answered with its error envelope;
//   - [*UnreachableError]: no answer, or the connection broke and could not be made again;
//   - [*ProtocolError]: an answer that does not belong to this API, such as a proxy's page;
//   - [*VerifyError]: the stream's bytes are not what its ids or its receipt say;
//   - the context's error.
//
// The API's durations are whole milliseconds, in fields named *Ms or *MS. [Error.RetryAfter] is a time.Duration.
package sdk

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/llama-orch/llama-orch/gen"
)

// The defaults of Options.
const (
	DefaultReconnects     = 8
	DefaultReconnectDelay = 250 * time.Millisecond
	DefaultIdleTimeout    = time.Minute
	DefaultMaxEventBytes  = 64 << 20
)

// headerTimeout bounds the wait for an answer's first bytes. No operation takes that long before it answers, except for those that load models, and a
// submit in a burst of them; these wait as long as their context allows.
const headerTimeout = time.Minute

// Options of a Client. Only Addr is required.
type Options struct {
	Addr  string // base URL, http or https, without credentials, such as http://127.0.0.1:8080
	Token string // bearer token; empty sends none

	// HTTPClient carries the requests. It needs a Timeout of 0, since streams last. Default: a client of its own.
	HTTPClient *http.Client
	// Reconnects bounds the attempts to get a broken stream back, counted from the last numbered event. Negative: none. Default
	// DefaultReconnects.
	Reconnects int
	// ReconnectDelay is the mean wait before the first reconnect. It doubles each time, up to 30 times its value, with jitter. If the server
	// asks for a longer wait with Retry-After, the client waits for up to a minute; if the server asks for more, its error is returned.
	// Default DefaultReconnectDelay.
	ReconnectDelay time.Duration
	// OnReconnect, if set, is called before the wait for a reconnect, from the goroutine that reads the stream.
	OnReconnect func(cause error, wait time.Duration)
	// IdleTimeout is how long a stream may be silent before its connection counts as broken. Keep-alive comments break the silence. Negative:
	// for ever. Default DefaultIdleTimeout.
	IdleTimeout time.Duration
	// MaxEventBytes bounds one event of a stream, and the body of any other answer. Default DefaultMaxEventBytes.
	MaxEventBytes int
}

// Client talks to one server. Its methods may be called from several goroutines.
type Client struct {
	opts    Options
	api     *gen.Client
	patient *http.Client // for operations that may wait before they answer
	waiting *gen.Client  // over patient
	// sleep waits between reconnects; tests replace it.
	sleep func(context.Context, time.Duration) error
}

// New makes a client. It sends nothing. An error says what is wrong with the options.
func New(opts Options) (*Client, error) {
	base, err := url.Parse(opts.Addr)
	switch {
	case err != nil:
		return nil, errors.New("the server's address is not a URL: give one such as http://127.0.0.1:8080")
	case base.User != nil:
		return nil, errors.New("the server's address must not hold credentials: the token goes into Options.Token")
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return nil, fmt.Errorf("the server's address %q needs a scheme and a host, such as http://127.0.0.1:8080", opts.Addr)
	}
	if strings.ContainsFunc(opts.Token, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsGraphic(r) || r == ' ' }) {
		return nil, errors.New("the token has characters that a header cannot carry: check it for line feeds and spaces")
	}
	patient := opts.HTTPClient
	if opts.HTTPClient == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.ResponseHeaderTimeout = headerTimeout
		transport.DisableCompression = true // compression would hold tokens back
		opts.HTTPClient = &http.Client{Transport: transport}
		transport = transport.Clone()
		transport.ResponseHeaderTimeout = 0
		patient = &http.Client{Transport: transport}
	}
	if opts.Reconnects == 0 {
		opts.Reconnects = DefaultReconnects
	}
	if opts.ReconnectDelay <= 0 {
		opts.ReconnectDelay = DefaultReconnectDelay
	}
	if opts.IdleTimeout == 0 {
		opts.IdleTimeout = DefaultIdleTimeout
	}
	if opts.MaxEventBytes <= 0 {
		opts.MaxEventBytes = DefaultMaxEventBytes
	}
	c := &Client{opts: opts, patient: patient, sleep: sleep}
	if c.api, err = c.generated(opts.HTTPClient); err != nil {
		return nil, err
	}
	if c.waiting, err = c.generated(patient); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Client) generated(over *http.Client) (*gen.Client, error) {
	api, err := gen.NewClient(c.opts.Addr, bearer(c.opts.Token), gen.WithClient(&transport{http: over, opts: &c.opts}))
	if err != nil {
		return nil, fmt.Errorf("making the generated client: %w", err)
	}
	return api, nil
}

// Close closes idle connections. Streams in progress end with their context.
func (c *Client) Close() {
	c.opts.HTTPClient.CloseIdleConnections()
	c.patient.CloseIdleConnections()
}

// Submit submits a task and returns its admission: place in line, prediction, the seed. With a TaskID it may be repeated: the same body gets the
// same admission (LO-101), another body gets the Error CONFLICT.
func (c *Client) Submit(ctx context.Context, request *gen.TaskRequest) (*gen.Admission, error) {
	answer, err := c.waiting.CreateTask(ctx, request)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// Get returns one task.
func (c *Client) Get(ctx context.Context, id string) (*gen.TaskStatus, error) {
	answer, err := c.api.GetTask(ctx, gen.GetTaskParams{ID: gen.TaskID(id)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// List returns recent tasks, newest first: those in the given state, or all if it is empty. It returns at most limit tasks; if limit is 0, the
// server chooses.
func (c *Client) List(ctx context.Context, state gen.TaskState, limit int) ([]gen.TaskStatus, error) {
	var params gen.ListTasksParams
	if state != "" {
		params.State.SetTo(state)
	}
	if limit != 0 {
		params.Limit.SetTo(limit)
	}
	answer, err := c.api.ListTasks(ctx, params)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return answer.Response.Tasks, nil
}

// Cancel cancels a task. When it returns, the task's log is sealed at LastEventID and its outcome is final (ORCH-3026). If the task had ended
// before, it returns the recorded outcome.
func (c *Client) Cancel(ctx context.Context, id string) (*gen.CancelResult, error) {
	answer, err := c.api.CancelTask(ctx, gen.CancelTaskParams{ID: gen.TaskID(id)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// Delete deletes a task that has ended: its prompt, its answer, their digests and its proof bundle (LO-832). It may be repeated. The Error is
// CONFLICT while the task has not ended. Afterwards whoever asks for the task gets the Error DELETED.
func (c *Client) Delete(ctx context.Context, id string) error {
	if _, err := c.api.DeleteTask(ctx, gen.DeleteTaskParams{ID: gen.TaskID(id)}); err != nil {
		return typed(ctx, err)
	}
	return nil
}

// Pools returns the pools in the order of the server's configuration.
func (c *Client) Pools(ctx context.Context) ([]gen.Pool, error) {
	answer, err := c.api.ListPools(ctx)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return answer.Response.Pools, nil
}

// PoolHealth returns a pool with its replicas and GPUs.
func (c *Client) PoolHealth(ctx context.Context, id string) (*gen.PoolHealth, error) {
	answer, err := c.api.GetPoolHealth(ctx, gen.GetPoolHealthParams{ID: gen.PoolID(id)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// Capabilities says what the server can do (ORCH-3095).
func (c *Client) Capabilities(ctx context.Context) (*gen.Capabilities, error) {
	answer, err := c.api.GetCapabilities(ctx)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}
